"""A built data folder, as it is read."""

import json

import cv2
import numpy as np
import pytest

from medscope_jax.data import stored_rows
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.data.jpeg_frames import StoredFrames
from medscope_jax.data.listing import VideoSettings
from medscope_jax.encode import frame_sources
from medscope_jax.errors import UserError
from medscope_jax.video import read_video
from tests.data import suite_cases as cases
from tests.tfds_builders import clinvideo_cases as build_cases
from tfds_builders.build import build


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


def through_jpeg(frame):
    coded = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    return cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]


def test_a_window_of_a_long_video_reads_its_own_blocks(tmp_path, monkeypatch):
    """Videos of all lengths, one after the other: every frame is where it was decoded to."""
    lengths, manual, data = {"a": 40, "b": 16, "c": 3, "d": 17}, tmp_path / "m", tmp_path / "data"
    (manual / "raw").mkdir(parents=True)
    for seed, (name, seconds) in enumerate(lengths.items()):
        build_cases.write_video(manual / "raw" / f"{name}.mp4", seconds, seed=seed, fps=2.0)
    video = {"fps": 1.0, "height": 28, "width": 56, "max_frames": 64, "min_frames": 1}
    source = {"name": "raw", "videos": "raw", "split": "train"}
    (manual / "suite.json").write_text(json.dumps({"video": video, "sources": [source]}))
    build("clinvideo_frames", manual, data, quiet=True)

    decoded = {}
    for path in sorted((manual / "raw").iterdir()):
        whole = read_video(path, 1.0, (28, 56))
        decoded[len(whole.frames)] = whole
    videos = ClinvideoReader(data).videos("train")
    assert sorted(len(video.frames) for video in videos) == sorted(lengths.values())
    read, stored_row = [], stored_rows.stored_row
    monkeypatch.setattr(stored_rows, "stored_row", lambda *a: read.append(a[1]) or stored_row(*a))
    contents = set()
    for video in videos:
        whole = decoded[len(video.frames)]
        expected = np.stack([through_jpeg(frame) for frame in whole.frames])
        np.testing.assert_array_equal(np.asarray(video.frames), expected)
        np.testing.assert_array_equal(video.times, whole.times)
        contents.add(video.content)
    assert sorted(read) == list(range(3 + 1 + 1 + 2)) and len(contents) == 4
    (long,) = (video for video in videos if len(video.frames) == 40)
    for window, blocks in ((slice(3, 9), 1), (slice(10, 20), 2), ([0, 39, 1], 2), (17, 1)):
        read.clear()
        found = long.frames[window]
        assert len(read) == blocks
        np.testing.assert_array_equal(found, np.asarray(long.frames)[window])

    (folder,) = (data / "clinvideo_frames").iterdir()
    sources = frame_sources(folder, "train")
    assert {source.content for source in sources} == contents
    for source, video in zip(sources, videos, strict=True):
        np.testing.assert_array_equal(source.read(0, len(video.frames)), np.asarray(video.frames))
        np.testing.assert_array_equal(source.times, video.times)


def test_one_line_for_mistakes(data_dir, tmp_path):
    suite = ClinvideoReader(data_dir)
    with pytest.raises(UserError, match="no part 'caps'"):
        suite.records("caps", "train")
    with pytest.raises(UserError, match="it has train"):
        suite.records("qa", "dev")
    with pytest.raises(UserError, match="tfds_builders.build clinvideo_frames"):
        ClinvideoReader(tmp_path).videos("train")
