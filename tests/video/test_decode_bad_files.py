import contextlib
import os
import re
import struct
import wave
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from medscope_jax.errors import UserError
from medscope_jax.video import VideoError, demux, read_video

SIZE = (64, 144)


def read(path, **options):
    return read_video(path, fps=1.0, size=SIZE, **options)


@pytest.fixture
def refused(capfd):
    """(path, pattern) -> asserts one clear line that names the file, and silence on stderr."""

    def check(path, pattern, **options):
        with pytest.raises(VideoError, match=pattern) as caught:
            read(path, **options)
        message = str(caught.value)
        assert "\n" not in message and os.path.basename(path) in message
        output = capfd.readouterr()
        assert output.err == "" and output.out == ""
        return message

    return check


def cut(path, share):
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * share)])


def test_video_errors_are_user_errors():
    assert issubclass(VideoError, UserError)


def test_missing(tmp_path, refused):
    refused(str(tmp_path / "none.mp4"), "no such file")
    refused(str(tmp_path / "no" / "folder.mp4"), "no such file")


def test_directory(tmp_path, refused):
    refused(str(tmp_path), "a directory")


def test_pipe(tmp_path, refused):
    os.mkfifo(tmp_path / "pipe.mp4")
    refused(str(tmp_path / "pipe.mp4"), "not a regular file")


def test_empty(tmp_path, refused):
    (tmp_path / "empty.mp4").touch()
    refused(str(tmp_path / "empty.mp4"), "empty")


def test_unreadable(write_video, refused, monkeypatch):
    path = write_video(count=5)
    if os.geteuid() == 0:  # root reads everything: let the operating system's answer be played
        stat = os.stat

        def denied(name, **options):
            if name == path:
                raise PermissionError(13, "Permission denied")
            return stat(name, **options)

        monkeypatch.setattr(os, "stat", denied)
    else:
        os.chmod(path, 0)
    refused(path, "permission denied")


@pytest.mark.parametrize("name", ["noise.mp4", "noise.avi", "noise"])
def test_random_bytes(tmp_path, refused, name):
    rng = np.random.default_rng(0)
    for seed_size in (3, 100, 50_000):
        (tmp_path / name).write_bytes(rng.bytes(seed_size))
        refused(str(tmp_path / name), "not a video|cannot be opened")


def test_text(tmp_path, refused):
    # FFmpeg would render the first as a terminal recording and fetch what the second names.
    (tmp_path / "a.txt").write_text("Findings: none.\n" * 200)
    refused(str(tmp_path / "a.txt"), "text, not a video")
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/x.ts\n")
    refused(str(tmp_path / "a.m3u8"), "text, not a video")


def test_still_image(tmp_path, refused):
    for name in ("still.jpg", "still.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
        refused(str(tmp_path / name), "still image")


def test_sound_only(tmp_path, write_video, patch_mp4, refused):
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    refused(str(tmp_path / "sound.wav"), "sound only")
    path = write_video("sound.mp4", count=5)
    patch_mp4.as_sound(path)
    refused(path, "sound only")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_mp4_loses_its_index(write_video, refused, share):
    path = write_video(count=50)
    cut(path, share)
    refused(path, r"without a readable index \(moov\): cut short")


def test_an_mp4_that_only_lacks_its_last_words_is_whole(write_video, index_of):
    """Behind the index stands who wrote it."""
    path = write_video(fps=5.0, count=50)
    cut(path, 0.995)
    video = read_video(path, fps=5.0, size=SIZE)
    np.testing.assert_array_equal(index_of(video.frames), np.arange(50))
    np.testing.assert_allclose(video.times, np.arange(50) / 5, atol=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
def test_truncated_mp4_with_its_index_first(write_video, patch_mp4, refused, index_of, share):
    path = write_video(fps=5.0, count=50)
    patch_mp4.index_first(path)
    assert read(path).native_frames == 50
    cut(path, share)
    message = refused(path, "incomplete: 50 frames promised, .* decoded .*bytes are missing")

    came = int(re.search(r"(\d+) decoded", message).group(1))
    video = read(path, partial=True)
    assert video.native_frames == came < 50
    assert "50 frames promised" in video.notes[0]
    # The last frame that came may be damaged; all before it are whole and at their own times.
    shown = index_of(video.frames)[:-1]
    np.testing.assert_allclose(video.times[:-1], shown / 5.0, atol=1e-6)


@pytest.mark.parametrize(("name", "codec"), [("clip.avi", "MJPG"), ("clip.mkv", "mp4v")])
def test_truncated_avi_and_matroska(write_video, refused, name, codec):
    path = write_video(name, codec, fps=5.0, count=60)
    cut(path, 0.6)
    refused(path, "incomplete: 60 frames promised, .* decoded .*(bytes are missing|ends within)")
    video = read(path, partial=True)
    assert 0 < video.native_frames < 60 and video.duration < 12
    assert "incomplete" in video.notes[0]


def test_truncated_before_the_first_frame(write_video, patch_mp4, refused):
    path = write_video(fps=5.0, count=50)
    patch_mp4.index_first(path)
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: data.index(b"mdat") + 6])
    refused(path, "nothing can be decoded|not a video", partial=True)


def test_an_overstated_count_is_no_loss(write_video, index_of):
    path = write_video("clip.avi", "MJPG", 5.0, 40)
    data = bytearray(Path(path).read_bytes())
    struct.pack_into("<I", data, data.index(b"avih") + 24, 1000)
    struct.pack_into("<I", data, data.index(b"strh") + 40, 1000)
    Path(path).write_bytes(data)
    video = read_video(path, fps=5.0, size=SIZE)
    np.testing.assert_array_equal(index_of(video.frames), np.arange(40))
    assert video.duration == pytest.approx(8.0)
    assert "its header says 1000 frames, 40 are there" in video.notes


def test_damage_in_the_middle_never_shifts_times(write_video, index_of):
    path = write_video("clip.avi", "MJPG", 5.0, 60)
    data = bytearray(Path(path).read_bytes())
    # Frame 30's JPEG becomes zeros: no decoder makes a picture of it.
    at = data.index(b"movi")
    for _ in range(31):
        at = data.index(b"00dc", at + 1)
    length = struct.unpack_from("<I", data, at + 4)[0]
    data[at + 8 : at + 8 + length] = bytes(length)
    Path(path).write_bytes(data)
    video = read(path, partial=True)
    assert video.native_frames == 59
    assert "60 frames promised, 59 decoded" in video.notes[0]
    shown = index_of(video.frames)
    np.testing.assert_allclose(video.times, shown / 5.0, atol=1e-6)
    np.testing.assert_array_equal(shown, [0, 5, 10, 15, 20, 25, 31, 35, 40, 45, 50, 55])


@pytest.mark.parametrize("reads", [1, 2])
def test_a_read_that_stalls_is_one_line_in_either_pass(write_video, refused, monkeypatch, reads):
    """FFmpeg is told to give up; a disk that hangs can't be had here, so its answer is played."""
    path, opened = write_video(count=20), []

    @contextlib.contextmanager
    def stalling(source, wrapped=demux.opened):
        with wrapped(source) as container:
            opened.append(source)
            yield Stalling(container) if len(opened) == reads else container

    class Stalling:
        def __init__(self, container):
            self._container = container

        def __getattr__(self, name):
            return getattr(self._container, name)

        def demux(self, streams):
            yield next(self._container.demux(streams))
            raise av.ExitError(1, "Immediate exit requested")

    monkeypatch.setattr(demux, "opened", stalling)
    refused(path, "reading stalled for 8 s")
    assert len(opened) == reads
