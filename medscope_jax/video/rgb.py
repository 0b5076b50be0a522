"""A decoded picture as RGB, upright: its own colour matrix, range and display matrix."""

from collections.abc import Mapping

import av
import numpy as np
from av.sidedata.sidedata import Type

# Display matrices of what PyAV calls a rotation, in degrees against the clock.
_TURNS = {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}


def to_rgb(picture: av.VideoFrame) -> np.ndarray:
    """A decoded picture as uint8 [h, w, 3] RGB.

    Its colour matrix and range are those that the stream names. Where it names none they are those
    of FFmpeg's own tools: BT.601, and the limited range unless the format says otherwise.
    """
    return picture.to_ndarray(format="rgb24", threads=1)


def display_matrix(picture: av.VideoFrame) -> tuple[int, ...] | None:
    """The 2x2 part (a, b, c, d) of a picture's display matrix; None where it has none.

    The stored point (x, y) is shown at (a x + c y, b x + d y): ISO/IEC 14496-12, 6.2.2.
    """
    try:
        side_data: Mapping = picture.side_data
        data = side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # beside it lies something that PyAV does not know, as Exif
        return _TURNS.get(picture.rotation % 360)
    if data is None:
        return None
    values = np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]]
    return tuple(int(value) for value in values) if values.any() else None


def upright(frame: np.ndarray, matrix: tuple[int, ...] | None) -> np.ndarray:
    """A frame [h, w, 3] turned and mirrored as its display matrix says, to the nearest quarter.

    matrix (0, 1, -1, 0): turned clockwise by 90 degrees, [w, h, 3];  (-1, 0, 0, 1): mirrored left
    and right.
    """
    if matrix is None:
        return frame
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        frame, a, d = frame.transpose(1, 0, 2), c, b
    if a < 0:
        frame = frame[:, ::-1]
    if d < 0:
        frame = frame[::-1]
    return np.ascontiguousarray(frame)
