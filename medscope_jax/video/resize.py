"""Frame sizes and pixels as Qwen2.5-VL's processor makes them, and few sizes for many recordings.

What the reference does to an image: smart_resize says the size, bicubic resampling makes the
pixels, and each channel is rescaled to 0..1 and normalized. Here resize_frames does the first two;
the model normalizes (models/vision.py). With transformers' Pillow backend the pixels are the very
same. Its torchvision backend, preferred where torchvision is installed, rounds the same filter's
weights otherwise: under 1% of the values differ, by one level of 255 and rarely by two. Only where
one side grows and the other shrinks do they take the sides in another order (Pillow 13 the
shrinking one first), and values are clipped in between: noise can then differ by some 20 levels.

A compiled program has one frame size. bucket_size maps any resolution to one of some ten sizes, so
that recordings of all sorts of resolution compile ten times at most.
"""

import math

import numpy as np
from PIL import Image

from medscope_jax.errors import UserError

MAX_RATIO = 200  # sides further apart than that are refused, by the reference too

# Width : height of recordings as they come: scopes (1:1, 5:4, 4:3), cameras (3:2, 16:9), wide
# screens, two stereo pictures side by side; each lying and standing.
_LYING = ((1, 1), (5, 4), (4, 3), (3, 2), (16, 9), (21, 9), (32, 9))
ASPECTS = (*_LYING, *((height, width) for width, height in _LYING[1:]))


def smart_resize(
    height: int,
    width: int,
    factor: int = 28,
    min_pixels: int = 56 * 56,
    max_pixels: int = 28 * 28 * 1280,
) -> tuple[int, int]:
    """The size (height, width) to which the reference resizes an image, in pixels.

    Both sides become multiples of factor (patch size times merge size), their product lies within
    min_pixels..max_pixels where that is possible, and the aspect ratio stays about the same. Equal
    to transformers' smart_resize, whose floating-point steps it follows: at an exact edge they
    decide (239 x 239 pixels become 196 x 196 where max_pixels would allow 224 x 224).

    Raises:
        UserError: no pixels, or one side over 200 times the other.
    """
    if min(height, width) < 1 or max(height, width) / min(height, width) > MAX_RATIO:
        raise UserError(
            f"frames of {height}x{width} pixels can't be resized: both sides must be at least 1, "
            f"and neither over {MAX_RATIO} times the other"
        )
    sides = (height, width)
    rounded = tuple(round(side / factor) * factor for side in sides)
    if math.prod(rounded) > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        rounded = tuple(max(factor, math.floor(s / shrink / factor) * factor) for s in sides)
    elif math.prod(rounded) < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rounded = tuple(math.ceil(s * grow / factor) * factor for s in sides)
    return rounded[0], rounded[1]


def resize_frames(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames uint8 [T, H, W, 3] in RGB to size (height, width): uint8 [T, height, width, 3].

    Bicubic, averaging over the pixels that a new one covers, in fixed-point arithmetic: Pillow's,
    to the bit. (OpenCV's bicubic covers four pixels whatever the scale and has another kernel.)
    """
    height, width = size
    resized = np.empty((len(frames), height, width, frames.shape[3]), np.uint8)
    for frame, target in zip(frames, resized, strict=True):
        image = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
        target[:] = np.asarray(image)
    return resized


def bucket_size(
    height: int,
    width: int,
    max_pixels: int,
    factor: int = 28,
    aspects: tuple[tuple[int, int], ...] = ASPECTS,
) -> tuple[int, int]:
    """The one of few sizes (height, width) for frames of height x width pixels.

    It is the size of the aspect (width : height) nearest to the frame's, by their ratio, and fills
    max_pixels: what smart_resize gives a recording of just that aspect and more than max_pixels,
    were its arithmetic exact. So recordings of these aspects get the reference's size, but for some
    1% of resolutions whose size hangs on its rounding; others are stretched to the nearest aspect,
    small ones enlarged.

        1920x1080 and 1280x720, max_pixels 224 * 224 -> 168x280;  720x576 -> 196x224

    Raises:
        UserError: as smart_resize, or max_pixels below one token.
    """
    smart_resize(height, width, factor)
    ratio = width / height
    nearest = min(aspects, key=lambda aspect: abs(math.log(ratio * aspect[1] / aspect[0])))
    return _fill(*nearest, max_pixels, factor)


def _fill(wide: int, high: int, max_pixels: int, factor: int) -> tuple[int, int]:
    """The largest multiples of factor under sides of the ratio wide : high and max_pixels."""
    if max_pixels < factor**2:
        raise UserError(f"max_pixels {max_pixels} holds no token of {factor}x{factor} pixels")
    tokens = max_pixels // factor**2
    # floor(sqrt(a / b)) is isqrt(a // b): no rounding decides.
    rows = max(1, math.isqrt(max_pixels * high // (wide * factor**2)))
    columns = max(1, math.isqrt(max_pixels * wide // (high * factor**2)))
    return min(rows, tokens) * factor, min(columns, tokens) * factor
