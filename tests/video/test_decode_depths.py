"""Greyscale, 10 and 16 bits, B-frames and streams with odd clocks: what real encoders write.

OpenCV's FFmpeg writes 8 bits in colour or grey, and 16 in grey. The rest needs another encoder,
which is fetched; those tests are skipped where it can't be.
"""

import subprocess

import cv2
import numpy as np
import pytest

from medscope_jax.video import VideoError, read_video
from tests.video import real_cases

SIZE = (64, 144)


@pytest.fixture
def write_grey(tmp_path, numbered_frame):
    """(name, codec, deep) -> path of 20 numbered frames at 5 a second in one channel."""

    def write(name, codec, deep=False):
        path = str(tmp_path / name)
        options = [cv2.VIDEOWRITER_PROP_IS_COLOR, 0]
        if deep:
            options += [cv2.VIDEOWRITER_PROP_DEPTH, cv2.CV_16U]
        fourcc = cv2.VideoWriter_fourcc(*codec)
        writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, fourcc, 5.0, SIZE[::-1], options)
        if not writer.isOpened():
            pytest.skip(f"OpenCV's FFmpeg writes no {codec} of this depth here")
        for index in range(20):
            frame = numbered_frame(index)[..., 0]
            writer.write(frame.astype(np.uint16) * 257 if deep else frame)
        writer.release()
        return path

    return write


@pytest.mark.parametrize(
    ("name", "codec", "deep"),
    [
        ("grey.avi", "MJPG", False),
        ("grey.mkv", "FFV1", False),
        ("grey.mp4", "mp4v", False),
        ("deep.mkv", "FFV1", True),
    ],
)
def test_greyscale(write_grey, index_of, name, codec, deep):
    video = read_video(write_grey(name, codec, deep), fps=5.0, size=SIZE)
    np.testing.assert_array_equal(index_of(video.frames), np.arange(20))
    np.testing.assert_allclose(video.times, np.arange(20) / 5, atol=6e-4)
    spread = video.frames.max(axis=-1).astype(int) - video.frames.min(axis=-1)
    assert spread.max() <= 2 and video.notes == ()


@pytest.fixture
def encode(request, tmp_path, numbered_frame):
    """(name, *options) -> path of 40 numbered frames at 20 a second, by ffmpeg's own encoders."""
    program = real_cases.encoder(request.config.cache)

    def write(name, *options, count=40, rate="20"):
        path = str(tmp_path / name)
        source = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{SIZE[1]}x{SIZE[0]}", "-r", rate]
        command = [program, "-v", "error", *source, "-i", "-", *options, path]
        frames = b"".join(numbered_frame(i).tobytes() for i in range(count))
        done = subprocess.run(command, input=frames, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return path

    return write


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("h264.mp4", ["-c:v", "libx264", "-pix_fmt", "yuv420p10le", "-bf", "3"]),
        ("hevc.mkv", ["-c:v", "libx265", "-pix_fmt", "yuv422p10le", "-x265-params", "log-level=0"]),
        ("prores.mov", ["-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"]),
        ("vp9.webm", ["-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p10le", "-deadline", "realtime"]),
        ("grey10.mkv", ["-c:v", "ffv1", "-pix_fmt", "gray10le"]),
        ("grey.mp4", ["-c:v", "libx264", "-pix_fmt", "gray"]),
    ],
)
def test_ten_bits_and_grey(encode, index_of, name, options):
    path = encode(name, *options)
    video = read_video(path, fps=20.0, size=SIZE)
    np.testing.assert_array_equal(index_of(video.frames), np.arange(40))
    # Half a frame would be 25 ms; Matroska counts in milliseconds.
    np.testing.assert_allclose(video.times, np.arange(40) / 20, atol=6e-4)
    assert video.duration == pytest.approx(2.0, abs=2e-3)
    # Ten bits come as eight: 20 and 235 as they were drawn, within the codec's loss.
    levels = np.sort(video.frames[:, 24:40, 8::16].mean(axis=(1, 3)), axis=None)
    assert abs(np.median(levels[levels < 127]) - 20) < 6
    assert abs(np.median(levels[levels > 127]) - 235) < 6


@pytest.mark.parametrize(
    ("name", "options"),
    [
        # Streams whose clock starts anywhere, as recorders of the operating theatre write them.
        ("clip.ts", ["-c:v", "libx264", "-bf", "2", "-output_ts_offset", "1000"]),
        ("clip.mpg", ["-c:v", "mpeg2video", "-bf", "2", "-r", "25"]),
        ("clip.vob", ["-c:v", "mpeg2video", "-r", "29.97", "-f", "vob"]),
        ("clip.wmv", ["-c:v", "wmv2"]),
        ("clip.flv", ["-c:v", "flv"]),
        ("delayed.mp4", ["-c:v", "libx264", "-bf", "3", "-output_ts_offset", "5"]),
        # Every third frame dropped: 50 and 100 ms in turn.
        ("vfr.mp4", ["-vf", r"select=mod(n\,3)", "-fps_mode", "vfr", "-c:v", "libx264"]),
        ("vfr.mkv", ["-vf", r"select=mod(n\,3)", "-fps_mode", "vfr", "-c:v", "libx264"]),
        ("vfr.ts", ["-vf", r"select=mod(n\,3)", "-fps_mode", "vfr", "-c:v", "libx264"]),
    ],
)
def test_times_of_streams_with_odd_clocks(encode, index_of, name, options):
    """To half a native frame: each kept frame's own index says when it was recorded."""
    video = read_video(encode(name, "-pix_fmt", "yuv420p", *options, count=80), 5.0, SIZE)
    shown = index_of(video.frames) / 20
    assert np.abs(video.times - (shown - shown[0])).max() < 0.025
    assert len(video.times) >= 19
    assert video.duration == pytest.approx(4.0, abs=0.11)


@pytest.mark.parametrize(("name", "codec"), [("clip.h264", "libx264"), ("clip.hevc", "libx265")])
def test_a_bare_stream_brings_no_times(encode, index_of, name, codec):
    """A rate that FFmpeg makes up is none: such a file is refused unless its rate is given."""
    path = encode(name, "-c:v", codec, "-bf", "2", "-pix_fmt", "yuv420p")
    with pytest.raises(VideoError, match="carry no times"):
        read_video(path, fps=5.0, size=SIZE)
    video = read_video(path, fps=5.0, size=SIZE, frame_rate=20.0)
    np.testing.assert_array_equal(index_of(video.frames), np.arange(0, 40, 4))
    np.testing.assert_allclose(video.times, np.arange(0, 2, 0.2))
    assert video.duration == pytest.approx(2.0)
