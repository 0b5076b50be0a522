"""A run on somebody's own videos: built by tfds_builders.build, trained on, evaluated."""

import json
from types import SimpleNamespace

import cv2
import jax
import numpy as np
import pytest

from medscope_jax import train
from medscope_jax.config import load_config
from medscope_jax.dialogue import Row
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import UserError
from medscope_jax.training import sft
from medscope_jax.training.config_checks import check_config
from tfds_builders.build import build

CHANGES = {
    "video.fps": 2.0,
    "dialogue.length": 700,
    "dialogue.clip_length": 500,
    "dialogue.vocab_size": 1024,
}
CALL = (
    "<think>I look.</think><tool_call>"
    '{"name": "crop_video", "arguments": {"video_path": "video.mp4", "start_time": %.1f, '
    '"end_time": %.1f}}</tool_call>'
)
END = "<think>I see.</think><answer>[%.1f, %.1f]</answer>"


def rows():
    """Two videos to learn from and one to be asked about; no part cot, no part passive."""
    for video in ("a", "b"):
        for number in range(4):
            start, end = float(number), number + 1.5
            span = {"spans": [[start, end]]}
            question = f"When does change {number} of {video} take place?"
            known = {"video": f"{video}.mp4", "split": "train", "question": question}
            known |= {"task": "grounding", "answer": f"[{start}, {end}]"}
            turns = [CALL % (start, end), END % (start, end)]
            yield known | {"part": "qa", "window": [start, end]}
            yield known | {"part": "vcot", "turns": turns} | span
            yield known | {"part": "rl"} | span
    for number in range(2):
        span = {"spans": [[number, number + 2.0]], "answer": f"[{number}.0, {number + 2}.0]"}
        known = {"video": "c.mp4", "split": "test", "part": "eval", "task": "grounding"}
        yield known | {"question": f"When does change {number} of c take place?"} | span


def write_video(path, seed):
    random = np.random.default_rng(seed)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 4.0, (112, 56))
    for _ in range(32):  # eight seconds
        small = random.integers(0, 255, (2, 4, 3), np.uint8)
        writer.write(cv2.resize(small, (112, 56), interpolation=cv2.INTER_NEAREST))
    writer.release()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A built suite; tests only read it."""
    root = tmp_path_factory.mktemp("own")
    manual = root / "manual"
    (manual / "videos").mkdir(parents=True)
    for seed, name in enumerate("abc"):
        write_video(manual / "videos" / f"{name}.mp4", seed)
    lines = [json.dumps(row) for row in rows()]
    (manual / "rows.jsonl").write_text("\n".join(lines) + "\n")
    video = {"fps": 2.0, "height": 28, "width": 56, "max_frames": 60}
    source = {"name": "own", "reader": "plain", "annotations": "rows.jsonl", "videos": "videos"}
    (manual / "suite.json").write_text(json.dumps({"video": video, "sources": [source]}))
    build("clinvideo_frames", manual, root / "data")
    build("clinvideo_suite", manual, root / "data")
    return root / "data"


def config_of(micro_arguments, data_dir, **changes):
    spec, *overrides = (argument.removeprefix("--config") for argument in micro_arguments)
    given = {**CHANGES, "suite.data_dir": data_dir, **changes}
    overrides = [override.removeprefix(".") for override in overrides]
    overrides += [f"{key}={value}" for key, value in given.items()]
    return load_config(spec.removeprefix("="), overrides)


@pytest.mark.slow
def test_train_and_evaluate(data_dir, micro_arguments, tmp_path, capsys):
    given = {**CHANGES, "suite.data_dir": data_dir}
    arguments = micro_arguments + [f"--config.{key}={value}" for key, value in given.items()]
    train.main([*arguments, "--workdir", str(tmp_path / "run")])
    assert "no baseline that cannot look" in capsys.readouterr().out
    assert not (tmp_path / "run" / "suite").exists()
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {row["model"] for row in found} == {"sft", "rl"}
    assert {(row["split"], row["task"]) for row in found} == {("own", "grounding")}
    assert {row["count"] for row in found if row["decoding"] == "greedy"} == {2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video.height": 56}, "config.video.height is 56, but .* was built with 28"),
        ({"video.fps": 1.0}, "config.video.fps is 1.0, but .* was built with 2.0"),
        ({"video.min_frames": 4}, "config.video.min_frames is 4, but .* was built with 8"),
        ({"video.max_frames": 10}, "has a video of 16 bank frames"),
        ({"dialogue.length": 90}, "config.dialogue.length: "),
        ({"suite.data_dir": "nowhere"}, "nowhere has no split train of cap or qa"),
    ],
)
def test_what_does_not_go_together(data_dir, micro_arguments, changes, message):
    config = config_of(micro_arguments, data_dir, **changes)
    with pytest.raises(UserError, match=message):
        check_config(config, make_mesh({}, jax.devices()[:1]))


def test_records_that_do_not_fit_are_listed(tmp_path, monkeypatch, capsys):
    """Left out with their reasons; the rest is trained on."""
    records = [{"id": f"r{number}", "words": number} for number in (1, 900, 2)]
    monkeypatch.setattr(sft, "_records", lambda run, name: records)

    def lay_out(record):
        if record["words"] > 100:
            raise UserError("an episode of 900 tokens does not fit")
        return Row([0] * record["words"], [], [], [])

    run = SimpleNamespace(folder=tmp_path)
    kept, laid_out = sft._that_fit(run, "cold_start", lay_out)
    assert [record["id"] for record in kept] == ["r1", "r2"]
    assert [len(row.tokens) for row in laid_out] == [1, 2]
    assert "cold_start leaves out 1 of 3 records" in capsys.readouterr().out
    found = json.loads((tmp_path / "left_out_cold_start.json").read_text())
    assert found == [{"id": "r900", "reason": "an episode of 900 tokens does not fit"}]
