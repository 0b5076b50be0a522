"""Packing: every record once, in nearly full rows; and how conversations are joined there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.paper_lengths import STAGES, draw_conversations
from medscope_jax.data.row_packing import (
    OPEN_ROWS,
    frames_of_rows,
    join_examples,
    pack_records,
)
from medscope_jax.dialogue import Role

LENGTH, MOST = 100, 9
records = st.lists(st.tuples(st.integers(1, LENGTH), st.integers(0, MOST)), max_size=300)


def packed(sizes, seed=0):
    lengths, frames = np.array(sizes, int).reshape(-1, 2).T
    return lengths, frames, pack_records(lengths, frames, LENGTH, MOST, seed)


@given(records, st.integers(0, 2**32 - 1))
def test_every_record_once_in_a_row_that_holds_it(sizes, seed):
    lengths, frames, rows = packed(sizes, seed)
    assert sorted(np.concatenate([*rows, []]).tolist()) == list(range(len(sizes)))
    for row in rows:
        assert len(row) and lengths[row].sum() <= LENGTH and frames[row].sum() <= MOST
    if len(rows):
        np.testing.assert_array_equal(rows.sums(lengths), [lengths[row].sum() for row in rows])


@given(records)
def test_a_few_rows_are_first_fit(sizes):
    """As long as no row has to be closed, no two rows could be one: that is what first fit says."""
    lengths, frames, rows = packed(sizes[:OPEN_ROWS])
    totals = list(zip(rows.sums(lengths), rows.sums(frames), strict=True)) if len(rows) else []
    for i, (used, shown) in enumerate(totals):
        for more, seen in totals[:i]:
            assert used + more > LENGTH or shown + seen > MOST


def by_looking(lengths, frames, seed):
    """The rule again, word for word and slowly: rows are sets, none is closed before it must be."""
    random = np.random.default_rng(seed)
    opened, closed = [], []

    def left(row):
        return LENGTH - lengths[row].sum(), MOST - frames[row].sum()

    for record in random.permutation(len(lengths)):
        needs = lengths[record], frames[record]
        row = next((r for r in opened if left(r)[0] >= needs[0] and left(r)[1] >= needs[1]), None)
        if row is None:
            # Rows that no record at all could join do not count.
            full = [row for row in opened if left(row)[0] < lengths.min()]
            opened = [row for row in opened if left(row)[0] >= lengths.min()]
            closed += full
            if len(opened) == OPEN_ROWS:
                fullest = min(opened, key=lambda r: min(left(r)[0] * MOST, left(r)[1] * LENGTH))
                opened.remove(fullest)
                closed.append(fullest)
            opened.append(row := [])
        row.append(int(record))
    return closed + opened


@pytest.mark.parametrize("seed", range(3))
def test_the_rule_where_rows_are_closed(seed):
    random = np.random.default_rng(seed)
    sizes = np.stack([random.integers(20, LENGTH, 500), random.integers(0, MOST, 500)], axis=1)
    lengths, frames, rows = packed(sizes, seed)
    wanted = by_looking(lengths, frames, seed)
    assert len(wanted) > 2 * OPEN_ROWS
    assert sorted(row.tolist() for row in rows) == sorted(wanted)


def test_the_seed_alone_decides():
    sizes = np.random.default_rng(0).integers(1, [LENGTH, MOST], (400, 2))
    one, same, other = (packed(sizes, seed)[2] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.records, same.records)
    np.testing.assert_array_equal(one.first, same.first)
    assert one.records.tolist() != other.records.tolist()


def test_what_is_near_in_the_data_is_not_near_in_a_row():
    """Neighbours in the order of the records share a row no more often than others do."""
    lengths, frames = np.full(4000, 30), np.zeros(4000, int)
    rows = pack_records(lengths, frames, LENGTH, MOST, 0)
    row_of = np.empty(4000, int)
    for number, row in enumerate(rows):
        row_of[row] = number
    assert np.mean(row_of[1:] == row_of[:-1]) < 0.005  # three a row; 0.0005 by chance
    # Nor are batches made of the data's ends: the rows' order has nothing to do with the records'.
    assert abs(np.corrcoef(row_of, np.arange(4000))[0, 1]) < 0.1


def test_a_record_that_no_row_holds_is_an_error():
    with pytest.raises(ValueError, match="up to 101 positions and 3 frames, but a row has 100"):
        pack_records(np.array([5, 101]), np.array([3, 1]), 100, 9, 0)
    with pytest.raises(ValueError, match="and 10 frames"):
        pack_records(np.array([5, 10]), np.array([3, 10]), 100, 9, 0)


@pytest.mark.parametrize("stage", STAGES)
def test_at_most_a_tenth_is_padding(stage):
    """On the paper's lengths, where without packing about half is; and a sixth of the frames."""
    drawn = draw_conversations(stage, 20_000)
    assert drawn.lengths.mean() < 0.54 * drawn.length
    most = frames_of_rows(drawn.lengths, drawn.frames, drawn.length)
    rows = pack_records(drawn.lengths, drawn.frames, drawn.length, most, 0)
    assert rows.sums(drawn.lengths).mean() > 0.9 * drawn.length
    assert rows.sums(drawn.frames).mean() > 5 / 6 * most


