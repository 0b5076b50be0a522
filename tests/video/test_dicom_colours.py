"""DICOM's colours: planes, luma and chroma, palettes."""

import itertools

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_color_lut

from medscope_jax.video import read_video

SIZE = (16, 64)


@pytest.fixture
def coloured():
    """uint8 RGB [6, 16, 64, 3], no two pixels or channels alike."""
    return np.random.default_rng(0).integers(0, 256, (6, *SIZE, 3), dtype=np.uint8)


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


def test_deep_colour(write_dicom):
    """Twelve bits of colour keep their upper eight."""
    deep = np.random.default_rng(0).integers(0, 4096, (2, *SIZE, 3)).astype(np.uint16)
    shown = read(write_dicom(deep, **TWELVE)).frames
    np.testing.assert_allclose(shown, deep / 4095 * 255, atol=0.51)
