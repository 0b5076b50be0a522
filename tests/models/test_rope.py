"""M-RoPE positions against a plain loop, and the rotation's own laws."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.models import joined_positions, mrope_positions, rope

POSITIONS = jax.jit(mrope_positions, static_argnums=2)


def positions_by_loop(visual_index, valid, grid, start):
    """The specification: one row, one position after the other."""
    height, width = grid
    out, following = np.zeros((3, *visual_index.shape), int), list(start)
    for row in range(len(visual_index)):
        here = start[row]
        for at in range(visual_index.shape[1]):
            if not valid[row, at]:
                continue
            if visual_index[row, at] < 0:
                out[:, row, at] = here
                here += 1
                continue
            token = visual_index[row, at] % (height * width)
            out[:, row, at] = here, here + token // width, here + token % width
            if token == height * width - 1:
                here += max(height, width)
        following[row] = here
    return out, following


@st.composite
def layouts(draw):
    """(visual_index, valid, grid, start) of one row: words, whole frames, padding anywhere."""
    grid = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    size, visual_index, valid = grid[0] * grid[1], [], []
    for kind in draw(st.lists(st.sampled_from(["word", "frame", "padding"]), max_size=8)):
        shown = draw(st.integers(0, 5)) * size
        block = list(range(shown, shown + size)) if kind == "frame" else [-1]
        visual_index += block
        valid += [kind != "padding"] * len(block)
    room = 80 - len(visual_index)
    visual_index, valid = visual_index + [-1] * room, valid + [False] * room
    return np.array([visual_index], np.int32), np.array([valid]), grid, draw(st.integers(0, 1000))


@settings(deadline=None, max_examples=150)
@given(layouts(), st.integers(0, 80))
def test_positions_equal_the_loop_even_when_cut(layout, cut):
    visual_index, valid, grid, start = layout
    begin = np.array([start], np.int32)
    expected, following = positions_by_loop(visual_index, valid, grid, begin)
    ours, after = POSITIONS(visual_index, valid, grid, begin)
    np.testing.assert_array_equal(ours, expected)
    assert list(after) == following
    # Two calls, cut anywhere (inside a frame too), make the same row.
    early = valid & (np.arange(80) < cut)
    first, middle = POSITIONS(visual_index, early, grid, begin)
    second, end = POSITIONS(visual_index, valid & ~early, grid, middle)
    np.testing.assert_array_equal(np.where(early, first, second), expected)
    assert list(end) == following


@settings(deadline=None, max_examples=60)
@given(layouts(), st.lists(st.integers(0, 79), max_size=4))
def test_joined_conversations_each_start_at_0(layout, cuts):
    """Rows cut between frames; padding may stand anywhere."""
    visual_index, valid, grid, _ = layout
    size = grid[0] * grid[1]
    whole = np.flatnonzero((visual_index[0] < 0) | (visual_index[0] % size == 0))
    cuts = sorted({int(whole[whole <= cut].max()) for cut in cuts} | {0, 80})
    segment, expected = np.zeros((1, 80), np.int32), np.zeros((3, 1, 80), int)
    for number, (start, end) in enumerate(zip(cuts[:-1], cuts[1:], strict=True), 1):
        part = slice(start, end)
        segment[:, part] = np.where(valid[:, part], number, 0)
        expected[..., part], _ = positions_by_loop(visual_index[:, part], valid[:, part], grid, [0])
    found = jax.jit(joined_positions, static_argnums=2)(visual_index, segment, grid)
    np.testing.assert_array_equal(found, expected)


def test_rotation_depends_on_distance_only():
    random = np.random.RandomState(0)
    query, key = random.standard_normal((2, 1, 1, 1, 16)).astype(np.float32)

    def score(at, to):
        tables = [
            rope.mrope_tables(np.full((3, 1, 1), place), 16, 1e4, (2, 3, 3)) for place in (at, to)
        ]
        return float((rope.rotate(query, *tables[0]) * rope.rotate(key, *tables[1])).sum())

    assert abs(score(5, 3) - score(105, 103)) < 1e-4
    assert abs(score(5, 3) - score(5, 4)) > 1e-3
