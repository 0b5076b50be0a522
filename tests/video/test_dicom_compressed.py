"""DICOM's compressions: run lengths, JPEG whose colours speak against the header, lossless ones."""

import fractions
import io

import av
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import get_decoder
from pydicom.uid import (
    JPEG2000,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medscope_jax.video import VideoError, read_video

SIZE = (16, 64)


@pytest.fixture
def coloured():
    """uint8 RGB [6, 16, 64, 3], no two pixels or channels alike."""
    return np.random.default_rng(0).integers(0, 256, (6, *SIZE, 3), dtype=np.uint8)


@pytest.fixture
def ramp():
    """uint16 [2, 16, 64], 12 bits: 0 to 4032 from left to right."""
    return np.tile(np.arange(0, 4096, 64, dtype=np.uint16), (2, 16, 1))


TWELVE = {"BitsStored": 12, "HighBit": 11}


def read(path, **options):
    return read_video(path, fps=25.0, size=SIZE, **options)


def test_run_lengths(write_dicom, coloured, ramp):
    for frames, tags in ((coloured, {}), (ramp, TWELVE)):
        plain = write_dicom(frames, **tags)
        packed = write_dicom(frames, "rle.dcm", change=lambda d: d.compress(RLELossless), **tags)
        assert pydicom.dcmread(packed).file_meta.TransferSyntaxUID == RLELossless
        np.testing.assert_array_equal(read(packed).frames, read(plain).frames)


def test_lossless_wavelets(write_dicom, coloured):
    encoded = []
    for frame in coloured:
        stream = io.BytesIO()
        Image.fromarray(frame).save(stream, "JPEG2000", no_jp2=True, irreversible=False, mct=1)
        encoded.append(stream.getvalue())
    path = write_dicom(
        coloured, syntax=JPEG2000Lossless, encoded=encoded, PhotometricInterpretation="YBR_RCT"
    )
    try:
        frames = read(path).frames
    except VideoError as error:
        # What pydicom decodes depends on which packages are there; saying which is the contract.
        assert "python -m pip install" in error.reason
        pytest.skip(error.reason)
    np.testing.assert_array_equal(frames, coloured)


def _jpeg(planes, sampling, markers=b"", identifiers=(1, 2, 3)):
    """A JPEG of three planes [3, h, w] as they are: no colour transform, no marker but `markers`.

    sampling: "444" or "420", the size of the second and third plane beside the first.
    """
    stream = io.BytesIO()
    image = Image.merge("YCbCr", [Image.fromarray(plane) for plane in planes])
    image.save(stream, "JPEG", quality=95, subsampling={"444": 0, "420": 2}[sampling])
    data = stream.getvalue()
    assert data[2:4] == b"\xff\xe0"  # JFIF, which Pillow writes
    data = data[:2] + markers + data[4 + int.from_bytes(data[4:6], "big") :]
    frame = data.index(b"\xff\xc0")
    scan = data.index(b"\xff\xda")
    data = bytearray(data)
    for index, identifier in enumerate(identifiers):
        data[frame + 10 + 3 * index] = data[scan + 5 + 2 * index] = identifier
    return bytes(data)


JFIF = b"\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"


def _adobe(transform):
    return b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])


