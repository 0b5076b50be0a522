"""A whole run of a built suite on two processes, packed: one process's numbers, written once."""

import json

import pytest

from medscope_jax.training.metrics_log import read_metrics
from tests.data import suite_cases
from tests.distributed.process_cases import end_of, output_of, start_processes
from tests.training.metrics_cases import without_timing
from tfds_builders.build import build

# test_multihost.py has the invariant, on phantoms: quicker.
pytestmark = pytest.mark.slow
COMMON = {"device.count": 2, "mesh.data": 2, "log.checkpoint_every": 1}
COMMON |= {"video.stored_bank": "float32", "dialogue.packed": True}
COMMON |= {"dialogue.length": 700, "dialogue.clip_length": 500}


def rows():
    """Those of suite_cases, and some for the stages that they leave out."""
    yield from suite_cases.rows()
    for number in range(6):
        span = [number / 2, number / 2 + 1.5]
        known = {"video": f"{'ab'[number % 2]}.mp4", "split": "train", "task": "grounding"}
        known |= {"question": f"When is event {number}?", "spans": [span]}
        for part in ("cot", "passive"):
            yield known | {"part": part, "turns": [suite_cases.END % tuple(span)]}


def built(root):
    """The keys of a run on a suite that is built here."""
    suite_cases.write_manual(root / "manual")
    lines = [json.dumps(row) for row in rows()]
    (root / "manual" / "rows.jsonl").write_text("\n".join(lines) + "\n")
    build("clinvideo_suite", root / "manual", root / "data", quiet=True)
    changes = {f"video.{key}": value for key, value in suite_cases.VIDEO.items()}
    return COMMON | changes | {"suite.data_dir": root / "data"}


def run(count, folder, arguments):
    """Trains as `count` processes, two devices in all; it must succeed."""
    program, cache = ["medscope_jax.train", *arguments], folder.parent / "compiled"
    processes = start_processes(count, program, folder, devices=2 // count, cache=cache)
    assert end_of(processes, folder, 1200) == [0] * count, output_of(folder, count - 1)[-3000:]


def log_of(folder):
    return without_timing(read_metrics(folder / "run" / "metrics.jsonl"))


@pytest.fixture
def finished(tmp_path, micro_arguments):
    """The folders of two runs of one config: on two processes, and on one."""
    changed = [f"--config.{key}={value}" for key, value in built(tmp_path).items()]
    folders = tmp_path / "2", tmp_path / "1"
    for folder, count in zip(folders, (2, 1), strict=True):
        folder.mkdir()
        run(count, folder, [*micro_arguments, *changed, "--workdir", folder / "run"])
    return folders


def test_two_processes_run_as_one(finished):
    """Every number that is logged, and the tables."""
    two, one = finished
    logs = log_of(two), log_of(one)
    stages = [(line["stage"], line["step"]) for line in logs[1]]
    assert [(line["stage"], line["step"]) for line in logs[0]] == stages
    assert [name for name, _ in stages if name != "evaluation"] == (
        ["warm_up"] * 2 + ["passive"] * 2 + ["cold_start"] * 2 + ["ga_grpo"]
    )
    for found, wanted in zip(*logs, strict=True):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            if not isinstance(value, str):  # which judge was asked
                value = pytest.approx(value, rel=1e-3, abs=1e-3)
            assert found[name] == value, (name, found, wanted)
    tables = [path.name for path in (one / "run").glob("*.json") if path.name != "config.json"]
    assert "results.json" in tables
    for name in tables:
        found, wanted = (json.loads((path / "run" / name).read_text()) for path in finished)
        assert found == wanted and wanted
    assert "done in" in output_of(two) and "done in" not in output_of(two, 1)
