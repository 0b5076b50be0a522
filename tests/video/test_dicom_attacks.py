"""Few bytes that ask for much: each is one line, at once, in little memory."""

import contextlib
import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from medscope_jax.video import VideoError, dicom_elements, read_video
from medscope_jax.video.dicom_header import open_header
from tests.video.test_stream_memory import ROOT

SIZE = (64, 144)
# A process of its own, whose peak is that of these files alone.
READ = """
import json, re, sys
from pathlib import Path
from medscope_jax.video import VideoError, read_video

reasons = {}
for path in sys.argv[1:]:
    try:
        read_video(path, 25.0, (64, 144))
        reasons[path] = "read"
    except VideoError as error:
        reasons[path] = error.reason
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(json.dumps([reasons, peak]))
"""


def element(tag, vr, value, length=None):
    """An explicit little-endian element with a four-byte length, true or not."""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr + b"\0\0"
    return head + struct.pack("<I", len(value) if length is None else length) + value


def before_pixels(path, data):
    """Puts bytes between the header and the pixel data."""
    whole = Path(path).read_bytes()
    at = whole.rindex(b"\xe0\x7f\x10\0O")
    Path(path).write_bytes(whole[:at] + data + whole[at:])
    return path


def nested(depth, tag=0x52009230):
    """Sequences of one item each, of undefined length, each in the one before."""
    opening = element(tag, b"SQ", b"", 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    return opening * depth + closing * depth


def inflating(path, megabytes):
    """A deflated file followed by ever more zeros, in blocks that are copies of one."""
    data = Path(path).read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    plain = zlib.decompress(data[start:], -zlib.MAX_WBITS)
    machine = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    head = machine.compress(plain) + machine.flush(zlib.Z_FULL_FLUSH)
    block = machine.compress(bytes(1 << 24)) + machine.flush(zlib.Z_FULL_FLUSH)
    Path(path).write_bytes(data[:start] + head + block * (megabytes >> 4))
    return path


def attacks(write, frames):
    """(what the one line says, path) of each attack."""
    grey = np.ascontiguousarray(frames[..., 0])
    jpegs = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]
    jpeg = {"syntax": JPEGBaseline8Bit, "PhotometricInterpretation": "YBR_FULL_422"}
    runs = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 2000
    huge = {"Rows": 65535, "Columns": 65535}

    yield "at most 33,554,432 pixels", write(grey, "huge.dcm", **huge)
    run = {"syntax": RLELossless, "encoded": [runs] * 10}
    yield "at most 33,554,432 pixels", write(grey, "huge_runs.dcm", **run, **huge)
    yield "cannot be decoded", write(grey, "runs.dcm", **run, Rows=5792, Columns=5792)
    far = struct.pack("<16I", 1, *[4_000_000_000] * 15) + bytes(4000)
    run = {"syntax": RLELossless, "encoded": [far] * 10}
    yield "cannot be decoded", write(grey, "far.dcm", **run)
    many = {"NumberOfFrames": str(2**31 - 1)}
    yield "2147483647 frames promised, 10 there", write(grey, "many.dcm", **many)
    yield (
        "2147483647 frames promised, 10 there",
        write(frames, "many_jpegs.dcm", encoded=jpegs, **jpeg, **many),
    )
    yield "a number of bits that is not read", write(grey, "bits.dcm", BitsAllocated=64)
    yield "a number of bits that is not read", write(grey, "none.dcm", BitsAllocated=0)
    yield "colours", write(grey, "samples.dcm", SamplesPerPixel=1000)
    yield "colours", write(frames, "planes.dcm", SamplesPerPixel=65535)
    deep = {"Rows": 5792, "Columns": 5792, "BitsAllocated": 32}
    yield "frames of more than 256 MiB", write(frames, "deep.dcm", **deep)

    # A picture whose own header asks for 12 GB.
    says = jpegs[0].replace(b"\0\x11\x08\0\x40\0\x90", b"\0\x11\x08\xff\xdc\xff\xdc")
    assert says != jpegs[0]
    yield "frame 1 of 10 cannot be decoded", write(frames, "jpeg.dcm", encoded=[says] * 10, **jpeg)

    stream = io.BytesIO()
    Image.fromarray(frames[0]).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    scans = data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 1000 + data[-2:]
    yield (
        "frame 1 of 10 cannot be decoded",
        write(frames, "scans.dcm", encoded=[scans] * 10, **jpeg),
    )

    path = write(frames, "deflated.dcm", syntax=DeflatedExplicitVRLittleEndian)
    yield "more than 512 MiB once inflated", inflating(path, 1 << 12)

    # Sequences in sequences; skipped where they are not wanted, refused where they are.
    yield "read", before_pixels(write(grey, "nest.dcm"), nested(20_000, 0x00091010))
    yield "colours", before_pixels(write(grey, "groups.dcm"), nested(20_000))
    yield "header is broken", before_pixels(write(grey, "open.dcm"), nested(20_000)[:390_000])
    yield (
        "header is broken",
        before_pixels(write(grey, "long.dcm"), element(0x52009230, b"SQ", b"", 0xFFFFFFF0)),
    )

    def palette(entries, length):
        def change(data):
            data.PhotometricInterpretation = "PALETTE COLOR"
            for name in ("Red", "Green", "Blue"):
                setattr(data, f"{name}PaletteColorLookupTableDescriptor", [entries, 0, 16])
                setattr(data, f"{name}PaletteColorLookupTableData", bytes(length))

        return change

    yield "colours", write(grey, "palette.dcm", change=palette(65535, 4))
    yield "colours", write(grey, "empty.dcm", change=palette(0, 0))

    def segments(data):
        palette(256, 0)(data)
        for name in ("Red", "Green", "Blue"):
            delattr(data, f"{name}PaletteColorLookupTableData")
            # Each three words stand for 65,535 entries.
            raw = np.tile(np.array([0, 1, 0, 1, 65535, 9], np.uint16), 10_000).tobytes()
            setattr(data, f"Segmented{name}PaletteColorLookupTableData", raw)

    yield "read", write(grey, "segments.dcm", change=segments)
    yield "its times reach", write(grey, "slow.dcm", FrameTime="1e12")
    yield "its times reach", write(grey, "rate.dcm", FrameTime=None, CineRate="1e-9")

    # A table of offsets that is longer than the file, and one that lists nonsense.
    for name, table in (("table", 0xFFFFFFFE), ("tables", 40)):
        path = Path(write(frames, f"{name}.dcm", encoded=jpegs, **jpeg))
        data = path.read_bytes()
        at = data.rindex(b"\xe0\x7f\x10\0OB") + 12
        assert data[at : at + 8] == b"\xfe\xff\x00\xe0" + struct.pack("<I", 40)
        head = data[: at + 4] + struct.pack("<I", table) + b"\x7f" * 40
        path.write_bytes(head + data[at + 48 :])
        yield ("cut short or broken" if table > 40 else "read"), str(path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_attacks(write_dicom, numbered):
    with pydicom.config.disable_value_validation():
        made = [(says, str(path)) for says, path in attacks(write_dicom, numbered(10))]
    command = [sys.executable, "-c", READ, *(path for _, path in made)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    reasons, peak = json.loads(done.stdout)
    assert done.stderr == ""
    for says, path in made:
        reason = reasons[path]
        fits = reason == says if says == "read" else says in reason
        assert fits and "\n" not in reason, (path, reason)
    assert peak * 1024 < 1e9, peak


@pytest.mark.parametrize("tag", [0x00091010, 0x52009229, 0x00081140])
def test_nested_identifiers_are_passed_over(write_dicom, numbered, tag):
    """What surrounds the wanted tags is stepped over, whatever it holds and however it ends."""
    name = element(0x00100010, b"UN", b"Doe^Planted ")
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(name)) + name
    open_item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + name + nested(3) + b"\xfe\xff\x0d\xe0\0\0\0\0"
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    for sequence in (
        element(tag, b"SQ", item),
        element(tag, b"SQ", item + end, 0xFFFFFFFF),
        element(tag, b"SQ", open_item + item + end, 0xFFFFFFFF),
        element(tag, b"SQ", open_item),
    ):
        path = before_pixels(write_dicom(numbered(3)), sequence)
        with open(path, "rb") as file, contextlib.ExitStack() as cleanup:
            header = open_header(file, path, cleanup)
            assert "Doe" not in repr(header.elements)
        assert read_video(path, fps=25.0, size=SIZE).native_frames == 3


@pytest.mark.parametrize(
    ("limit", "data"),
    [
        ("_MAX_HEADERS", element(0x00091001, b"OB", b"") * 5000),
        ("_MAX_ITEMS", element(0x52009230, b"SQ", b"\xfe\xff\x00\xe0\0\0\0\0" * 5000)),
        ("_MAX_VALUE", element(0x00281201, b"OW", bytes(5000))),
    ],
)
def test_a_header_without_end_is_given_up(write_dicom, numbered, monkeypatch, limit, data):
    path = before_pixels(write_dicom(numbered(3)), data)
    assert read_video(path, fps=25.0, size=SIZE).native_frames == 3
    monkeypatch.setattr(dicom_elements, limit, 1000)
    with pytest.raises(VideoError, match="header is broken"):
        read_video(path, fps=25.0, size=SIZE)
