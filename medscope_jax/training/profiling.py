"""A trace of some steps of each stage, for TensorBoard, XProf or Perfetto: config.log.profile.

tensorboard --logdir DIR/profile        (with tensorboard-plugin-profile)
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from medscope_jax.distributed.multihost import is_first
from medscope_jax.errors import UserError
from medscope_jax.visible import shown


def steps_to_trace(text: str) -> range:
    """The steps that config.log.profile names, counted from 1; none for "".

    Args:
        text: "N:M", from step N to step M, both included.

    Raises:
        UserError: it is something else.
    """
    if not text:
        return range(0)
    found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text, re.ASCII)
    first, last = map(int, found.groups()) if found else (0, 0)
    if not 0 < first <= last:
        raise UserError(
            f"config.log.profile is {text!r}; use FIRST:LAST, steps of a stage, such as 10:12"
        )
    return range(first, last + 1)


class StepTrace(contextlib.AbstractContextManager):
    """Writes FOLDER/profile/STAGE, once, of the named steps of a stage that runs inside it.

    Each process traces itself. A stage that goes on after the first of these steps is not traced.
    """

    def __init__(self, folder: Path, stage: str, wanted: range, total: int):
        """Traces nothing yet.

        Args:
          folder: the run's.
          wanted: of steps_to_trace.
          total: steps of the stage; where it has not the first of them, a line says so.
        """
        self._path, self._stage, self._wanted = folder / "profile" / stage, stage, wanted
        self._running = False
        if wanted and wanted[0] > total and is_first():
            print(f"{stage} has {total} steps, so none of {wanted[0]}:{wanted[-1]} is traced")

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """The step of this number, counted from 1, is started inside."""
        if self._wanted and number == self._wanted[0]:
            jax.profiler.start_trace(self._path)
            self._running = True
        if not self._running:
            yield
            return
        with jax.profiler.StepTraceAnnotation(self._stage, step_num=number):
            yield

    def after(self, number: int, state: Any) -> None:
        """Ends the trace after the last of its steps, once the device has come to this state."""
        if self._running and number >= self._wanted[-1]:
            jax.block_until_ready(state)
            self._stop()

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            if is_first():
                print(shown(f"{self._stage}: steps traced in {self._path}"))
