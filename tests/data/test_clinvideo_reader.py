"""A built data folder, as it is read."""

import cv2
import numpy as np
import pytest

from medscope_jax.data import stored_rows
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.data.jpeg_frames import StoredFrames
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


def test_frames_stay_where_they_are(data_dir, monkeypatch):
    """Times, lengths and sizes are known without them; a window reads and decodes its own."""
    read, decoded, decode = [], [], cv2.imdecode
    stored_row = stored_rows.stored_row

    def watched(source, row, again):
        read.append(row)
        return stored_row(source, row, again)

    monkeypatch.setattr(stored_rows, "stored_row", watched)
    monkeypatch.setattr(cv2, "imdecode", lambda *given: decoded.append(0) or decode(*given))
    videos = ClinvideoReader(data_dir).videos("train")
    for video in videos:
        assert isinstance(video.frames, StoredFrames)
        np.testing.assert_array_equal(video.times, np.arange(16) / 2)
        assert video.frames.shape == (16, 28, 56, 3) and video.duration > 0
    assert not read and not decoded
    assert videos[1].frames[3:5].shape == (2, 28, 56, 3)
    assert len(read) == 1 and len(decoded) == 2


def test_one_line_for_mistakes(data_dir, tmp_path):
    suite = ClinvideoReader(data_dir)
    with pytest.raises(UserError, match="no part 'caps'"):
        suite.records("caps", "train")
    with pytest.raises(UserError, match="it has train"):
        suite.records("qa", "dev")
    with pytest.raises(UserError, match="tfds_builders.build clinvideo_frames"):
        ClinvideoReader(tmp_path).videos("train")
