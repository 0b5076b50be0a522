"""How often the shard that takes longest does each step of the agent loop (rollout/loop.py).

Every shard of a slice runs its questions at its own pace, and a batch is done when the last shard
is. Its turns are drawn, always the same ones, since only a trained policy knows them: a batch slot
that is done while others write, and a shard whose rollouts are long, then cost what they will.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Shares of rollouts with so many turns, from one on: a call less each, which makes two in the mean,
# as in the paper's trajectories.
TURNS = (0.10, 0.29, 0.30, 0.18, 0.08, 0.05)
_CLOSENESS = 3  # of a turn's length to its mean, as a beta distribution's: half of it is usual
_DRAWS = 4  # batches that are averaged

Rollout = Sequence[int]  # tokens of each turn


class ShardSteps(NamedTuple):
    """What one shard does for its rollouts."""

    execute_tools: float  # steps
    decode_step: float
    rows: float  # rows that write in a decode step, in the mean
    questions: float  # questions that they are of


def slowest_steps(
    shards: int,
    questions: int,
    group: int,
    slots: int,
    rows: int,
    most: int,
    turns: int,
    share: float,
) -> ShardSteps:
    """The ShardSteps of the shard that decodes longest, the mean of a few batches.

    Args:
        shards: that each have `questions` questions of their own, with `group` rollouts each.
        slots, rows: as of `shard_steps`.
        most: tokens that a turn may have.
        turns: that a rollout may have.
        share: of its tokens that a turn has in the mean.
    """
    random, found = np.random.default_rng(0), []
    for _ in range(_DRAWS):
        batch = [
            shard_steps(draw(random, questions * group, most, turns, share), slots, rows, group)
            for _ in range(shards)
        ]
        found.append(max(batch, key=lambda steps: steps.decode_step))
    return ShardSteps(*(sum(numbers) / _DRAWS for numbers in zip(*found, strict=True)))


def draw(
    random: np.random.Generator, count: int, most: int, turns: int, share: float
) -> list[Rollout]:
    """The turns of `count` rollouts; see slowest_steps."""
    numbers = 1 + random.choice(len(TURNS), size=count, p=TURNS)
    shape = _CLOSENESS * share, _CLOSENESS * (1 - share)
    return [
        np.ceil(most * random.beta(*shape, min(n, turns))).astype(int).tolist() for n in numbers
    ]


def shard_steps(rollouts: Sequence[Rollout], slots: int, rows: int, group: int = 1) -> ShardSteps:
    """What one shard does for its rollouts, by the rules of rollout/loop.py.

    Args:
        rollouts: `group` of each question, in order.
        slots: rollouts that are decoded side by side; the others wait for one that is done.
        rows: calls that are executed at a time at most.
    """
    # (question, tokens left of each turn)
    requests = [(n // group, list(rollout)) for n, rollout in enumerate(rollouts)]
    writing, later, refills = requests[:slots], requests[slots:], slots < len(requests)
    waiting: list[tuple[int, list[int]]] = []  # turns left of those that made a call
    tools = decoded = written = asked = 0
    while writing or waiting:
        # Towards the end, as many as still write are enough; without refills, only if none writes.
        enough = min(max(len(writing), 1), rows) if refills else (rows if writing else 1)
        if len(waiting) >= enough:
            tools += 1
            writing += waiting[:rows]
            waiting = waiting[rows:]
            continue
        tokens = min(turns[0] for _, turns in writing)
        decoded += tokens
        written += tokens * len(writing)
        asked += tokens * len({question for question, _ in writing})
        going: list[tuple[int, list[int]]] = []
        for question, (first, *rest) in writing:
            if first > tokens:
                going.append((question, [first - tokens, *rest]))
            elif rest:
                waiting.append((question, rest))
            elif later:
                going.append(later.pop(0))
        writing = going
    return ShardSteps(tools, decoded, written / decoded, asked / decoded)
