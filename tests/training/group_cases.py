"""Groups of made-up rollouts whose every value tells which rollout it belongs to."""

import numpy as np

from medscope_jax.dialogue import CallRecord, Episode, Role
from medscope_jax.rl import Reward
from medscope_jax.rollout import Trajectory
from medscope_jax.training.groups import Groups

# Rollouts of a question, positions of a row, visual tokens of a video.
GROUP, LENGTH, STRIDE = 2, 8, 10


def names_of(rows):
    """A number for each rollout of questions `rows`."""
    return np.repeat(np.asarray(rows), GROUP) * GROUP + np.tile(np.arange(GROUP), len(rows))


def roles_of(names):
    """Two positions of prompt, then 1 to 5 generated ones."""
    at = np.arange(LENGTH)
    generated = (at >= 2) & (at < 3 + names[:, None] % 5)
    return np.where(at < 2, Role.PROMPT, np.where(generated, Role.GENERATED, 0)).astype(np.int32)


def make_groups(rows, totals):
    """Questions `rows` with rewards [P, GROUP].

    Positions show anything of the question's own video; where they do, the token says what.
    """
    rows, totals = np.asarray(rows), np.asarray(totals, np.float32)
    random = np.random.default_rng(rows.sum())
    names = names_of(rows)
    size = (len(names), LENGTH)
    shown, text = random.integers(0, STRIDE, size), random.random(size) < 0.5
    whole = np.broadcast_to(names[:, None], size).astype(np.int32)
    calls = whole[:, :3]
    episode = Episode(
        tokens=np.where(text, whole, shown).astype(np.int32),
        visual_index=np.where(text, -1, shown).astype(np.int32),
        role=roles_of(names),
        positions=np.stack([whole, whole + 1, whole + 2]),
        logprobs=whole.astype(np.float32),
        calls=CallRecord(calls, calls * 1.0, calls * 2.0, calls, calls),
    )
    found = [Trajectory(f"rollout {name}", [], [], []) for name in names]
    scored = [Reward(0, 0, 0, 0, float(total)) for total in totals.ravel()]
    return Groups(rows, (100 + rows).astype(np.int32), episode, found, scored)
