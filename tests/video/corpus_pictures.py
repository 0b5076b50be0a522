"""Pictures that carry their own number, and a pattern that shows a picture woven of two times.

A number is ten vertical bars, white for 1, most significant on the left; it is read at the middle
of each bar, at half height. Nothing here knows how a recording is written or read.
"""

import numpy as np

BARS = 10
SIZE = (64, 160)  # height, width: bars of 16 columns, as macroblocks are
BLACK, WHITE = 20, 235
STEP = 4  # columns that the moving block goes in one field's time


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """uint8 [H, W, 3] that says `number`, 0 to 1023."""
    bits = (number >> np.arange(BARS)[::-1]) & 1
    columns = np.arange(size[1]) * BARS // size[1]
    row = np.where(bits[columns], WHITE, BLACK).astype(np.uint8)
    return np.repeat(np.broadcast_to(row, size)[..., None], 3, axis=-1)


def number_of(frame: np.ndarray) -> int:
    """The number that a picture [H, W, 3] of any size says."""
    height, width = frame.shape[:2]
    middles = ((np.arange(BARS) + 0.5) * width / BARS).astype(int)
    bits = frame[height // 2, middles].mean(axis=-1) > 127
    return int((bits << np.arange(BARS)[::-1]).sum())


def moving(number: int, size: tuple[int, int] = SIZE, top_first: bool = True) -> np.ndarray:
    """Two fields of two times in one frame: bars in its middle, and a white block on black.

    The block stands in the upper quarter of the picture and goes STEP columns from one field to the
    next, so a frame whose fields are simply woven shows a comb at both of its edges.
    """
    frame = picture(number, size)
    quarter = size[0] // 4
    frame[:quarter] = BLACK
    for second in (False, True):
        lines = slice(int(second == top_first), quarter, 2)
        left = block_left(2 * number + second, size[1])
        frame[lines, left : left + size[1] // 4] = WHITE
    return frame


def block_left(field: int, width: int) -> int:
    """The first column of the moving block in field number `field`."""
    return STEP * field % (width * 3 // 4 - STEP) // 2 * 2


def combing(frame: np.ndarray) -> float:
    """How much of the moving block's lines differ from both neighbours in the same sense, 0 to 1.

    1 / 4 of a block whose fields are STEP columns apart, were they woven, is a comb's teeth.
    """
    grey = frame[: frame.shape[0] // 4, :, 1].astype(int)
    above, here, below = grey[:-2], grey[1:-1], grey[2:]
    teeth = ((here - above) * (here - below) > 60**2)[2:-2]
    return float(teeth.any(axis=0).sum() / STEP)


def block_of(frame: np.ndarray) -> float:
    """The column at which the moving block begins, of the line in the middle of its height."""
    line = frame[frame.shape[0] // 8, :, 1].astype(int)
    return float(np.argmax(line > 127))
