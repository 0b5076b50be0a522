"""When a stage saves: every so many steps, and every so many minutes."""

import time
from collections.abc import Callable, Mapping

from medscope_jax.distributed.multihost import Consensus, is_first


class Cadence:
    """Says after which steps to save; all processes of a run ask, and tell, together.

    Minutes are those of process 0's clock. Several processes hear of them a step later, without
    waiting for a device; a step may take longer than the minutes, and is then saved by itself.
    """

    def __init__(self, log: Mapping, clock: Callable[[], float] = time.monotonic):
        """Starts the clock.

        Args:
          log: a config's section of this name: checkpoint_every, in steps, and checkpoint_minutes,
            0 for none.
        """
        self._steps, self._seconds = log["checkpoint_every"], 60 * log["checkpoint_minutes"]
        self._clock = clock
        self.saved()

    def due(self, step: int) -> bool:
        """Whether to save after this step, counted from 1; asked once a step."""
        by_steps = step % self._steps == 0
        if not self._seconds:
            return by_steps
        late = is_first() and self._clock() - self._since >= self._seconds
        return self._agreed(late) or by_steps

    def saved(self) -> None:
        """Notes a save, by whatever reason: the minutes count anew."""
        self._since = self._clock()
        self._agreed = Consensus()  # nobody's flag of before counts
