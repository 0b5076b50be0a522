"""Batches in a short and a long part: the same step, in fewer positions."""

import functools
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medscope_jax.data.row_lengths import RowLengths
from medscope_jax.dialogue import Role
from medscope_jax.distributed import make_mesh
from medscope_jax.training.length_bucketing import (
    FITS,
    LengthBuckets,
    fits,
    plan_buckets,
    split_batch,
)
from medscope_jax.training.sft import _plan_split
from medscope_jax.training.steps import sft_step
from medscope_jax.training.train_state import init_state
from tests.distributed.process_cases import end_of, output_of, start_processes
from tests.training import step_cases as cases


def rows_of(batch):
    """Each row's real positions and what else belongs to it, as bytes, sorted."""
    real = batch["role"] != Role.PADDING
    found = []
    for row in range(len(real)):
        texts = [
            batch[name][row][real[row]].tobytes() for name in ("tokens", "visual_index", "role")
        ]
        found.append((*texts, batch["frames"][row].tobytes()))
    return sorted(found)


def batch_with_frames(rows=8):
    batch = cases.batch(rows)
    random = np.random.default_rng(3)
    shape = (rows, cases.FRAMES, 28, 56, 3)
    return {**batch, "frames": random.integers(0, 255, shape).astype(np.uint8)}


@pytest.mark.parametrize("train_vision", [True, False])
def test_the_same_step(train_vision):
    """Loss, entropy and every updated parameter are those of the whole batch."""
    batch = batch_with_frames()
    if not train_vision:
        batch["visual"] = cases.sft_batch(8)["visual"]
    used = np.sort(np.sum(batch["role"] != Role.PADDING, axis=1))
    split = LengthBuckets(5, -int(used[4]) // 8 * -8, 8)
    parts = split_batch(batch, split)
    assert [part["tokens"].shape for part in parts] == [(5, split.length), (3, cases.LENGTH)]
    optimizer = optax.sgd(0.1)
    step = functools.partial(
        sft_step,
        model=cases.MODEL,
        optimizer=optimizer,
        grid=cases.GRID,
        targets=(split.targets, 16),
        train_vision=train_vision,
    )
    state = init_state(cases.params(), optimizer, jax.random.key(0), train_vision)
    whole, split_up = (jax.jit(step)(state, given) for given in (batch, parts))
    for name, value in whole[1].items():
        np.testing.assert_allclose(split_up[1][name], value, rtol=1e-5, err_msg=name)
    for a, b in zip(*(jax.tree.leaves(done[0].params) for done in (split_up, whole)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_no_row_is_lost():
    batch = batch_with_frames()
    parts = split_batch(batch, LengthBuckets(5, 24, 8))
    assert sorted(row for part in parts for row in rows_of(part)) == rows_of(batch)


def test_a_batch_that_does_not_fit_stays_whole():
    batch = batch_with_frames()
    assert split_batch(batch, LengthBuckets(7, 8, 8)) is batch
    assert split_batch(batch, None) is batch


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=60),
    st.sampled_from([8, 16, 32]),
    st.sampled_from([1, 2, 4]),
)
def test_what_a_split_may_be(lengths, batch_size, shards):
    whole = -max(lengths) // 8 * -8
    split = plan_buckets(np.array(lengths), np.array(lengths) // 2, batch_size, whole, shards)
    if split is None:
        return
    assert 0 < split.rows < batch_size and split.length <= whole
    assert split.targets >= max(length // 2 for length in lengths if length <= split.length)
    assert split.rows % shards == (batch_size - split.rows) % shards == 0
    assert split.rows * split.length + (batch_size - split.rows) * whole < 0.9 * batch_size * whole


def test_few_long_rows():
    """One row in twenty is three times as long: three quarters of a batch hold none of them."""
    lengths = np.array([60] * 19 + [180])
    assert plan_buckets(lengths, lengths // 3, 32, 184) == LengthBuckets(24, 64, 24)
    assert plan_buckets(np.full(100, 60), np.full(100, 9), 32, 64) is None


def test_a_stage_of_few_steps_is_not_split():
    """A split is two programs to compile: a stage must be long enough to earn them back."""
    used = np.array([10] * 30 + [100] * 2, np.int32)
    lengths = RowLengths(used, used // 2, used // 10)
    mesh = make_mesh({}, jax.devices()[:1])

    def planned(steps):
        section = SimpleNamespace(steps=steps, batch_size=16, micro_batch=0)
        run = SimpleNamespace(config={"cold_start": section}, mesh=mesh)
        return _plan_split(run, "cold_start", lengths, 104)

    assert planned(49) is None
    assert planned(50) is not None


def test_blocks_of_several_processes():
    """Each block is cut for itself; together the parts hold every row, and make the same step."""
    batch = batch_with_frames()
    batch["visual"] = cases.sft_batch(8)["visual"]
    used = np.sum(batch["role"] != Role.PADDING, axis=1)
    inside = np.sort(used.reshape(2, 4), axis=1)
    split = LengthBuckets(4, int(-inside[:, 1].max() // 8 * -8), 16)
    assert fits(used, split, 2) and not fits(used, split._replace(length=8), 2)
    marked = {**batch, FITS: np.ones(8, bool)}
    cut = [
        split_batch({name: array[rows] for name, array in marked.items()}, split, 2)
        for rows in (slice(0, 4), slice(4, 8))
    ]
    assert all([len(part["tokens"]) for part in parts] == [2, 2] for parts in cut)
    whole = [
        {name: np.concatenate([parts[i][name] for parts in cut]) for name in batch} for i in (0, 1)
    ]
    assert whole[0]["tokens"].shape == (4, split.length)
    assert sorted(row for part in whole for row in rows_of(part)) == rows_of(batch)
    # One block that does not fit leaves all of them whole.
    missing = split_batch({**marked, FITS: np.zeros(8, bool)}, split, 2)
    assert missing.keys() == batch.keys() and missing["tokens"] is batch["tokens"]


def test_a_plan_for_blocks():
    """Short rows are counted in each block: what all blocks of a batch have in any draw."""
    lengths = np.array([60] * 19 + [180])
    split = plan_buckets(lengths, lengths // 3, 32, 184, shards=2, blocks=2)
    assert split is not None and split.rows % 2 == 0 and split.length == 64
    draws = np.random.default_rng(5).choice(lengths, (500, 32))
    assert np.mean([fits(draw, split, 2) for draw in draws]) > 0.98
    alone = plan_buckets(lengths, lengths // 3, 32, 184, shards=2)
    assert split.rows <= alone.rows


@pytest.mark.invariant
def test_two_processes_cut_alike(tmp_path):
    """Batches are cut by both or by neither, and are those of one process, token for token."""
    found = {}
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        started = start_processes(
            count, ["tests.training.bucket_program", 60], folder, devices=2 // count
        )
        assert end_of(started, folder, 200) == [0] * count, output_of(folder)[-3000:]
        for index in range(count):
            lines = [line.split() for line in output_of(folder, index).splitlines()]
            found[count, index] = [line[1:] for line in lines if line[:1] == ["step"]]
            planned = [line for line in lines if line[:1] == ["planned"]]
            assert planned and "LengthBuckets(rows=" in " ".join(planned[0])
    assert len(found[1, 0]) == 60
    assert found[2, 0] == found[2, 1]
    assert [line[2] for line in found[2, 0]] == [line[2] for line in found[1, 0]]  # every token
    cut = [int(rows) for _, rows, _ in found[2, 0]]
    assert set(cut) == {12, 16} and cut.count(12) > 30
