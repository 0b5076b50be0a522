"""Both suites answer the same questions alike; and a run on somebody's own videos."""

import json
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from medscope_jax import train
from medscope_jax.config import load_config
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.data.open_suite import open_suite
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import UserError
from medscope_jax.parts import PARTS, SPLITS, SPLITS_OF_PART
from medscope_jax.phantom.suite_config import config_to_json
from medscope_jax.training import config_checks
from medscope_jax.training.config_checks import check_config
from medscope_jax.video import Video
from tests.data import suite_cases as cases

CHANGES = {
    "video.fps": 2.0,
    "dialogue.length": 700,
    "dialogue.clip_length": 500,
    "dialogue.vocab_size": 1024,
}


def opened(data_dir, workdir):
    """open_suite with what it looks at of a config: cases.TINY's or cases.VIDEO's."""
    section = config_to_json(cases.TINY)
    section.pop("teacher")  # which a run's config leaves as it is
    shared = ("bank_fps", "frame_height", "frame_width", "preview_frames", "window_frames")
    fps, height, width, preview, window = (section.pop(key) for key in shared)
    video = {"fps": fps, "height": height, "width": width, "max_frames": 240}
    video |= cases.VIDEO if data_dir else {}
    config = {
        "suite": {**section, "data_dir": str(data_dir or "")},
        "video": {**video, "min_frames": 8, "native_pairs": False},
        "dialogue": {"preview_frames": preview, "window_frames": window},
    }
    config = ConfigDict(config)
    return open_suite(config, Path(workdir)), config.video


@pytest.fixture(params=["phantom", "clinvideo"])
def suite_and_video(request, data_dir, phantom_workdir):
    """Each of the two suites, and the video section of its config."""
    return opened(data_dir if request.param == "clinvideo" else None, phantom_workdir)


@pytest.fixture
def suite(suite_and_video):
    return suite_and_video[0]


def there(suite):
    return [(part, split) for part in PARTS for split in suite.splits(part)]


def test_parts_and_splits(suite):
    assert {("qa", "train"), ("vcot", "train"), ("rl", "train"), ("eval", "test")} <= {
        *there(suite)
    }
    for part in PARTS:
        splits = suite.splits(part)
        assert [split for split in SPLITS_OF_PART[part] if split in splits] == list(splits)
    assert suite.splits("movies") == ()


def test_records_by_row(suite):
    for part, split in there(suite):
        rows, outlines = suite.records(part, split), suite.outlines(split)
        found = list(rows)
        assert len(rows) == len(found) > 0
        assert rows[-1]["id"] == found[-1]["id"] and rows[0]["id"] == found[0]["id"]
        assert len({record["id"] for record in found}) == len(found)
        for record in found:
            assert (record["part"], record["split"]) == (part, split)
            outline = outlines[record["video"]]
            assert record["source"] == outline.source
            assert record["duration"] == np.float32(outline.duration)
            assert len(record["evidence_mask"]) == len(outline.times)
        with pytest.raises(IndexError):
            rows[len(rows)]
        assert pickle.loads(pickle.dumps(rows))[0]["id"] == found[0]["id"]


def test_records_of_both_are_of_one_kind(data_dir, phantom_workdir):
    suites = [opened(folder, phantom_workdir)[0] for folder in (None, data_dir)]
    for part, split in there(suites[1]):
        drawn, built = (suite.records(part, split)[0] for suite in suites)
        assert built.keys() - drawn.keys() == {"messages"} and not drawn.keys() - built.keys()
        for name, value in drawn.items():
            assert type(value) is type(built[name]), name
            assert getattr(value, "dtype", None) == getattr(built[name], "dtype", None), name
            assert np.ndim(value) == np.ndim(built[name]) or isinstance(value, list), name


def test_videos_by_row_are_those_outlined(suite):
    for split in SPLITS:
        outlines = suite.outlines(split)
        if not outlines:  # of the data folder's, none validates
            continue
        videos = suite.videos(split)
        assert len(videos) == len(outlines)
        for video, outline in zip(videos, outlines.values(), strict=True):
            assert isinstance(video, Video) and isinstance(video.notes, tuple)
            assert video.times.dtype == outline.times.dtype == np.float64
            np.testing.assert_allclose(video.times, outline.times)
            assert type(video.duration) is type(outline.duration) is float
            assert video.duration == outline.duration
            assert video.frames.shape == (len(video.times), 28, 56, 3)
            assert video.frames.dtype == np.uint8 and len(video.frames) == len(video.times)
            whole = np.asarray(video.frames)
            assert whole.dtype == np.uint8 and whole.std() > 0
            np.testing.assert_array_equal(video.frames[3], whole[3])
            np.testing.assert_array_equal(video.frames[1:4], whole[1:4])
            np.testing.assert_array_equal(video.frames[[5, 2]], whole[[5, 2]])
        row = pickle.loads(pickle.dumps(videos))[-1]
        np.testing.assert_array_equal(np.asarray(row.frames), whole)
    assert any(map(suite.outlines, SPLITS)) and suite.outlines("dev") == {}


