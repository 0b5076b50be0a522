"""DICOM's ways to store samples: planes, palettes, tables, windows, compressions, odd clocks."""

import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, RLELossless

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
