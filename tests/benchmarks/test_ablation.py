"""The ablation's variants, and one of them from a finished run's cold start to its table."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import ablation
from medscope_jax.config import ConfigError, load_config
from medscope_jax.training.workdir import differences, read_workdir

CPU = Path(__file__).resolve().parents[2] / "tpu_configs" / "cpu.py"


def test_each_variant_changes_what_it_says():
    config = load_config(str(CPU))
    for variant, changes in ablation.VARIANTS.items():
        changed = differences(config, ablation.variant_config(config, variant))
        assert {key for key, _, _ in changed} == set(changes)


def test_change_against_full():
    kind = {"task": "grounding", "decoding": "greedy", "split": "laparoscopic", "count": 4}
    rows = [
        kind | {"model": "full", "miou": 0.5, "recall_0.5": 0.0},
        kind | {"model": "no_evidence", "miou": 0.4, "recall_0.5": 0.1},
    ]
    found = {(r["metric"], r["in_domain"]): r for r in ablation.compare(rows, ["no_evidence"])}
    assert found["miou", False]["change"] == pytest.approx(-0.2)
    assert found["recall_0.5", False]["change"] is None  # of nothing
    assert found["miou", True]["value"] is None


def test_unknown_variant(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'no_evidence'"):
        ablation.main(["--workdir", str(tmp_path), "--variants", "full,no_evidense"])


@pytest.mark.slow
def test_stage_three_again_from_the_cold_start(micro_run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(micro_run, folder)
    arguments = ["--workdir", str(folder), "--variants", "full,no_evidence"]
    arguments += ["--json", str(tmp_path / "ablation.json")]
    ablation.main(arguments)
    path = folder / "ablation" / "no_evidence"
    _, config = read_workdir(path)
    assert config.reward.evidence_weight == 0 and config.advantage.mode == "none"
    assert (path / "suite").is_symlink() and (path / "metrics.jsonl").read_text()
    # The run's own model is the full variant: nothing is trained twice.
    assert not (folder / "ablation" / "full" / "metrics.jsonl").exists()
    rows = json.loads((tmp_path / "ablation.json").read_text())["rows"]
    assert {row["model"] for row in rows} == {"sft", "full", "no_evidence"}
    own = [r for r in json.loads((folder / "results.json").read_text()) if r["model"] == "rl"]
    assert [r["miou"] for r in rows if r["model"] == "full"] == [r["miou"] for r in own]
    before = path.joinpath("results.json").stat().st_mtime_ns
    ablation.main(arguments)
    assert path.joinpath("results.json").stat().st_mtime_ns == before
