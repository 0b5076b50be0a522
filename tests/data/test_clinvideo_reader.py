"""A built data folder, as it is read."""

import numpy as np
import pytest

from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.data.jpeg_frames import JpegFrames
from medscope_jax.data.listing import VideoSettings
from medscope_jax.errors import UserError
from tests.data import suite_cases as cases


def test_parts_that_were_not_built_have_no_split(data_dir):
    suite = ClinvideoReader(data_dir)
    assert suite.splits("qa") == suite.splits("rl") == ("train",)
    assert suite.splits("eval") == ("test",)
    assert suite.splits("cot") == suite.splits("passive") == ()


def test_records_are_the_rows_of_the_annotations(data_dir):
    suite = ClinvideoReader(data_dir)
    known = [row for row in cases.rows() if row["part"] == "rl"]
    records = suite.records("rl", "train")
    assert [(r["question"], r["answer"]) for r in records] == [
        (row["question"], row["answer"]) for row in known
    ]
    assert [r["evidence"].tolist() for r in records] == [row["spans"] for row in known]
    assert suite.video_settings() == VideoSettings(**cases.VIDEO)


def test_frames_stay_jpeg(data_dir):
    for video in ClinvideoReader(data_dir).videos("train"):
        assert isinstance(video.frames, JpegFrames)
        np.testing.assert_array_equal(video.times, np.arange(16) / 2)


def test_one_line_for_mistakes(data_dir, tmp_path):
    suite = ClinvideoReader(data_dir)
    with pytest.raises(UserError, match="no part 'caps'"):
        suite.records("caps", "train")
    with pytest.raises(UserError, match="it has train"):
        suite.records("qa", "dev")
    with pytest.raises(UserError, match="tfds_builders.build clinvideo_frames"):
        ClinvideoReader(tmp_path).videos("train")