def test_texts_and_samples_are_of_training_records(suite):
    texts, outlines = list(suite.texts()), suite.outlines("train")
    assert all(isinstance(text, str) for text in texts)
    for part in ("qa", "vcot"):
        records = {record["id"]: record for record in suite.records(part, "train")}
        samples = list(suite.samples(part, 2))
        assert len(samples) >= 2
        for record, outline in samples:
            assert record["question"] == records[record["id"]]["question"]
            assert record["question"] in texts and record["answer"] in texts
            np.testing.assert_array_equal(outline.times, outlines[record["video"]].times)


def test_what_a_run_can_be_made_of(suite_and_video):
    suite, video = suite_and_video
    suite.check(video)
    for key, value in (("fps", 3.0), ("max_frames", 10)):
        changed = ConfigDict(video.to_dict() | {key: value})
        with pytest.raises(UserError, match=f"config.video.{key} is {value}"):
            suite.check(changed)
    frames = max(
        len(outline.times) for split in SPLITS for outline in suite.outlines(split).values()
    )
    half = video.to_dict() | {"max_frames": -(-frames // 2), "native_pairs": True}
    suite.check(ConfigDict(half))  # a pair is a bank frame
    with pytest.raises(UserError, match="max_frames"):
        suite.check(ConfigDict(half | {"max_frames": half["max_frames"] - 1}))


@pytest.mark.parametrize(("part", "split"), [("movies", "train"), ("rl", "test"), ("qa", "dev")])
def test_what_is_not_there_is_one_line(suite, part, split):
    with pytest.raises(UserError, match=part):
        suite.records(part, split)
    with pytest.raises(UserError, match="no split 'dev'"):
        suite.videos("dev")


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    for data_dir in (None, tmp_path / "none"):
        suite, video = opened(data_dir, tmp_path)
        for ask in (lambda s: s.records("rl", "train"), lambda s: s.videos("train")):
            with pytest.raises(UserError, match="run python -m tfds_builders"):
                ask(suite)
        if not data_dir:  # its scripts are known
            suite.check(video)
            assert len(suite.outlines("test")) == 3 and next(suite.texts())


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


def test_a_bank_that_memory_can_not_hold_is_told_before(data_dir, micro_arguments, monkeypatch):
    """Two videos of 16 frames of 2 tokens, float32: known without reading a frame; help helps."""
    config = config_of(micro_arguments, data_dir)
    mesh, needed = make_mesh({}, jax.devices()[:1]), 2 * 16 * 2 * config.model.text.hidden_size * 4
    for memory in (needed, needed - 1):
        monkeypatch.setattr(config_checks, "_memory_bytes", lambda memory=memory: memory)
        if memory == needed:
            check_config(config, mesh, open_suite(config, Path()))
    line = "of the train videos takes .* in every process.*set --config.video.stored_bank=bfloat16"
    with pytest.raises(UserError, match=line):
        check_config(config, mesh, open_suite(config, Path()))
    swapped, outlines = {"train": "test", "test": "train"}, ClinvideoReader.outlines
    with monkeypatch.context() as patch:  # the bank of what is asked after training counts, too
        patch.setattr(
            ClinvideoReader, "outlines", lambda suite, split: outlines(suite, swapped[split])
        )
        with pytest.raises(UserError, match="bank of the test videos takes"):
            check_config(config, mesh, open_suite(config, Path()))
    # What is stored, and stage 1, need none.
    for change in ({"video.stored_bank": "bfloat16"}, {"stages": "warm_up"}):
        config = config_of(micro_arguments, data_dir, **change)
        check_config(config, mesh, open_suite(config, Path()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video.height": 56}, "config.video.height is 56, but .* was built with 28"),
        ({"video.fps": 1.0}, "config.video.fps is 1.0, but .* was built with 2.0"),
        ({"video.min_frames": 4}, "config.video.min_frames is 4, but .* was built with 8"),
        ({"video.max_frames": 10}, "has a video of 16 bank frames"),
        ({"dialogue.length": 90}, "config.dialogue.length: "),
        (
            {"suite.data_dir": "nowhere"},
            "nowhere has no clinvideo_frames; run python -m tfds_b",
        ),
    ],
)
def test_what_does_not_go_together(data_dir, micro_arguments, changes, message):
    config = config_of(micro_arguments, data_dir, **changes)
    with pytest.raises(UserError, match=message):
        check_config(config, make_mesh({}, jax.devices()[:1]), open_suite(config, Path()))
