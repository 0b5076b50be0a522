"""What one case of the corpus is: how a recording is made, and what is right to read of it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

# Words of a note that something did not come: an undamaged recording must not have one.
LOSS = r"(?i)lost|missing|damag|promis|cut short|broken|not decod|can't be decod|incomplete"


@dataclasses.dataclass(frozen=True)
class Case:
    """One recording and its right values.

    Attributes:
      name: of the case, as test ids show it.
      make: (a folder of its own) -> the recording's path.
      times: seconds of every picture, increasing; None: it is to be refused.
      shown: what each picture says.
      refused: pattern of the one line that refuses it; "" where it is read.
      note: pattern that one of the notes must match; "" where none is needed, and then none may
        speak of a loss (LOSS).
      doubt: what its headers or stamps say looks like a loss: a note may speak of one.
      alternatives: other times that are right too.
      tolerance: seconds that times may be off; at most half of a picture's time.
      options: further arguments of read_video.
      judge: Video -> None, in place of times and shown where more than one answer is right.
      look: frames [T, h, w, 3] at their own size -> None; asserts what else must be right.
      size: (H, W) that pictures have as shown, turned if they are; None where it does not matter.
      probe: why ffprobe's own times are not to be compared; "" where they are.
    """

    name: str
    make: Callable[[Path], Path]
    times: Sequence[float] | None = None
    shown: Sequence[int] = ()
    refused: str = ""
    note: str = ""
    doubt: bool = False
    alternatives: tuple[Sequence[float], ...] = ()
    tolerance: float = 0.0
    options: Mapping[str, object] = dataclasses.field(default_factory=dict)
    judge: Callable | None = None
    look: Callable[[np.ndarray], None] | None = None
    size: tuple[int, int] | None = None
    probe: str = ""

    @property
    def half(self) -> float:
        """Half of the shortest time between two pictures, seconds."""
        if self.times is None or len(self.times) < 2:
            return 0.5
        return float(np.diff(self.times).min() / 2)

    @property
    def allowed(self) -> float:
        """Seconds that a time may be off: a container's finest step, and never half a picture."""
        return min(self.tolerance or 1.1e-3, self.half)


def steady(count: int = 60, rate: Fraction | float = 25, start: float = 0.0) -> np.ndarray:
    """Times of `count` pictures, `rate` a second, from `start`."""
    return start + np.arange(count) / float(rate)
