"""Frame selection on device equals its NumPy specification, which is tested by hand."""

import jax
import numpy as np
import pytest

from medscope_jax.tools import Tool, select_frames, select_frames_host

TICKS = np.arange(10, dtype=np.float32)


@pytest.mark.parametrize(
    ("tool", "start", "end", "length", "max_frames", "expected"),
    [
        (Tool.CROP_VIDEO, 2.0, 4.0, 10, 4, [2, 3, 4]),
        (Tool.CROP_VIDEO, 1.0, 4.0, 10, 3, [1, 3, 4]),
        (Tool.CROP_VIDEO, 0.0, 9.0, 10, 4, [0, 3, 6, 9]),
        (Tool.CROP_VIDEO, 0.0, 9.0, 10, 1, [4]),
        (Tool.CROP_VIDEO, 0.0, 9.0, 10, 2, [0, 9]),
        (Tool.CROP_VIDEO, 0.0, 9.0, 5, 16, [0, 1, 2, 3, 4]),  # frames 5 to 9 are padding
        (Tool.CROP_VIDEO, 2.2, 2.8, 10, 4, [2]),  # none inside, tie: the earlier
        (Tool.CROP_VIDEO, 2.4, 2.8, 10, 4, [3]),
        (Tool.CROP_VIDEO, 7.0, 9.0, 3, 4, [2]),  # nothing but padding inside
        (Tool.GET_FRAME, 5.0, 5.0, 10, 4, [4, 5, 6]),
        (Tool.GET_FRAME, 5.5, 5.5, 10, 4, [4, 5, 6]),  # tie of 4 and 7: the earlier
        (Tool.GET_FRAME, 0.0, 0.0, 10, 4, [0, 1, 2]),
        (Tool.GET_FRAME, 9.9, 9.9, 10, 4, [7, 8, 9]),
        (Tool.GET_FRAME, 5.0, 5.0, 2, 4, [0, 1]),
        (Tool.GET_FRAME, 5.0, 5.0, 1, 4, [0]),
        (Tool.GET_FRAME, 5.1, 5.1, 10, 2, [5, 6]),
        (Tool.NONE, 0.0, 9.0, 10, 4, []),
        (Tool.CROP_VIDEO, 0.0, 9.0, 0, 4, []),
        (Tool.GET_FRAME, 0.0, 0.0, 0, 4, []),
    ],
)
def test_examples(tool, start, end, length, max_frames, expected):
    times = np.where(np.arange(10) < length, TICKS, np.inf).astype(np.float32)
    padded = expected + [0] * (max_frames - len(expected))
    for select in (select_frames_host, select_frames):
        indices, count = select(tool, start, end, times, length, max_frames)
        assert indices.dtype == np.int32
        assert (list(map(int, indices)), int(count)) == (padded, len(expected))


@pytest.mark.parametrize("num_frames", [1, 2, 7, 240])
@pytest.mark.parametrize("max_frames", [1, 2, 5, 16])
def test_device_equals_host(num_frames, max_frames):
    rng = np.random.default_rng(num_frames * 100 + max_frames)
    rows = 256
    length = rng.integers(1, num_frames + 1, rows).astype(np.int32)
    length[:8] = np.minimum([1, 1, 2, 2, 3, 3, num_frames, num_frames], num_frames)
    steps = rng.choice([0.0, 0.04, 0.5, 1.0, 3.7], (rows, num_frames))  # irregular, repeats too
    steps[::2] = 1.0  # regular ticks: ties are common
    times = (np.cumsum(steps, axis=1) - steps[:, :1]).astype(np.float32)
    last = times[np.arange(rows), length - 1]
    # A bank pads with infinity; no other padding may be chosen either.
    padding = np.where(np.arange(rows) % 4 < 2, np.inf, last / 2)[:, None]
    times = np.where(np.arange(num_frames) < length[:, None], times, padding).astype(np.float32)
    start = (rng.uniform(0, 1, rows) * (last + 1)).astype(np.float32)
    start = np.where(rng.random(rows) < 0.5, np.round(2 * start) / 2, start).astype(np.float32)
    width = rng.choice([0.01, 0.5, 1, 5, 30, 300], rows)
    end = np.minimum(start + width, last + 1).astype(np.float32)
    tool = rng.integers(0, 3, rows).astype(np.int32)
    select = jax.vmap(select_frames, in_axes=(0, 0, 0, 0, 0, None))
    indices, count = jax.jit(select, static_argnums=5)(tool, start, end, times, length, max_frames)
    for i in range(rows):
        expected, number = select_frames_host(
            tool[i], start[i], end[i], times[i], length[i], max_frames
        )
        assert int(count[i]) == number
        np.testing.assert_array_equal(indices[i], expected)
        shown = np.asarray(indices[i, :number])
        assert np.all(np.diff(shown) > 0)
        assert np.all(shown < length[i])
