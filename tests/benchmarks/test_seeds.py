"""Several seeds in one Markdown table, and the differences between models by hand."""

import json

import pytest

from benchmarks.seeds import COMPARISONS, compare, main, over_seeds, value_of
from medscope_jax.config import load_config
from medscope_jax.errors import UserError
from medscope_jax.training.workdir import open_workdir


def row(model, split, task, seed, miou, accuracy=0.0, count=10, decoding="greedy"):
    names = ("recall_0.3", "recall_0.5", "recall_0.7")
    return {
        "model": model,
        "split": split,
        "task": task,
        "decoding": decoding,
        "seed": seed,
        "miou": miou,
        "accuracy": accuracy,
        "count": count,
        **dict.fromkeys(names, miou),
    }


def test_over_seeds():
    kind = ("rl", "ophthalmic", "vqa")
    rows = [row(*kind, seed, miou) for seed, miou in ((0, 1.0), (1, 0.5), (2, 0.75))]
    rows[0] |= {"unscored": 2, "bleu": 1.0}
    (merged,) = over_seeds(rows)
    assert merged["seeds"] == [0, 1, 2] and (merged["count"], merged["unscored"]) == (30, 2)
    assert merged["miou"] == pytest.approx(0.75) and merged["miou_range"] == [0.5, 1.0]
    assert (merged["bleu"], merged["bleu_range"]) == (None, None)


def results(seed, gain):
    """Results of one run: rl is better than sft by gain, in mIoU."""
    rows = []
    for decoding in ("greedy", "sampled"):
        for model, miou in (("passive", 0.2), ("sft", 0.4), ("rl", 0.4 + gain)):
            kind = {"seed": seed, "miou": miou, "decoding": decoding}
            rows += [
                row(model, "ophthalmic", "grounding", **kind),
                row(model, "laparoscopic", "grounding", **kind),
                row(model, "ophthalmic", "vqa", accuracy=miou, count=30, **kind),
                row(model, "endoscopic", "vqa", accuracy=0.0, count=10, **kind),
            ]
    return rows


@pytest.fixture
def folders(tmp_path):
    """Two finished runs of different seeds."""
    made = []
    for seed, gain in ((0, 0.1), (1, 0.3)):
        config = load_config("tpu_configs/cpu.py:smoke", [f"seed={seed}"])
        with open_workdir(tmp_path / str(seed), config) as workdir:
            workdir.results.write_text(json.dumps(results(seed, gain)))
        made.append(str(workdir.path))
    return made


def test_each_question_counts_once():
    rows = results(0, 0.1)
    assert value_of(rows, "sft", "greedy", True, "vqa", "accuracy") == pytest.approx(0.3)
    assert value_of(rows, "sft", "greedy", False, "vqa", "accuracy") is None
    assert value_of(rows, "sft", "greedy", False, "grounding", "miou") == pytest.approx(0.4)


def test_differences_seed_by_seed():
    runs = [results(0, 0.1), results(1, 0.3)]
    found = {row["comparison"]: row for row in compare(runs, "greedy")}
    assert len(found) == len(COMPARISONS)
    gain = found["in-domain grounding mIoU, rl - sft"]
    assert gain["mean"] == pytest.approx(20) and gain["unit"] == "points"
    assert gain["range"] == pytest.approx([10, 30]) and gain["by_run"] == pytest.approx([10, 30])
    assert found["in-domain grounding R@.5, rl / passive"]["range"] == pytest.approx([2.5, 3.5])
    assert found["out-of-domain VQA accuracy, rl - sft"]["mean"] is None


def test_markdown(folders, tmp_path, capsys):
    main([*folders, "--json", str(tmp_path / "seeds.json")])
    text = capsys.readouterr().out
    assert "mean of 2 seeds (0, 1)" in text
    table = [line for line in text.splitlines() if line.startswith("| rl |")]
    assert table[0].startswith("| rl | 60.0 / 60.0 / 60.0 / 60.0<br>[50.0, 70.0] / ")
    assert "| +20.0 points [+10.0, +30.0] |" in text
    written = json.loads((tmp_path / "seeds.json").read_text())
    assert len(written["comparisons"]) == 2 * len(COMPARISONS)
    assert written["rows"][0]["seeds"] == [0, 1]


def test_runs_that_are_no_seeds_of_one_config(folders, tmp_path):
    with pytest.raises(UserError, match="have the same seed, 0"):
        main([folders[0], folders[0]])
    changed = load_config("tpu_configs/cpu.py:smoke", ["seed=2", "rl.group_size=2"])
    with open_workdir(tmp_path / "2", changed) as other:
        pass
    with pytest.raises(UserError, match="no results.json yet"):
        main([folders[0], str(other.path)])
    other.results.write_text(json.dumps(results(2, 0.1)))
    with pytest.raises(UserError, match="rl.group_size is 2, not 4"):
        main([folders[0], str(other.path)])
