"""Finished episodes are read back as trajectories: as a plain reading, number by number, has it."""

import numpy as np
import pytest

from medscope_jax.dialogue import (
    CallRecord,
    Episode,
    Role,
    generated_text,
    train_tokenizer,
    turn_texts,
)
from medscope_jax.rollout import read_trajectories
from tests.rollout.prompt_cases import LAYOUT


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["Where is it?"] * 5, 1024, 32)


def plain_trajectory(episode, b):
    """(calls, frames) of row b, number by number."""
    calls, frames = [], []
    made = [c for c in range(episode.calls.status.shape[1]) if episode.calls.status[b, c] >= 0]
    for c in made:
        tool, start, end, status, where = (array[b, c] for array in episode.calls)
        calls.append((int(tool), float(start), float(end), int(status)))
        after = [episode.calls.where[b, later] for later in made if later > c]
        stop = after[0] if after else sum(kind != Role.PADDING for kind in episode.role[b])
        shown = [f for f in episode.visual_index[b, where:stop] if f >= 0]
        frames.append([int(f) // 2 for f in shown[::2]])
    return calls, frames


@pytest.mark.parametrize("seed", range(20))
def test_trajectories_equal_a_plain_reading(tokenizer, seed):
    """Random rows: up to three calls, any frames, observations that were cut off."""
    rng = np.random.default_rng(seed)
    rows, length = 5, 60
    filled = rng.integers(20, length + 1, rows)
    used = np.arange(length) < filled[:, None]
    role = np.where(used, np.repeat(rng.integers(1, 4, (rows, 12)), 5, axis=1), Role.PADDING)
    visual = used & (rng.random((rows, length)) < 0.4)
    frame = np.where(visual, rng.integers(0, 20 * 2, (rows, length)), -1)
    real = np.arange(3) < rng.integers(0, 4, rows)[:, None]
    where = np.sort(rng.integers(0, 20, (rows, 3)), axis=1)
    times = rng.random((2, rows, 3)).astype(np.float32) * 100
    calls = CallRecord(
        tool=np.where(real, rng.integers(0, 3, (rows, 3)), 0),
        start=times[0],
        end=times[1],
        status=np.where(real, rng.integers(0, 8, (rows, 3)), -1),
        where=np.where(real, where, -1),
    )
    tokens = rng.integers(0, tokenizer.vocab_size, (rows, length)).astype(np.int32)
    episode = Episode(tokens, frame, role, np.zeros((3, rows, length)), times[0], calls)
    found = read_trajectories(episode, tokenizer, LAYOUT)
    assert len(found) == rows
    for b, trajectory in enumerate(found):
        assert (trajectory.calls, trajectory.frames) == plain_trajectory(episode, b)
        assert trajectory.text == generated_text(tokens[b], role[b], tokenizer)
        assert trajectory.turns == turn_texts(tokens[b], role[b], tokenizer)
        # Plain Python all through, as JSON and the rewards want it.
        assert all(type(x) in (int, float) for call in trajectory.calls for x in call)
        assert all(type(t) is int for shown in trajectory.frames for t in shown)
