"""Which frames of a video a call shows: the device function and its host specification."""

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.tools.grammar import Tool

NEAREST = 3  # frames that get_frame shows


def select_frames(
    tool: jax.Array,
    start: jax.Array,
    end: jax.Array,
    times: jax.Array,
    length: jax.Array,
    max_frames: int,
) -> tuple[jax.Array, jax.Array]:
    """The frames of one video that a valid call shows; vmap it over rows.

    crop_video: the frames with start <= time <= end; more than `max_frames` are thinned evenly,
    first and last kept; if there is none, the one nearest to the middle.
    get_frame: the three nearest frames in time order, ties to the earlier.
    No tool: none. A failed call shows its error text in place of frames, whatever is returned here.

        times 0 1 2 3 4 5, crop 1.0-4.0, max_frames 3  ->  indices 1 3 4, count 3

    Args:
        tool: [] int32, a Tool.
        start, end: [] float32 seconds; get_frame's timestamp is `start`.
        times: [T] float32 seconds, ascending over the first `length` entries; the others are
            padding and never chosen.
        length: [] int32.

    Returns:
        (indices [max_frames] int32, count [] int32); indices beyond count are 0.
    """
    num_frames = times.shape[0]
    place = jnp.arange(max_frames, dtype=jnp.int32)
    index = jnp.arange(num_frames, dtype=jnp.int32)
    valid = index < length

    inside = valid & (times >= start) & (times <= end)
    total = jnp.sum(inside, dtype=jnp.int32)
    first = jnp.argmax(inside).astype(jnp.int32)
    kept = jnp.minimum(total, max_frames)
    crop = first + _spread(place, total, kept)
    middle = _nearest(times, valid, 0.5 * (start + end))
    crop = jnp.where(total > 0, crop, middle)
    crop_count = jnp.where(total > 0, kept, jnp.minimum(length, 1))

    nearest = []
    remaining = valid
    for _ in range(min(NEAREST, max_frames)):
        best = _nearest(times, remaining, start)
        # Exhausted: sort behind every real frame.
        nearest.append(jnp.where(jnp.any(remaining), best, num_frames))
        remaining = remaining & (index != best)
    pad = [jnp.full((), num_frames, jnp.int32)] * (max_frames - len(nearest))
    frame = jnp.sort(jnp.stack(nearest + pad))
    frame_count = jnp.minimum(length, len(nearest))

    count = jnp.select(
        [tool == Tool.CROP_VIDEO, tool == Tool.GET_FRAME], [crop_count, frame_count], 0
    ).astype(jnp.int32)
    indices = jnp.where(tool == Tool.CROP_VIDEO, crop, frame)
    return jnp.where(place < count, indices, 0).astype(jnp.int32), count


def _nearest(times: jax.Array, allowed: jax.Array, moment: jax.Array) -> jax.Array:
    """Index of the allowed time nearest to `moment`; argmin takes the earlier of equals."""
    distance = jnp.where(allowed, jnp.abs(times - moment), jnp.inf)
    return jnp.argmin(distance).astype(jnp.int32)


def _spread(place: jax.Array, total: jax.Array, kept: jax.Array) -> jax.Array:
    """Offsets of `kept` of `total` frames: round(place * (total - 1) / (kept - 1)), halves up.

    Integers only, so host and device cannot differ. With kept = 1 it is the middle frame.
    """
    last, gaps = total - 1, kept - 1
    spread = (2 * place * last + gaps) // (2 * gaps + (gaps < 1) * 2)
    return spread + (gaps == 0) * (last // 2)


def select_frames_host(
    tool: int, start: float, end: float, times: np.ndarray, length: int, max_frames: int
) -> tuple[np.ndarray, int]:
    """Plain NumPy specification of `select_frames`: same arguments, same result."""
    low, high = np.float32(start), np.float32(end)
    times = np.asarray(times, np.float32)[:length]
    chosen: list[int] = []
    if length and tool == Tool.CROP_VIDEO:
        chosen = [int(i) for i in np.flatnonzero((times >= low) & (times <= high))]
        if not chosen:
            chosen = [int(np.argmin(np.abs(times - np.float32(0.5) * (low + high))))]
        elif len(chosen) > max_frames == 1:
            chosen = [chosen[(len(chosen) - 1) // 2]]
        elif len(chosen) > max_frames:
            last, gaps = len(chosen) - 1, max_frames - 1
            chosen = [chosen[(2 * i * last + gaps) // (2 * gaps)] for i in range(max_frames)]
    elif length and tool == Tool.GET_FRAME:
        order = np.argsort(np.abs(times - low), kind="stable")
        chosen = sorted(int(i) for i in order[: min(NEAREST, max_frames)])
    indices = np.zeros(max_frames, np.int32)
    indices[: len(chosen)] = chosen
    return indices, len(chosen)
