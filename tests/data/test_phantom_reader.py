"""A phantom suite comes back as it was made."""

import numpy as np
import pytest

from medscope_jax.data.phantom_reader import prepared_suite, suite_dir
from medscope_jax.errors import UserError
from medscope_jax.parts import PARTS, SPLITS_OF_PART
from medscope_jax.phantom.records import records
from medscope_jax.phantom.suite_config import procedures
from tests.data.suite_cases import TINY
from tests.tfds_builders.clinvideo_cases import stored_videos


@pytest.mark.parametrize("part", PARTS)
def test_parts_come_back_as_they_were_made(phantom_workdir, part):
    scripts, suite = procedures(TINY), prepared_suite(phantom_workdir)
    for split in SPLITS_OF_PART[part]:
        rows = suite.records(part, split)
        made = [r for p in scripts if p.split == split for r in records(p, part, TINY)]
        assert len(rows) == len(made) > 0
        for read, record in zip(rows, made, strict=True):
            assert read.keys() == record.keys()
            for name, value in record.items():
                if isinstance(value, np.ndarray):
                    assert read[name].dtype == value.dtype and np.array_equal(read[name], value)
                else:
                    assert read[name] == value, name
            assert all(isinstance(turn, str) for turn in read["turns"])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_frames_come_back_by_row(phantom_workdir, split):
    suite = prepared_suite(phantom_workdir)
    rows, outlines = suite.videos(split), suite.outlines(split)
    assert len(rows) == len(outlines) == (3 if split == "test" else 2)
    stored = stored_videos(suite_dir(phantom_workdir) / "tfds" / "phantom_frames", split)
    assert [(v["id"], v["source"]) for v in stored] == [(n, o.source) for n, o in outlines.items()]
    for video, outline in zip(stored, outlines.values(), strict=True):  # to the bit
        assert np.array_equal(video["times"], outline.times)
        assert float(video["duration"]) == outline.duration
    for video, (name, outline) in zip(rows, outlines.items(), strict=True):
        assert name.split("-")[1] == outline.source
        assert video.frames.shape == (int(video.duration), 28, 56, 3)
        assert video.frames.dtype == np.uint8
        assert np.allclose(video.times, np.arange(int(video.duration)))
    assert np.array_equal(rows[-1].frames, rows[len(rows) - 1].frames)
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_unprepared_and_unknown_are_one_line_errors(tmp_path, phantom_workdir):
    suite = prepared_suite(phantom_workdir)
    with pytest.raises(UserError, match="holds no finished suite"):
        prepared_suite(tmp_path)
    with pytest.raises(UserError, match="no split 'test'"):
        suite.records("rl", "test")
    with pytest.raises(UserError, match="no split"):
        suite.videos("dev")
