"""Containers that lie or stay silent about their rate, that are turned, or that hold nothing."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from medscope_jax.video import VideoError, read_video
from medscope_jax.video.frames import tick_frames
from tests.video.dicom_cases import bare_stream

SIZE = (64, 144)


def default_duration(path, nanoseconds):
    """Changes the rate that a Matroska file claims; None leaves a file that claims none."""
    data = bytearray(Path(path).read_bytes())
    at = data.index(b"\x23\xe3\x83")
    width = data[at + 3] & 0x7F
    if nanoseconds is None:
        data[at : at + 2] = bytes([0xEC, 0x80 | (width + 2)])  # Void, as long as the element
    else:
        data[at + 4 : at + 4 + width] = nanoseconds.to_bytes(width, "big")
    Path(path).write_bytes(data)


@pytest.mark.parametrize("claimed", [None, 10**9, 10**6, 333_000_000])
def test_matroska_without_a_rate_or_with_a_wrong_one(write_video, index_of, claimed):
    path = write_video("clip.mkv", "FFV1", 8.0, 40)
    default_duration(path, claimed)
    video = read_video(path, fps=2.0, size=SIZE)
    shown = index_of(video.frames)
    np.testing.assert_allclose(video.times, shown / 8, atol=6e-4)
    np.testing.assert_array_equal(shown, np.arange(0, 40, 4))
    assert video.native_frames == 40 and video.duration == pytest.approx(5.0, abs=2e-3)


def test_an_avi_that_states_no_rate(write_video, index_of):
    """Its frames have no times but that rate; what decoders then make up is nobody's word."""
    path = write_video("clip.avi", "MJPG", 8.0, 40)
    data = bytearray(Path(path).read_bytes())
    at = data.index(b"strh") + 8
    struct.pack_into("<II", data, at + 20, 0, 0)  # scale and rate
    struct.pack_into("<I", data, data.index(b"avih") + 8, 0)  # microseconds a frame
    Path(path).write_bytes(data)
    with pytest.raises(VideoError, match="carry no times, and it states no rate"):
        read_video(path, fps=2.0, size=SIZE)
    video = read_video(path, fps=2.0, size=SIZE, frame_rate=8.0)
    np.testing.assert_array_equal(index_of(video.frames), np.arange(0, 40, 4))
    np.testing.assert_allclose(video.times, np.arange(0, 5, 0.5), atol=1e-6)
    assert video.duration == pytest.approx(5.0)
    # One that states a rate keeps it.
    whole = read_video(write_video("b.avi", "MJPG", 8.0, 40), 2.0, SIZE, frame_rate=99.0)
    assert whole.duration == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("codec", "rate"),
    [
        ("XVID", 8.0),  # MPEG-4 frames carry their times
        ("MPG1", 30.0),  # MPEG-1 and -2 state a rate
        ("MPG2", 25.0),
    ],
)
def test_bare_streams_by_their_own_word(write_video, index_of, tmp_path, codec, rate):
    stream = bare_stream(write_video("clip.avi", codec, rate, 50))
    (tmp_path / "clip").write_bytes(stream)
    video = read_video(tmp_path / "clip", fps=rate / 5, size=SIZE)
    np.testing.assert_array_equal(index_of(video.frames), np.arange(0, 50, 5))
    np.testing.assert_allclose(video.times, np.arange(0, 50, 5) / rate, atol=1e-3)
    assert video.duration == pytest.approx(50 / rate, abs=2e-3) and video.native_frames == 50


@pytest.mark.parametrize("seed", range(4))
def test_random_durations_are_kept_to_half_a_frame(write_video, patch_mp4, index_of, seed):
    rng = np.random.default_rng(seed)
    path = write_video(fps=10.0, count=60)
    scale = patch_mp4.time_scale(path)
    ticks = rng.integers(1, round(0.7 * scale), 60)
    patch_mp4.set_durations(path, ticks.tolist())
    starts = np.concatenate([[0], np.cumsum(ticks)]) / scale
    for fps in (0.5, 3.0):
        video = read_video(path, fps=fps, size=SIZE)
        shown = index_of(video.frames)
        assert np.abs(video.times - starts[shown]).max() < ticks.min() / scale / 2
        np.testing.assert_array_equal(shown, tick_frames(starts[:-1], starts[-1], fps))


@pytest.mark.parametrize(
    ("matrix", "bright"),
    [
        ((0, 1, -1, 0), "right"),
        ((-1, 0, 0, -1), "bottom"),
        ((0, -1, 1, 0), "left"),
    ],
)
def test_turned_by_any_quarter(write_video, matrix, bright):
    """The display matrix of a phone's recording: what was on top ends where it says."""

    def top_white(_):
        frame = np.full((64, 96, 3), 20, np.uint8)
        frame[:32] = 235
        return frame

    path = write_video(frame=top_white, count=5)
    data = bytearray(Path(path).read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    Path(path).write_bytes(data)
    sizes = []

    def own_size(height, width):
        sizes.append((height, width))
        return height, width

    frame = read_video(path, fps=1.0, size=own_size).frames[0].mean(axis=-1)
    assert sizes[0] == ((64, 96) if bright == "bottom" else (96, 64))
    height, width = frame.shape
    halves = {
        "left": frame[:, : width // 2 - 8],
        "right": frame[:, width // 2 + 8 :],
        "bottom": frame[height // 2 + 8 :],
    }
    opposite = {
        "left": halves["right"],
        "right": halves["left"],
        "bottom": frame[: height // 2 - 8],
    }
    assert halves[bright].mean() > 215 and opposite[bright].mean() < 40


@pytest.mark.parametrize(("width", "height"), [(145, 63), (1, 1), (7, 301), (16, 3)])
def test_odd_sizes(tmp_path, width, height):
    path = str(tmp_path / "odd.avi")
    # OpenCV's own writer: the one by FFmpeg would make the sides even.
    codec = cv2.VideoWriter_fourcc(*"MJPG")
    writer = cv2.VideoWriter(path, cv2.CAP_OPENCV_MJPEG, codec, 5.0, (width, height))
    for _ in range(6):
        writer.write(np.full((height, width, 3), 128, np.uint8))
    writer.release()
    video = read_video(path, fps=5.0, size=lambda h, w: (h, w))
    assert video.frames.shape == (6, height, width, 3)
    assert abs(video.frames.astype(int) - 128).max() < 4


@pytest.mark.parametrize(
    ("name", "codec"), [("clip.mp4", "mp4v"), ("clip.avi", "MJPG"), ("clip.mkv", "FFV1")]
)
def test_no_frame_at_all(write_video, name, codec, capfd):
    path = write_video(name, codec, 5.0, 0)
    with pytest.raises(VideoError) as caught:
        read_video(path, fps=1.0, size=SIZE)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""
