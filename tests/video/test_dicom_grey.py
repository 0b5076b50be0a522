"""DICOM's grey values: windows, rescales and tables, of the file or of functional groups."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless

from medscope_jax.video import VideoError, read_video

SIZE = (16, 64)


@pytest.fixture
def ramp():
    """uint16 [2, 16, 64], 12 bits: 0 to 4032 from left to right."""
    return np.tile(np.arange(0, 4096, 64, dtype=np.uint16), (2, 16, 1))


TWELVE = {"BitsStored": 12, "HighBit": 11}


def read(path, **options):
    return read_video(path, fps=25.0, size=SIZE, **options)


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
