"""Recordings whose every frame says which one it is, in pixels that survive any codec."""

import functools
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from medscope_jax.video import VideoError, read_video
from tests.video import dicom_cases

BITS = 9
SIZE = (64, 144)  # height, width: nine blocks of 16 columns


def _frame(index: int) -> np.ndarray:
    """Frame number `index` in binary: block b (from the left) is white where bit b is set."""
    bits = (index >> np.arange(BITS)) & 1
    row = np.repeat(np.where(bits, 235, 20), SIZE[1] // BITS).astype(np.uint8)
    return np.repeat(np.broadcast_to(row, SIZE)[..., None], 3, axis=-1)


@pytest.fixture
def index_of():
    """frames [T, 64, 144, 3] -> the index written into each."""

    def read(frames: np.ndarray) -> np.ndarray:
        centres = frames[:, 24:40, 8::16, :].mean(axis=(1, 3))
        return ((centres > 127) << np.arange(BITS)).sum(axis=-1)

    return read


@pytest.fixture
def numbered_frame():
    """index -> uint8 frame [64, 144, 3] that says so."""
    return _frame


@pytest.fixture
def numbered(numbered_frame):
    """count -> uint8 RGB [count, 64, 144, 3] of frames that say their index."""
    return lambda count: np.stack([numbered_frame(i) for i in range(count)])


@pytest.fixture
def write_dicom(tmp_path):
    """dicom_cases.write, into the test's folder."""
    return functools.partial(dicom_cases.write, tmp_path)


@pytest.fixture
def write_video(tmp_path):
    """(name, codec, fps, count) -> path of a recording of numbered frames."""

    def write(name="clip.mp4", codec="mp4v", fps=25.0, count=50, frame=_frame):
        path = str(tmp_path / name)
        height, width = frame(0).shape[:2]
        writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*codec), fps, (width, height))
        assert writer.isOpened()
        for index in range(count):
            writer.write(frame(index))
        writer.release()
        return path

    return write


def _boxes(data, start, end):
    while start + 8 <= end:
        length = struct.unpack_from(">I", data, start)[0]
        yield data[start + 4 : start + 8], start, start + length
        start += length


@pytest.fixture
def patch_mp4():
    """Surgery on the mp4 files that OpenCV writes (mdat before moov, 32-bit boxes)."""

    class Patch:
        @staticmethod
        def set_durations(path, ticks):
            """Gives frame k the duration ticks[k] in units of the track's time scale."""
            data = bytearray(Path(path).read_bytes())
            at = data.index(b"stts") - 4
            size = struct.unpack_from(">I", data, at)[0]
            entries = b"".join(struct.pack(">II", 1, tick) for tick in ticks)
            table = b"stts" + struct.pack(">II", 0, len(ticks)) + entries
            data[at : at + size] = struct.pack(">I", len(table) + 4) + table
            for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
                begin = data.index(box) - 4
                length = struct.unpack_from(">I", data, begin)[0] + len(table) + 4 - size
                struct.pack_into(">I", data, begin, length)
            struct.pack_into(">I", data, data.index(b"mdhd") + 20, sum(ticks))
            data[data.index(b"edts") : data.index(b"edts") + 4] = b"free"
            Path(path).write_bytes(data)

        @staticmethod
        def time_scale(path):
            data = Path(path).read_bytes()
            return struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]

        @staticmethod
        def index_first(path):
            """Moves the index before the pictures, as files for streaming have it."""
            data = Path(path).read_bytes()
            boxes = {name: data[a:b] for name, a, b in _boxes(data, 0, len(data))}
            moov = bytearray(boxes.pop(b"moov"))
            at = moov.index(b"stco") + 8
            for k in range(struct.unpack_from(">I", moov, at)[0]):
                offset = struct.unpack_from(">I", moov, at + 4 + 4 * k)[0]
                struct.pack_into(">I", moov, at + 4 + 4 * k, offset + len(moov))
            Path(path).write_bytes(boxes.pop(b"ftyp") + moov + b"".join(boxes.values()))

        @staticmethod
        def rotate(path):
            """Says, as phones do, that the picture is to be shown turned by 90 degrees."""
            data = bytearray(Path(path).read_bytes())
            one = 1 << 16
            struct.pack_into(
                ">9i", data, data.index(b"tkhd") + 44, 0, one, 0, -one, 0, 0, 0, 0, 1 << 30
            )
            Path(path).write_bytes(data)

        @staticmethod
        def show_seconds(path, seconds):
            """Shortens the edit list: only the first `seconds` are to be shown."""
            data = bytearray(Path(path).read_bytes())
            scale = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
            struct.pack_into(">I", data, data.index(b"elst") + 12, int(seconds * scale))
            Path(path).write_bytes(data)

        @staticmethod
        def as_sound(path):
            """Turns the only track into a sound track."""
            data = Path(path).read_bytes()
            Path(path).write_bytes(data.replace(b"vide", b"soun"))

    return Patch


@pytest.fixture
def fill(tmp_path, numbered_frame):
    """(names, times) -> path of a folder whose k-th name shows frame number k."""

    def write(names, times=None):
        folder = tmp_path / "Doe^Planted"
        folder.mkdir(exist_ok=True)
        for index, name in enumerate(names):
            assert cv2.imwrite(str(folder / name), numbered_frame(index))
        if times is not None:
            rows = [f"{name},{time}" for name, time in zip(names, times, strict=True)]
            (folder / "times.csv").write_text("\n".join(["file,time", *rows]) + "\n")
        return folder

    return write


@pytest.fixture
def refused(capfd):
    """(folder, pattern) -> asserts one clear line that names no file in it, and silence."""

    def check(folder, pattern, **options):
        options = {"frame_rate": 5.0, **options}
        with pytest.raises(VideoError, match=pattern) as caught:
            read_video(folder, fps=5.0, size=SIZE, **options)
        assert str(caught.value).startswith(f"{folder}: {caught.value.reason}")
        assert "\n" not in str(caught.value) and "Doe" not in caught.value.reason
        output = capfd.readouterr()
        assert (output.out, output.err) == ("", "")

    return check
