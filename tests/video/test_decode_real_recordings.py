"""Clinical recordings that others publish, as they are; skipped where they can't be fetched."""

import numpy as np
import pydicom
import pytest

from medscope_jax.video import read_video
from tests.video import real_cases


def check(path, fps, size=(96, 128)):
    """Reads a clip twice and compares with pydicom: times from its tags, pixels of its frames."""
    header = pydicom.dcmread(path, stop_before_pixels=True)
    count = int(header.NumberOfFrames)
    native = float(header.FrameTime) / 1000
    video = read_video(path, fps=fps, size=(header.Rows, header.Columns))
    assert video.native_frames == count
    assert video.duration == pytest.approx(count * native)

    # Half a native frame, by the container's own word.
    ticks = np.arange(len(video.times)) / fps
    assert np.abs(video.times - ticks).max() <= native / 2 + 1e-9
    indices = np.round(video.times / native).astype(int)
    np.testing.assert_allclose(video.times, indices * native, atol=1e-9)

    for k in (0, len(indices) // 2, len(indices) - 1):
        reference = pydicom.pixels.pixel_array(path, index=int(indices[k]))
        if reference.ndim == 2:
            reference = np.repeat(reference[..., None], 3, axis=-1)
        shown = np.abs(video.frames[k].astype(int) - reference.astype(int))
        assert shown.max() <= 1
    small = read_video(path, fps=fps, size=size)
    assert small.frames.shape == (len(indices), *size, 3)
    return header, video


def test_an_echocardiogram(cache):
    header, video = check(real_cases.echocardiogram(cache), fps=5.0)
    assert header.NumberOfFrames == 120
    # A moving heart: no two kept frames are the same.
    assert (np.abs(np.diff(video.frames.astype(int), axis=0)).max(axis=(1, 2, 3)) > 8).all()


def test_a_coronary_angiogram(cache):
    header, video = check(real_cases.angiogram(cache), fps=5.0)
    assert header.NumberOfFrames == 96 and header.Modality == "XA"
    assert (video.frames[..., 0] == video.frames[..., 1]).all()
