"""Pictures in a folder that are made to take memory or time."""

import contextlib
import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from medscope_jax.video import VideoError, read_video

SIZE = (64, 144)


def _chunk(name, data):
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def _png(height, width, *more):
    """A PNG of black pixels, as few bytes as can be, with more chunks before them."""
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(1 + width // 8)) for _ in range(min(height, 4000)))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + b"".join(more)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunks
        + _chunk(b"IDAT", packed + rows.flush())
        + _chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [5_800, 13_300, 65_535])
@pytest.mark.parametrize("partial", [False, True])
def test_pictures_that_are_too_large(fill, refused, side, partial, recwarn):
    """Their own header is asked before anything is decoded; no decoder warns in their place."""
    folder = fill(["1.jpg", "2.png"])
    (folder / "2.png").write_bytes(_png(side, side))
    refused(folder, f"pictures of {side}x{side} .* at most 33,554,432", partial=partial)
    data = bytearray(cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", side, side)
    (folder / "2.png").write_bytes(data)
    refused(folder, f"pictures of {side}x{side} .* at most 33,554,432", partial=partial)
    assert not recwarn.list


def test_chunks_that_swell(fill):
    """A megabyte of colour profile or comment in a kilobyte is no reason to hold it."""
    bomb = zlib.compress(bytes(1 << 26), 9)
    for chunk in (
        _chunk(b"zTXt", b"Comment\0\0" + bomb),
        _chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb),
        _chunk(b"iCCP", b"Profile\0\0" + bomb),
    ):
        folder = fill(["1.png", "2.png"])
        (folder / "2.png").write_bytes(_png(64, 144, chunk))
        tracemalloc.start()
        with contextlib.suppress(VideoError):
            read_video(folder, fps=5.0, size=SIZE, frame_rate=5.0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20e6, peak


def test_a_picture_in_a_thousand_scans(fill, refused):
    """A progressive JPEG whose last scan is there again and again: a pass over all pixels each."""
    folder = fill(["1.jpg", "2.jpg"])
    stream = io.BytesIO()
    Image.open(folder / "1.jpg").save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    (folder / "2.jpg").write_bytes(data)
    assert read_video(folder, fps=5.0, size=SIZE, frame_rate=5.0).notes == ()
    last = data[data.rindex(b"\xff\xda") : -2]
    (folder / "2.jpg").write_bytes(data[:-2] + last * 1000 + data[-2:])
    refused(folder, "a JPEG of more than 40 scans")
