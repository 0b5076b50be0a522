"""DICOM's run lengths (PS3.5, annex G), never decoded beyond a frame's size."""

import struct

import numpy as np

_MAX_PADDING = 64  # bytes; one makes a segment's length even, and some writers round up further


def decode_runs(data: bytes, shape: tuple[int, int, int], item_bytes: int) -> np.ndarray:
    """A frame stored as run lengths.

    Args:
      data: its fragment.
      shape: (height, width, samples).
      item_bytes: bytes of a sample.

    Returns:
      Unsigned integers of that many bytes, [h, w, samples].

    Raises:
      ValueError: the segments are not those of such a frame.
    """
    height, width, samples = shape
    count = samples * item_bytes
    if len(data) < 64 or struct.unpack_from("<I", data)[0] != count or count > 15:
        raise ValueError
    bounds = [*struct.unpack_from(f"<{count}I", data, 4), len(data)]
    frame = np.empty((height * width, samples, item_bytes), np.uint8)
    for segment in range(count):
        sample, byte = divmod(segment, item_bytes)
        runs = data[bounds[segment] : bounds[segment + 1]]
        # The most significant byte comes first.
        frame[:, sample, item_bytes - 1 - byte] = _segment(runs, height * width)
    return frame.view(f"<u{item_bytes}").reshape(shape)


def _segment(runs: bytes, size: int) -> np.ndarray:
    """The first `size` bytes that a segment stands for."""
    plain, at, left = bytearray(), 0, size
    try:
        while left > 0:
            count = runs[at] + 1
            at += 1
            if count < 129:
                plain += runs[at : at + count]
                at += count
                left -= count
            elif count > 129:  # 129 does nothing
                plain += runs[at : at + 1] * (258 - count)
                at += 1
                left -= 258 - count
    except IndexError:
        raise ValueError from None
    # More than padding behind it: the frame is larger than it is said to be.
    if len(plain) < size or len(runs) - at > _MAX_PADDING:
        raise ValueError
    return np.frombuffer(plain, np.uint8)[:size]
