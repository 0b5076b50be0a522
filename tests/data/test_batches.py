"""Batches: exact positions, the same global batch for any number of processes, mixtures."""

import json

import numpy as np
import pytest

from medscope_jax.data import batches as data
from medscope_jax.errors import UserError

RECORDS = [{"id": f"r{i}", "value": i} for i in range(23)]


def transform(record):
    return {"id": record["id"], "x": np.full((2,), record["value"], np.float32)}


def batches(**options):
    return data.make_batches(RECORDS, transform, **{"batch_size": 4, "seed": 7, **options})


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def same(a, b):
    return len(a) == len(b) and all(
        set(x) == set(y) and all(np.array_equal(x[k], y[k]) for k in x)
        for x, y in zip(a, b, strict=True)
    )


def test_batches_are_stacked_and_shuffled_anew_every_epoch():
    first = take(batches(), 23)
    assert first[0]["x"].shape == (4, 2) and first[0]["x"].dtype == np.float32
    ids = [str(i) for batch in first for i in batch["id"]]
    epochs = [ids[k : k + 23] for k in range(0, 92, 23)]
    assert all(set(epoch) == {r["id"] for r in RECORDS} for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert same(first, take(batches(), 23))
    assert not same(first, take(batches(seed=8), 23))


@pytest.mark.parametrize("stop", [0, 1, 5, 6, 17])
def test_resume_is_exact_wherever_it_stops(stop):
    iterator = batches()
    take(iterator, stop)
    state = json.dumps(iterator.get_state())
    assert len(state) < 200
    rest = take(iterator, 9)
    resumed = batches()
    resumed.set_state(json.loads(state))
    assert same(rest, take(resumed, 9))
    take(resumed, 2)
    resumed.set_state(json.loads(state))  # restoring a used iterator goes back too
    assert same(rest, take(resumed, 9))


@pytest.mark.parametrize("rows", [[[0, 1], [2, 3]], [[0], [1], [2], [3]], [[0, 3], [1, 2]]])
def test_processes_together_hold_the_batch_of_one(rows):
    """Contiguous rows, and rows as a mesh's devices may need them; the same position for all."""
    whole = take(batches(), 8)
    shards = [batches(rows=mine) for mine in rows]
    parts = [take(shard, 8) for shard in shards]
    order = np.argsort(np.concatenate(rows))
    joined = [
        {key: np.concatenate([part[k][key] for part in parts])[order] for key in whole[k]}
        for k in range(8)
    ]
    assert same(whole, joined)
    one = batches()
    take(one, 8)
    assert [shard.get_state() for shard in shards] == [one.get_state()] * len(rows)


def test_epochs_end_and_drop_the_remainder():
    assert len(list(batches(epochs=1))) == 5
    assert len(list(batches(epochs=2))) == 11
    assert [len(list(batches(epochs=1, rows=rows))) for rows in ([0, 1], [2, 3])] == [5, 5]


def test_small_sets_repeat_but_empty_ones_are_refused():
    iterator = data.make_batches(RECORDS[:2], transform, batch_size=4, seed=0)
    assert sorted(next(iterator)["id"]) == ["r0", "r0", "r1", "r1"]
    for records, options in [([], {}), (RECORDS[:3], {"epochs": 1})]:
        with pytest.raises(UserError, match="do not make a batch"):
            data.make_batches(records, transform, batch_size=4, seed=0, **options)
    with pytest.raises(ValueError, match="not within a batch of 4"):
        batches(rows=[3, 4])


def test_a_failing_transform_is_not_swallowed():
    def broken(record):
        raise RuntimeError(f"bad record {record['id']}")

    with pytest.raises(RuntimeError, match="bad record"):
        next(data.make_batches(RECORDS, broken, batch_size=4, seed=0))


def test_mixture_interleaves_by_weight():
    text = lambda mixture: "".join(mixture[k] for k in range(len(mixture)))  # noqa: E731
    assert text(data.mix(["abcd", "xy"], [1, 1])) == "axbycxdy"
    assert text(data.mix(["abcd", "xy"])) == "axbcyd"
    weighted = text(data.mix(["abcdefgh", "x"], [3, 1]))
    assert weighted.count("x") == 3 and set(weighted) == set("abcdefghx")
    for stop in (4, 8):  # even at every point, not only in sum
        assert weighted[:stop].count("x") == stop // 4


def test_mixture_feeds_batches():
    mixture = data.mix([RECORDS[:10], RECORDS[10:]])
    iterator = data.make_batches(mixture, transform, batch_size=23, seed=0)
    assert sorted(next(iterator)["id"]) == sorted(r["id"] for r in RECORDS)


@pytest.mark.parametrize(
    ("sequences", "weights"), [([], None), (["ab", ""], None), (["ab"], [0.0]), (["ab"], [1, 2])]
)
def test_bad_mixtures_are_one_line(sequences, weights):
    with pytest.raises(UserError, match="can't mix"):
        data.mix(sequences, weights)


@pytest.mark.parametrize("rows", [[0, 1], [2, 3]])
def test_what_stands_beside_a_row_is_of_the_whole_batch(rows):
    """Each process is told of all four records of a batch, also after it has gone back."""

    def read(**given):
        return data.make_batches(
            range(10), lambda n: {"n": np.int32(n)}, 4, seed=3, rows=rows, **given
        )

    whole = data.make_batches(range(10), lambda n: {"n": np.int32(n)}, 4, seed=3)
    sums = [int(next(whole)["n"].sum()) for _ in range(7)]
    batches, plain = read(beside=lambda records: {"sum": np.int32(sum(records))}), read()
    for step in range(7):
        if step == 3:
            state = batches.get_state()
        batch = next(batches)
        assert batch["sum"].tolist() == [sums[step]] * 2
        np.testing.assert_array_equal(batch["n"], next(plain)["n"])
    batches.set_state(state)
    assert next(batches)["sum"].tolist() == [sums[3]] * 2