def conversation(number: int, frames: int, words: int, size: int = 2) -> dict:
    """An example whose tokens and visual tokens tell which conversation they are of."""
    count = frames * size
    index = np.concatenate([[-1], np.arange(count), np.full(words, -1)]).astype(np.int32)
    role = np.where(np.arange(len(index)) > count, int(Role.GENERATED), int(Role.PROMPT))
    visual = (100 * number + np.arange(count))[:, None].astype(np.float32)
    return {
        "tokens": np.full(len(index), number, np.int32),
        "visual_index": index,
        "role": role.astype(np.int8),
        "visual": visual,
    }


def test_joined_as_drawn():
    row = join_examples([conversation(7, 1, 1), conversation(8, 0, 2)], 8, 3, 2)
    assert {name: array.dtype for name, array in row.items() if name != "visual"} == dict.fromkeys(
        ["tokens", "role", "segment", "visual_index"], np.int32
    )
    assert row["tokens"].tolist() == [7, 7, 7, 7, 8, 8, 8, 0]
    assert row["visual_index"].tolist() == [-1, 0, 1, -1, -1, -1, -1, -1]
    assert row["segment"].tolist() == [1, 1, 1, 1, 2, 2, 2, 0]
    assert row["role"].tolist() == [1, 1, 1, 2, 1, 2, 2, 0]
    assert row["visual"].ravel().tolist() == [700, 701, 0, 0, 0, 0]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=6))
def test_each_conversation_is_found_again(sizes):
    """With its tokens, and by its visual index the very visual tokens that it brought."""
    parts = [conversation(number, *size) for number, size in enumerate(sizes, 1)]
    row = join_examples(parts, 80, 20, 2)
    for number, part in enumerate(parts, 1):
        own = row["segment"] == number
        for name in ("tokens", "role"):
            np.testing.assert_array_equal(row[name][own], part[name])
        index, wanted = row["visual_index"][own], part["visual_index"]
        np.testing.assert_array_equal(index >= 0, wanted >= 0)
        shown = row["visual"][index[index >= 0]]
        np.testing.assert_array_equal(shown, part["visual"][wanted[wanted >= 0]])
    rest = row["segment"] == 0
    assert not row["tokens"][rest].any() and not row["role"][rest].any()
    assert (row["visual_index"][rest] == -1).all()


def test_what_does_not_fit_or_can_not_be_told_apart_is_an_error():
    part = conversation(1, 1, 1)
    with pytest.raises(ValueError, match="8 positions and 4 visual do not fit 7, 4"):
        join_examples([part, part], 7, 2, 2)
    with pytest.raises(ValueError, match="do not fit 8, 2"):
        join_examples([part, part], 8, 1, 2)
    with pytest.raises(ValueError, match="begins with a generated token"):
        join_examples([part, {**part, "role": np.full(4, int(Role.GENERATED))}], 8, 2, 2)
