"""How often the shard that takes longest does each step of the agent loop (rollout/loop.py).

Every shard of a slice runs its questions at its own pace, and a batch is done when the last shard
is. Its turns are drawn, always the same ones, since only a trained policy knows them: a batch slot
that is done while others write, and a shard whose rollouts are long, then cost what they will.
"""

from collections.abc import Sequence

import numpy as np

# Shares of rollouts with so many turns, from one on: a call less each, which makes two in the mean,
# as in the paper's trajectories.
TURNS = (0.10, 0.29, 0.30, 0.18, 0.08, 0.05)
_CLOSENESS = 3  # of a turn's length to its mean, as a beta distribution's: half of it is usual
_DRAWS = 4  # batches that are averaged

Rollout = Sequence[int]  # tokens of each turn


def slowest_steps(
    shards: int, requests: int, slots: int, rows: int, most: int, turns: int, share: float
) -> dict[str, float]:
    """Steps of the shard that decodes longest, the mean of a few batches: execute_tools and
    decode_step, by their names.

    Args:
        shards: that each have `requests` rollouts of their own.
        slots, rows: as of `shard_steps`.
        most: tokens that a turn may have.
        turns: that a rollout may have.
        share: of its tokens that a turn has in the mean.
    """
    random, found = np.random.default_rng(0), []
    for _ in range(_DRAWS):
        batch = [
            shard_steps(draw(random, requests, most, turns, share), slots, rows)
            for _ in range(shards)
        ]
        found.append(max(batch, key=lambda steps: steps["decode_step"]))
    return {name: sum(steps[name] for steps in found) / _DRAWS for name in found[0]}


def draw(
    random: np.random.Generator, count: int, most: int, turns: int, share: float
) -> list[Rollout]:
    """The turns of `count` rollouts; see slowest_steps."""
    numbers = 1 + random.choice(len(TURNS), size=count, p=TURNS)
    shape = _CLOSENESS * share, _CLOSENESS * (1 - share)
    return [
        np.ceil(most * random.beta(*shape, min(n, turns))).astype(int).tolist() for n in numbers
    ]


def shard_steps(rollouts: Sequence[Rollout], slots: int, rows: int) -> dict[str, int]:
    """Steps that one shard takes for its rollouts, by the rules of rollout/loop.py.

    Args:
        slots: rollouts that are decoded side by side; the others wait for one that is done.
        rows: calls that are executed at a time at most.
    """
    waiting_requests, refills = list(rollouts[slots:]), slots < len(rollouts)
    writing = [list(rollout) for rollout in rollouts[:slots]]  # tokens left of each turn
    waiting: list[list[int]] = []  # turns left of those that made a call
    steps = {"execute_tools": 0, "decode_step": 0}
    while writing or waiting:
        # Towards the end, as many as still write are enough; without refills, only if none writes.
        enough = min(max(len(writing), 1), rows) if refills else (rows if writing else 1)
        if len(waiting) >= enough:
            steps["execute_tools"] += 1
            writing += waiting[:rows]
            waiting = waiting[rows:]
            continue
        tokens = min(turns[0] for turns in writing)
        steps["decode_step"] += tokens
        going: list[list[int]] = []
        for first, *rest in writing:
            if first > tokens:
                going.append([first - tokens, *rest])
            elif rest:
                waiting.append(rest)
            elif waiting_requests:
                going.append(list(waiting_requests.pop(0)))
        writing = going
    return steps
