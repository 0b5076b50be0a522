"""Rollouts one step off (rl.lag): the next batch is rolled out before this one is learned from.

    device   roll out 2 | update 1 | roll out 3 | update 2 | ...
    host     judge 1                 judge 2

Batch 2 is rolled out by the weights before update 1, with which it was judged and recorded; its
ratio of probabilities is to those, as ever. The trained part of these weights is in the state
(TrainState.sampler), so that a run which is killed rolls the very same batch out again.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from medscope_jax.distributed.multihost import addressable_copy
from medscope_jax.models import join_params
from medscope_jax.training.rollout_batch import DynamicBatch, Roller, StartedBatch
from medscope_jax.training.stage import Batches
from medscope_jax.training.train_state import TrainState


class Lookahead:
    """Batches whose next one can be seen before it is taken; its place is that of what was taken.

    Args:
        batches: endless, see stage.Batches.
    """

    def __init__(self, batches: Batches):
        self._batches = batches
        self._seen: list[Any] = []  # the next batch, if it was drawn, and the place before it

    def peek(self) -> Any:
        """The batch that the next call of next() gives."""
        if not self._seen:
            self._seen = [self._batches.get_state()]
            self._seen.insert(0, next(self._batches))
        return self._seen[0]

    def __next__(self) -> Any:
        batch = self.peek()
        self._seen = []
        return batch

    def get_state(self) -> Any:
        """The place of the next batch."""
        return self._seen[1] if self._seen else self._batches.get_state()

    def set_state(self, state: Any) -> None:
        """Goes to a place that get_state gave."""
        self._seen = []
        self._batches.set_state(state)


def step_key(key: jax.Array, step: int) -> jax.Array:
    """The random key of a step's rollouts, of the stage's key."""
    return jax.random.fold_in(addressable_copy(key), np.int32(step))


def make_lagging(
    roller: Roller, batches: Lookahead, steps: int, updates: int
) -> Callable[[TrainState, np.ndarray], DynamicBatch]:
    """The function that gives a step its rollouts, by state.sampler, and starts the next step's.

    Args:
        batches: of which the step has taken its own.
        steps: optimizer steps of the stage; updates: of each batch.
    """
    ahead: dict[int, StartedBatch] = {}  # by the step that it is for; empty after a restart

    def draw(state: TrainState, rows: np.ndarray) -> DynamicBatch:
        step = int(addressable_copy(state.step))

        def start_next() -> None:
            following = step + updates
            if following < steps:
                key = step_key(state.key, following)
                ahead[following] = roller.start(state.params, batches.peek()["row"], key, 0)

        started = ahead.pop(step, None)
        if started is None:
            params = join_params(state.params, state.sampler or {})
            started = roller.start(params, rows, step_key(state.key, step), 0)
        batch = roller.finish(started, start_next)
        return DynamicBatch(batch.groups, 0, [batch])

    return draw