@pytest.mark.parametrize(
    ("model", "stored", "sampling", "markers", "identifiers"),
    [
        # Nothing in the frame says what it is: the header does.
        ("RGB", "rgb", "444", b"", (1, 2, 3)),
        ("YBR_FULL_422", "ycc", "420", b"", (1, 2, 3)),
        ("YBR_FULL", "ycc", "444", b"", (0, 1, 2)),
        # Sizes, markers and identifiers that speak against the header.
        ("RGB", "ycc", "420", b"", (1, 2, 3)),
        ("RGB", "ycc", "420", b"", (0, 1, 2)),
        ("RGB", "ycc", "444", JFIF, (1, 2, 3)),
        ("RGB", "ycc", "444", _adobe(1), (1, 2, 3)),
        ("RGB", "rgb", "444", _adobe(0), (1, 2, 3)),
        ("YBR_FULL_422", "ycc", "444", _adobe(1), (1, 2, 3)),
        ("YBR_FULL_422", "rgb", "444", _adobe(0), (1, 2, 3)),
        ("YBR_FULL_422", "rgb", "444", b"", tuple(b"RGB")),
        ("YBR_FULL_422", "rgb", "444", b"", tuple(b"rgb")),
        ("RGB", "rgb", "444", b"", tuple(b"RGB")),
    ],
)
def test_jpeg_colours(write_dicom, model, stored, sampling, markers, identifiers):
    patches = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [230, 230, 30]], np.uint8)
    rgb = np.repeat(np.repeat(patches[None], 16, axis=0), 16, axis=1)
    planes = np.array(Image.fromarray(rgb).convert("YCbCr")) if stored == "ycc" else rgb
    frame = _jpeg(planes.transpose(2, 0, 1), sampling, markers, identifiers)
    path = write_dicom(
        np.stack([rgb] * 2),
        syntax=JPEGBaseline8Bit,
        encoded=[frame] * 2,
        PhotometricInterpretation=model,
    )
    shown = read(path).frames[0, 8, 8::16]
    assert np.abs(shown.astype(int) - patches).max() <= 6, shown


def test_missing_plugins_are_named(write_dicom, coloured, monkeypatch):
    """Lossless JPEG and the like need packages that an extra brings; run lengths never do."""
    for syntax in (JPEGLSLossless, JPEGLosslessSV1, JPEG2000):
        monkeypatch.setattr(type(get_decoder(syntax)), "is_available", False)
        path = write_dicom(coloured, syntax=syntax, encoded=[b"\xff\xd8\xff"] * 6)
        with pytest.raises(VideoError) as caught:
            read(path)
        assert "python -m pip install pylibjpeg" in caught.value.reason
        assert syntax.name in caught.value.reason


def _still(codec, frame, pix_fmt):
    """A frame as one of FFmpeg's still-picture encoders writes it."""
    context = av.CodecContext.create(codec, "w")
    context.height, context.width = frame.shape[-2:] if pix_fmt == "yuvj444p" else frame.shape[:2]
    context.pix_fmt, context.time_base = pix_fmt, fractions.Fraction(1, 25)
    context.color_range, context.options = 2, {"strict": "-1"}
    picture = av.VideoFrame.from_ndarray(frame, format=pix_fmt)
    picture.color_range = 2
    packets = [*context.encode(picture), *context.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


def _lossless_cases():
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
    grey, deep = colour[..., 0], colour[..., 0].astype(np.uint16) * 257

    # Three planes as they are: no marker says that they are luma and chroma.
    planes = np.ascontiguousarray(colour.transpose(0, 3, 1, 2))
    ljpeg = [_still("ljpeg", frame, "yuvj444p") for frame in planes]
    yield "jls", JPEGLSLossless, [_still("jpegls", f, "gray") for f in grey], grey
    yield "jls16", JPEGLSLossless, [_still("jpegls", f, "gray16le") for f in deep], deep
    yield "jls3", JPEGLSLossless, [_still("jpegls", f, "rgb24") for f in colour], colour
    yield "lossless", JPEGLosslessSV1, ljpeg, colour


@pytest.mark.parametrize("case", ["jls", "jls16", "jls3", "lossless"])
def test_lossless_compressions(write_dicom, case):
    """Exact with pyproject.toml's extra "dicom"; without it, one line that names the packages."""
    syntax, encoded, frames = next(rest for name, *rest in _lossless_cases() if name == case)
    path = write_dicom(frames, syntax=syntax, encoded=encoded)
    decoder = get_decoder(syntax)
    if decoder.is_available:
        shown = read(path).frames
        expected = frames >> 8 if frames.dtype == np.uint16 else frames
        expected = expected if expected.ndim == 4 else np.repeat(expected[..., None], 3, axis=-1)
        if frames.dtype == np.uint16:  # no window: stretched over what is there
            assert np.abs(shown.astype(int) - expected).max() <= 1
        else:
            np.testing.assert_array_equal(shown, expected)
    else:
        with pytest.raises(VideoError, match="python -m pip install pylibjpeg"):
            read(path)
