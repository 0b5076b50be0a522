"""Frames one at a time: the same ones as at once, nothing left changed between two of them."""

import itertools
import threading

import cv2
import numpy as np
import pytest

from medscope_jax.video import VideoError, read_video
from medscope_jax.video.decode import iter_frames
from medscope_jax.video.stream import ahead

SIZE = (32, 72)


@pytest.fixture
def sources(write_video, write_dicom, numbered, tmp_path):
    """One recording of each kind, as arguments of read_video."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, frame in enumerate(numbered(12)):
        cv2.imwrite(str(folder / f"{i}.png"), frame)
    grey = numbered(12)[..., 0].astype(np.uint16)  # its range is found in a pass of its own
    return [
        {"path": write_video(fps=5.0, count=30)},
        {"path": write_dicom(grey, FrameTime="200")},
        {"path": str(folder), "frame_rate": 5.0},
    ]


def test_the_frames_of_read_video_one_at_a_time(sources):
    for source in sources:
        for limit in (None, 2):
            options = {"fps": 2.0, "size": SIZE, "max_frames": limit, **source}
            whole = read_video(**options)
            stream = iter_frames(**options)
            assert stream.ending is None and stream.planned == len(whole.times) > 1
            items = list(stream)
            np.testing.assert_array_equal([time for time, _ in items], whole.times)
            np.testing.assert_array_equal([frame for _, frame in items], whole.frames)
            assert all(frame.flags.c_contiguous for _, frame in items)
            assert list(stream) == []
            assert stream.ending.duration == whole.duration
            assert stream.ending.native_frames == whole.native_frames
            assert stream.ending.notes == whole.notes


def test_streams_run_beside_one_another(sources):
    """Settings that readers change (log levels, warnings) are back between two frames."""
    logging = getattr(cv2.utils, "logging", cv2)
    level = logging.getLogLevel()
    streams = [iter_frames(fps=2.0, size=SIZE, **source) for source in sources]
    rows = list(zip(*streams, strict=False))
    assert len(rows) == 5 and logging.getLogLevel() == level
    for column, source in zip(zip(*rows, strict=True), sources, strict=True):
        whole = read_video(fps=2.0, size=SIZE, **source)
        np.testing.assert_array_equal([frame for _, frame in column], whole.frames[:5])

    for source in sources:
        for _ in iter_frames(fps=2.0, size=SIZE, **source):
            assert logging.getLogLevel() == level
            break
    assert logging.getLogLevel() == level


def test_a_fault_at_the_end_comes_after_frames(write_video, patch_mp4):
    path = write_video(fps=5.0, count=50)
    patch_mp4.index_first(path)
    with open(path, "rb+") as file:
        file.truncate(file.seek(0, 2) * 4 // 5)
    stream, came = iter_frames(path, 1.0, SIZE), []
    with pytest.raises(VideoError, match="incomplete"):
        came.extend(stream)
    assert 0 < len(came) <= stream.planned and stream.ending is None


def test_bad_files_are_refused_before_the_first_frame(tmp_path):
    with pytest.raises(VideoError, match="no such file"):
        iter_frames(tmp_path / "none.mp4", 1.0, SIZE)
    with pytest.raises(ValueError, match="frame_rate"):
        iter_frames(tmp_path, 1.0, SIZE, frame_rate=0.0)


def test_items_made_ahead_are_the_same():
    for depth in (1, 2, 5):
        assert list(ahead((n * n for n in range(50)), depth)) == [n * n for n in range(50)]
    assert list(ahead(n for n in ())) == []


def test_what_goes_wrong_ahead_is_raised_where_items_are_taken():
    def broken():
        yield 1
        raise VideoError("broken", "x.mp4")

    taken = []
    with pytest.raises(VideoError, match=r"x\.mp4: broken"):
        taken.extend(ahead(broken()))
    assert taken == [1]


def test_who_leaves_early_stops_the_thread():
    closed = threading.Event()

    def endless():
        try:
            yield from itertools.count()
        finally:
            closed.set()

    before = threading.active_count()
    items = ahead(endless())
    assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
    items.close()
    assert closed.is_set() and threading.active_count() == before
