"""What a recording may ask for: a few bytes must not claim all of a machine's time or memory.

Each limit lies above what recorders write and below what would stop a machine; whatever goes
beyond is refused in one line that states the limit (docs/recordings.md lists them).
"""

import math

from medscope_jax.video.frames import VideoError

MAX_PIXELS = 1 << 25  # of one picture; 8K (7680 x 4320) has 33.2 million
MAX_SCANS = 40  # of a JPEG: progressive ones have about ten, and each costs a pass over the picture
MAX_SECONDS = 7 * 24 * 3600.0  # of a recording: a week
MAX_FRAMES = 1 << 24  # pictures of a recording: a week at 27 a second, 77 hours at 60
MAX_UNPACKED = 1 << 29  # bytes that a compressed part of a file may become at once: 512 MiB


def check_pixels(height: int, width: int, path: str) -> None:
    """Raises VideoError where a picture of height x width pixels is too large to decode."""
    if height * width > MAX_PIXELS:
        raise VideoError(
            f"pictures of {height}x{width} (height x width): at most {MAX_PIXELS:,} pixels are "
            "read; scale the recording down",
            path,
        )


def too_many_scans(jpeg: bytes) -> bool:
    """Whether a JPEG makes a decoder go over its pixels more than MAX_SCANS times."""
    return jpeg.count(b"\xff\xda") > MAX_SCANS  # no coded bytes look like this marker


def check_seconds(seconds: float, path: str) -> None:
    """Raises VideoError where a recording claims to last longer than any, or no number."""
    if not (math.isfinite(seconds) and seconds <= MAX_SECONDS):
        raise VideoError(
            f"its times reach {seconds:.3g} s, and at most {MAX_SECONDS:,.0f} s (a week) are read: "
            "a damaged time, or a recording to split",
            path,
        )


def check_count(frames: int, path: str) -> None:
    """Raises VideoError where a recording claims more pictures than any has."""
    if frames > MAX_FRAMES:
        raise VideoError(
            f"{frames:,} pictures, and at most {MAX_FRAMES:,} are read: split the recording", path
        )
