"""DICOM's ways to store samples: planes, palettes, tables, windows, compressions, odd clocks."""

import fractions
import io
import itertools

import av
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_voi_lut, get_decoder
from pydicom.sequence import Sequence
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


def test_planes(write_dicom, coloured):
    def in_planes(data):
        data.PlanarConfiguration = 1
        data.PixelData = coloured.transpose(0, 3, 1, 2).tobytes()

    np.testing.assert_array_equal(read(write_dicom(coloured, change=in_planes)).frames, coloured)


def test_uncompressed_ybr(write_dicom, coloured):
    """Luma and chroma by the matrix of ITU-R BT.601, full range, as PS3.3 C.7.6.3.1.2 writes it."""
    red, green, blue = np.moveaxis(coloured.astype(float), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = [(blue - luma) / 1.772 + 128, (red - luma) / 1.402 + 128]
    stored = np.clip(np.round(np.stack([luma, *chroma], -1)), 0, 255).astype(np.uint8)
    path = write_dicom(stored, PhotometricInterpretation="YBR_FULL")
    assert np.abs(read(path).frames.astype(int) - coloured).max() <= 3


def test_a_palette(write_dicom):
    table = np.random.default_rng(1).integers(0, 256, (3, 256), dtype=np.uint8)

    def with_palette(data):
        data.PhotometricInterpretation = "PALETTE COLOR"
        for name, values in zip(("Red", "Green", "Blue"), table, strict=True):
            deep = (values.astype(np.uint16) << 8) | values
            setattr(data, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(data, f"{name}PaletteColorLookupTableData", deep.tobytes())

    indices = np.random.default_rng(2).integers(0, 256, (3, *SIZE), dtype=np.uint8)
    video = read(write_dicom(indices, change=with_palette))
    np.testing.assert_array_equal(video.frames, table.T[indices])


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_functions(write_dicom, ramp, function):
    """Of several windows the first one, as pydicom computes it."""
    windows = {"WindowCenter": ["1500", "40"], "WindowWidth": ["1800", "80"]}
    path = write_dicom(ramp, VOILUTFunction=function, **windows, **TWELVE)
    data = pydicom.dcmread(path)
    expected = apply_voi_lut(data.pixel_array, data, index=0) / 4095 * 255
    shown = read(path).frames
    np.testing.assert_allclose(shown[..., 0], expected, atol=1.01)
    assert shown.min() < 30 and shown.max() > 225


def test_a_window_with_no_width_is_none(write_dicom, ramp):
    plain = read(write_dicom(ramp, **TWELVE)).frames
    odd = read(write_dicom(ramp, WindowCenter="9", WindowWidth="0", **TWELVE)).frames
    np.testing.assert_array_equal(odd, plain)
    assert plain.min() == 0 and plain.max() == 255


def test_a_table_of_values_of_interest(write_dicom, ramp):
    entries = (np.linspace(0, 1, 4096) ** 2 * 65535).astype(np.uint16)

    def with_table(data):
        item = Dataset()
        item.LUTDescriptor = [4096, 0, 16]
        item.LUTData = entries.tolist()
        item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "US"
        data.VOILUTSequence = Sequence([item])

    shown = read(write_dicom(ramp, change=with_table, **TWELVE)).frames
    np.testing.assert_allclose(shown[..., 0], entries[ramp] / 257, atol=0.51)


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


@pytest.mark.parametrize(
    ("said", "kept"),
    [*itertools.product([8, 16], ["low", "high", "both"]), (8, "bytes")],
)
def test_palettes_of_eight_bits(write_dicom, said, kept):
    """Eight bits in words of 16: below, above, in both halves; and two to a word."""
    table = np.random.default_rng(1).integers(0, 256, (3, 256), dtype=np.uint8)

    def with_palette(data):
        data.PhotometricInterpretation = "PALETTE COLOR"
        for name, values in zip(("Red", "Green", "Blue"), table, strict=True):
            wide = values.astype(np.uint16)
            stored = {"low": wide, "high": wide << 8, "both": wide * 257, "bytes": values}[kept]
            setattr(data, f"{name}PaletteColorLookupTableDescriptor", [256, 0, said])
            setattr(data, f"{name}PaletteColorLookupTableData", stored.tobytes())

    indices = np.random.default_rng(2).integers(0, 256, (3, *SIZE), dtype=np.uint8)
    video = read(write_dicom(indices, change=with_palette))
    np.testing.assert_array_equal(video.frames, table.T[indices])


@pytest.mark.parametrize("first", [0, 100, -20])
def test_a_short_palette_that_starts_anywhere(write_dicom, first):
    """The first entry stands for all values below it, the last for all above."""
    table = np.arange(30, 80, dtype=np.uint8)

    def with_palette(data):
        data.PhotometricInterpretation = "PALETTE COLOR"
        for name in ("Red", "Green", "Blue"):
            descriptor = [len(table), first % 65536, 16]
            setattr(data, f"{name}PaletteColorLookupTableDescriptor", descriptor)
            data[f"{name}PaletteColorLookupTableDescriptor"].VR = "US"
            wide = table.astype(np.uint16) << 8
            setattr(data, f"{name}PaletteColorLookupTableData", wide.tobytes())

    kind = np.int16 if first < 0 else np.uint16
    indices = np.tile(np.arange(-40, 216, 4).clip(0 if first >= 0 else None), (2, 16, 1))
    video = read(write_dicom(indices.astype(kind), change=with_palette))
    np.testing.assert_array_equal(video.frames[..., 1], table[np.clip(indices - first, 0, 49)])


def test_a_palette_in_segments(write_dicom):
    """Discrete and linear segments, as pydicom expands them."""
    segments = [0, 2, 100, 900, 1, 100, 40_000, 0, 1, 5, 1, 153, 65_535]

    def with_palette(data):
        data.PhotometricInterpretation = "PALETTE COLOR"
        for name in ("Red", "Green", "Blue"):
            setattr(data, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
            raw = np.array(segments, np.uint16).tobytes()
            setattr(data, f"Segmented{name}PaletteColorLookupTableData", raw)

    indices = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (2, 16, 1))
    path = write_dicom(indices, change=with_palette)
    data = pydicom.dcmread(path)
    expected = apply_color_lut(data.pixel_array, data) >> 8
    np.testing.assert_array_equal(read(path).frames, expected)


def _group(**tags):
    """A functional group. window: center, width, perhaps function. rescale: slope, intercept."""
    group = Dataset()
    if "window" in tags:
        inner = Dataset()
        inner.WindowCenter, inner.WindowWidth = map(str, tags["window"][:2])
        if len(tags["window"]) > 2:
            inner.VOILUTFunction = tags["window"][2]
        group.FrameVOILUTSequence = Sequence([inner])
    if "rescale" in tags:
        inner = Dataset()
        inner.RescaleSlope, inner.RescaleIntercept = map(str, tags["rescale"])
        inner.RescaleType = "US"
        group.PixelValueTransformationSequence = Sequence([inner])
    return group


def _windowed(ramp, center, width, slope=1.0, intercept=0.0):
    """DICOM PS3.3 C.11.2.1.2.1, linear, over 0 to 255."""
    values = ramp.astype(float) * slope + intercept
    return np.clip(((values - (center - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)


def test_windows_in_functional_groups(write_dicom, ramp):
    def shared(data):
        data.SharedFunctionalGroupsSequence = Sequence([_group(window=(300, 400))])

    def shared_all(data):
        group = _group(window=(1000, 2000), rescale=(2, -500))
        data.SharedFunctionalGroupsSequence = Sequence([group])

    def own(data):
        shared(data)
        groups = [_group(window=(500, 1000)), _group(rescale=(0.5, 10))]
        data.PerFrameFunctionalGroupsSequence = Sequence(groups)

    def exact(data):
        group = _group(window=(2000, 1000, "LINEAR_EXACT"))
        data.SharedFunctionalGroupsSequence = Sequence([group])

    for change, expected in (
        (shared, [_windowed(ramp[0], 300, 400)] * 2),
        (shared_all, [_windowed(ramp[0], 1000, 2000, 2, -500)] * 2),
        (own, [_windowed(ramp[0], 500, 1000), _windowed(ramp[0], 300, 400, 0.5, 10)]),
        (exact, [np.clip((ramp[0] - 1500.0) / 1000, 0, 1) * 255] * 2),
    ):
        for tags in ({}, {"WindowCenter": "9", "WindowWidth": "9"}):
            grey = read(write_dicom(ramp, change=change, **tags, **TWELVE)).frames[..., 0]
            np.testing.assert_allclose(grey, expected, atol=0.51)


def test_groups_for_fewer_frames(write_dicom, ramp):
    def own(data):
        data.PerFrameFunctionalGroupsSequence = Sequence([_group(window=(500, 1000))])

    with pytest.raises(VideoError, match="colours cannot be interpreted"):
        read(write_dicom(ramp, change=own, **TWELVE))


@pytest.mark.parametrize("where", ["file", "shared", "own"])
@pytest.mark.parametrize("slope", ["1", "1.0", "1e0"])
def test_a_rescale_that_changes_nothing(write_dicom, where, slope):
    frames = np.tile(np.arange(40, 104, dtype=np.uint8), (2, 16, 1))

    def grouped(data):
        group = _group(rescale=(slope, "0"))
        if where == "shared":
            data.SharedFunctionalGroupsSequence = Sequence([group])
        elif where == "own":
            data.PerFrameFunctionalGroupsSequence = Sequence([group, group])

    tags = {"RescaleSlope": slope, "RescaleIntercept": "0.0"} if where == "file" else {}
    video = read(write_dicom(frames, change=grouped, **tags))
    np.testing.assert_array_equal(video.frames[..., 0], frames)


@pytest.mark.parametrize(
    "tags",
    [
        {"RescaleSlope": "1e308", "RescaleIntercept": "0"},
        {"RescaleSlope": "nan", "RescaleIntercept": "0"},
        {"RescaleSlope": "1", "RescaleIntercept": "-inf"},
        {"WindowCenter": "1e300", "WindowWidth": "10"},
        {"WindowCenter": "1", "WindowWidth": "1e300"},
    ],
)
def test_numbers_that_no_grey_has(write_dicom, ramp, tags):
    with pydicom.config.disable_value_validation():
        path = write_dicom(ramp, **tags, **TWELVE)
    with pytest.raises(VideoError, match="colours cannot be interpreted"):
        read(path)


def test_a_modality_table(write_dicom, ramp):
    entries = np.linspace(3000, 0, 4096).astype(np.uint16)

    def with_table(data):
        item = Dataset()
        item.LUTDescriptor = [4096, 0, 16]
        item.LUTData = entries.tolist()
        item["LUTDescriptor"].VR, item["LUTData"].VR = "US", "US"
        data.ModalityLUTSequence = Sequence([item])

    window = {"WindowCenter": "1500", "WindowWidth": "3000"}
    shown = read(write_dicom(ramp, change=with_table, **window, **TWELVE)).frames[..., 0]
    np.testing.assert_allclose(shown, _windowed(entries[ramp].astype(float), 1500, 3000), atol=0.51)


def test_deep_colour(write_dicom):
    """Twelve bits of colour keep their upper eight."""
    deep = np.random.default_rng(0).integers(0, 4096, (2, *SIZE, 3)).astype(np.uint16)
    shown = read(write_dicom(deep, **TWELVE)).frames
    np.testing.assert_allclose(shown, deep / 4095 * 255, atol=0.51)


def test_thirty_two_bits(write_dicom):
    deep = np.tile(np.linspace(0, 2**31, 64).astype(np.uint32), (2, 16, 1))
    shown = read(write_dicom(deep)).frames[..., 0]
    np.testing.assert_allclose(shown, deep / 2**31 * 255, atol=0.51)


def test_one_bit(write_dicom):
    """Bits lie eight to a byte, frames without a gap between them."""
    bits = np.random.default_rng(0).integers(0, 2, (5, 3, 5)).astype(np.uint8)

    def packed(data):
        data.PixelData = np.packbits(bits.ravel(), bitorder="little").tobytes()
        data.BitsAllocated = data.BitsStored = 1
        data.HighBit = 0

    video = read_video(write_dicom(bits, change=packed), fps=25.0, size=(3, 5))
    np.testing.assert_array_equal(video.frames[..., 0], bits * 255)


def test_bits_above_those_stored_are_nothing(write_dicom, ramp):
    """PS3.5 8.1.1: they may hold overlays or anything."""
    window = {"WindowCenter": "2048", "WindowWidth": "4096", **TWELVE}
    plain = read(write_dicom(ramp, **window)).frames
    dirty = ramp | (np.arange(64, dtype=np.uint16) << 12)
    np.testing.assert_array_equal(read(write_dicom(dirty, **window)).frames, plain)
    packed = write_dicom(dirty, change=lambda data: data.compress(RLELossless), **window)
    np.testing.assert_array_equal(read(packed).frames, plain)


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
