"""DICOM files in every form that they come in: with and without preamble, meta group, deflation."""

import io
import json
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from medscope_jax.video import VideoError, read_video
from medscope_jax.video import size_limits as limits
from medscope_jax.video.dicom import sniff
from tests.video.dicom_cases import encode_stream, without_meta, without_preamble

SIZE = (64, 144)
SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)


def shown(path):
    return read_video(path, fps=25.0, size=SIZE)


@pytest.mark.parametrize("strip", [without_preamble, without_meta, None])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_no_preamble_and_no_meta_group(write_dicom, numbered, index_of, strip, syntax):
    def group_length(data):
        data.add_new(0x00080000, "UL", 100)  # as old writers begin

    path = write_dicom(numbered(5), syntax=syntax, change=group_length)
    path = strip(path) if strip else path
    assert sniff(Path(path).read_bytes()[:512])
    video = shown(path)
    np.testing.assert_array_equal(index_of(video.frames), np.arange(5))
    np.testing.assert_allclose(video.times, np.arange(5) / 25)
    assert video.notes == ()


def test_no_meta_group_and_no_group_length(write_dicom, numbered, index_of):
    path = without_meta(write_dicom(numbered(3)))
    np.testing.assert_array_equal(index_of(shown(path).frames), np.arange(3))
    # The magic alone, without the 128 bytes before it.
    Path(path).write_bytes(b"DICM" + Path(path).read_bytes())
    np.testing.assert_array_equal(index_of(shown(path).frames), np.arange(3))


@pytest.mark.parametrize("bits", [8, 16])
def test_big_endian(write_dicom, bits):
    ramp = np.tile(np.arange(64, dtype=f"u{bits // 8}") * (257 if bits == 16 else 1), (3, 8, 1))
    little = write_dicom(ramp, "little.dcm", WindowCenter="32", WindowWidth="65")

    def swapped(data):
        data.PixelData = ramp.astype(ramp.dtype.newbyteorder(">")).tobytes()

    tags = {"WindowCenter": "32", "WindowWidth": "65"}
    big = write_dicom(ramp, "big.dcm", ExplicitVRBigEndian, change=swapped, **tags)
    wanted, found = (read_video(p, fps=25.0, size=(8, 64)).frames for p in (little, big))
    np.testing.assert_array_equal(found, wanted)
    assert found.max() > 200


def test_a_syntax_that_says_explicit_over_an_implicit_file(write_dicom, numbered, index_of):
    path = write_dicom(numbered(3), syntax=ImplicitVRLittleEndian)
    data = Path(path).read_bytes()
    meta = data.replace(b"\x12\x001.2.840.10008.1.2\0", b"\x14\x001.2.840.10008.1.2.1\0")
    Path(path).write_bytes(meta)
    np.testing.assert_array_equal(index_of(shown(path).frames), np.arange(3))


def test_compressed_pixels_without_a_meta_group(write_dicom, numbered):
    encoded = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in numbered(3)]
    path = without_meta(write_dicom(numbered(3), syntax=JPEGBaseline8Bit, encoded=encoded))
    with pytest.raises(VideoError, match="compressed in a way that it does not name"):
        shown(path)


def test_deflated(write_dicom, numbered, index_of):
    path = write_dicom(numbered(20), syntax=DeflatedExplicitVRLittleEndian)
    assert Path(path).stat().st_size < 20_000
    np.testing.assert_array_equal(index_of(shown(path).frames), np.arange(20))
    # Some writers put zlib's header before it.
    data = Path(path).read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    plain = zlib.decompress(data[start:], -zlib.MAX_WBITS)
    Path(path).write_bytes(data[:start] + zlib.compress(plain))
    np.testing.assert_array_equal(index_of(shown(path).frames), np.arange(20))


def test_a_deflated_file_that_breaks_off(write_dicom, index_of, numbered):
    frames = numbered(20)
    noise = np.random.default_rng(0).integers(0, 9, frames.shape, dtype=np.uint8)
    path = write_dicom(frames // 2 + noise, syntax=DeflatedExplicitVRLittleEndian)
    whole = Path(path).read_bytes()
    for data in (whole[: len(whole) // 2], whole[: len(whole) // 2] + b"\xff" * 2000):
        Path(path).write_bytes(data)
        with pytest.raises(VideoError, match="20 frames promised") as caught:
            shown(path)
        assert caught.value.remedy == "partial"
        video = read_video(path, fps=25.0, size=SIZE, partial=True)
        count = len(video.frames)
        assert 5 < count < 15 and "20 frames promised" in video.notes[0]
        # The last one may be what the damage inflates to.
        np.testing.assert_array_equal(video.frames[:-1], (frames // 2 + noise)[: count - 1])


def test_a_deflated_bomb(write_dicom, numbered, monkeypatch):
    path = write_dicom(numbered(20), syntax=DeflatedExplicitVRLittleEndian)
    monkeypatch.setattr(limits, "MAX_UNPACKED", 500_000)
    with pytest.raises(VideoError, match="deflated DICOM of more than"):
        shown(path)
    monkeypatch.setattr(limits, "MAX_UNPACKED", 600_000)
    assert shown(path).native_frames == 20


def _foreign(numbered):
    """Starts of files that are no DICOM."""
    frames = numbered(4)
    for container in ("mp4", "mov", "avi", "matroska", "mpegts", "vob", "mpeg"):
        codec = "mpeg2video" if container in ("vob", "mpeg", "mpegts") else "mpeg4"
        yield encode_stream(frames, codec, container)
    yield encode_stream(frames, "mpeg2video", "mpeg2video")
    yield encode_stream(frames, "libx264", "h264")
    yield cv2.imencode(".jpg", frames[0])[1].tobytes()
    yield cv2.imencode(".png", frames[0])[1].tobytes()
    for kind in ("BMP", "TIFF", "GIF", "TGA", "ICO", "PCX", "WEBP", "PPM", "SGI"):
        image = io.BytesIO()
        Image.fromarray(frames[0]).save(image, kind)
        yield image.getvalue()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("a.txt", "text " * 300)
    yield archive.getvalue()
    yield json.dumps({"text": "DICM" * 100}).encode()
    yield b"DICM and so on " * 40
    yield bytes(600)
    yield b"\xff" * 600
    yield b""
    for group in (b"\x02\0", b"\x08\0", b"\0\x08"):
        yield group + bytes(600)
    draw = np.random.default_rng(0)
    for group in (b"\x02\0", b"\x08\0", b"\0\x08", b""):
        for _ in range(500):
            yield group + draw.bytes(512)


def test_nothing_else_is_taken_for_dicom(numbered):
    for data in _foreign(numbered):
        # "DICM" where its magic stands is the one thing that text may hold.
        assert not sniff(data[:512]) or data[128:132] == b"DICM", data[:24]


def test_all_of_pydicoms_examples_are_taken_for_dicom():
    for name in ("ct", "mr", "rgb_color", "ybr_color", "palette_color", "jpeg2k", "rt_plan"):
        data = Path(pydicom.examples.get_path(name)).read_bytes()
        assert sniff(data[:512]) and sniff(data[132:644]), name
