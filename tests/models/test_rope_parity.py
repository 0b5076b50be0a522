"""M-RoPE positions of any conversation: against worked examples, a plain loop, the device's special
case and, live, transformers' get_rope_index."""

import functools
import types

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax import models
from medscope_jax.models import rope
from tests.models.positions_reference import Kind, conversation_positions

DEVICE = jax.jit(models.mrope_positions, static_argnums=2)


def kinds_of(*segments) -> np.ndarray:
    """[1, L] kinds of segments (kind, number of slots)."""
    return np.concatenate([np.full(size, kind) for kind, size in segments])[None]


def test_worked_example_of_the_module():
    kinds = kinds_of((Kind.TEXT, 1), (Kind.VIDEO, 4), (Kind.TEXT, 1))
    for convention, cut, following in (("extent", 3, 4), ("last", 5, 6)):
        positions, after = conversation_positions(
            kinds, kinds >= 0, (), [(2, 1, 2)], [1.5], 2, convention
        )
        assert positions[:, 0].tolist() == [
            [0, 1, 1, 4, 4, cut],
            [0, 1, 1, 1, 1, cut],
            [0, 1, 2, 1, 2, cut],
        ]
        assert list(after) == [following]


def test_published_example_of_a_video():
    """Qwen2.5-VL's documentation: 3 x 2 x 2 tokens, 50 steps a patch; text goes on at 101."""
    kinds = kinds_of((Kind.VIDEO, 12), (Kind.TEXT, 5))
    positions, _ = conversation_positions(kinds, kinds >= 0, (), [(3, 2, 2)], [2.0], 25, "last")
    time, height, width = positions[:, 0].tolist()
    assert time == [0] * 4 + [50] * 4 + [100] * 4 + [101, 102, 103, 104, 105]
    assert height == [0, 0, 1, 1] * 3 + [101, 102, 103, 104, 105]
    assert width == [0, 1, 0, 1] * 3 + [101, 102, 103, 104, 105]


def test_grids_that_do_not_fit_are_refused():
    kinds = kinds_of((Kind.TEXT, 2), (Kind.IMAGE, 6), (Kind.TEXT, 1))
    for grids, message in (
        ([(1, 2, 2)], "2 visual tokens stand in a row where no grid is left"),
        ([(1, 2, 4)], "6 visual tokens stand in a row where a grid has 8"),
        ([(1, 2, 3), (1, 1, 1)], "more image or video grids than visual slots"),
    ):
        with pytest.raises(ValueError, match=message):
            conversation_positions(kinds, kinds >= 0, grids)
    with pytest.raises(ValueError, match="1 videos, but 2 seconds_per_patch"):
        conversation_positions(kinds, kinds >= 0, (), [(1, 2, 3)], [1, 2])


@st.composite
def layouts(draw, videos: bool, sizes: int = 3):
    """(kinds, valid, image grids, video grids, seconds) of three rows with padding anywhere."""
    grid = st.tuples(st.just(1), st.integers(1, sizes), st.integers(1, sizes))
    clip = st.tuples(st.integers(1, 4), st.integers(1, sizes), st.integers(1, sizes))
    seconds = st.floats(0, 5, width=32)
    one_grid = (1, *draw(st.sampled_from([(1, 1), (2, 3), (3, 2)])))  # each compiles
    choices = [st.just("word"), st.just("padding"), st.just("image")]
    choices += [st.just("video")] if videos else []
    rows, grids, clips, times = [], [], [], []
    for _ in range(3):
        kinds, valid = [], []
        for what in draw(st.lists(st.one_of(*choices), max_size=7)):
            block, kind = [1], Kind.TEXT
            if what == "image":
                block, kind = draw(grid) if videos else one_grid, Kind.IMAGE
                grids.append(block)
            elif what == "video":
                block, kind = draw(clip), Kind.VIDEO
                clips.append(block)
                times.append(draw(seconds))
            size = int(np.prod(block))
            kinds += [int(kind)] * size
            valid += [what != "padding"] * size
        rows.append((kinds, valid))
    length = 260 if videos else 64
    kinds, valid = np.zeros((3, length), int), np.zeros((3, length), bool)
    for row, (row_kinds, row_valid) in enumerate(rows):
        kinds[row, : len(row_kinds)], valid[row, : len(row_valid)] = row_kinds, row_valid
    return kinds, valid, grids, clips, times


@settings(deadline=None, max_examples=100)
@given(layouts(videos=False))
def test_the_device_function_is_the_case_of_one_grid(layout):
    kinds, valid, grids, _, _ = layout
    grid = grids[0][1:] if grids else (1, 1)
    frame = np.full(kinds.shape, -1, np.int32)
    frame[kinds == Kind.IMAGE] = np.arange((kinds == Kind.IMAGE).sum())
    expected, following = DEVICE(frame, valid, grid, np.zeros(3, np.int32))
    ours, after = conversation_positions(kinds, valid, grids)
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(after, following)


@settings(deadline=None, max_examples=100)
@given(layouts(videos=True), st.sampled_from([1, 2, 25]), st.sampled_from(["extent", "last"]))
def test_positions_equal_a_plain_loop(layout, tokens_per_second, convention):
    kinds, valid, grids, clips, seconds = layout
    left = {Kind.IMAGE: [(g, None) for g in grids]}
    left[Kind.VIDEO] = list(zip(clips, seconds, strict=True))
    expected, after = np.zeros((3, *kinds.shape), int), []
    for row in range(len(kinds)):
        base, todo = 0, []
        for slot in np.flatnonzero(valid[row]):
            if kinds[row, slot] == Kind.TEXT:
                expected[:, row, slot] = base
                base += 1
                continue
            if not todo:
                (t, h, w), second = left[Kind(kinds[row, slot])].pop(0)
                step = 1 if second is None else np.float32(second) * np.float32(tokens_per_second)
                todo = [
                    (base + int(np.float32(i) * step), base + y, base + x)
                    for i in range(t)
                    for y in range(h)
                    for x in range(w)
                ]
                ends = max(max(place) for place in todo) + 1
                base = ends if convention == "last" else base + max(h, w)
            expected[:, row, slot] = todo.pop(0)
        after.append(base)
    ours, following = conversation_positions(
        kinds, valid, grids, clips, seconds, tokens_per_second, convention
    )
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(following, after)


@pytest.fixture(scope="module")
def reference():
    """transformers' Qwen2.5-VL: its methods; no weights are needed."""
    pytest.importorskip("torch", reason="the live comparison needs PyTorch")
    module = pytest.importorskip("tests.models.parity_reference")
    transformers = pytest.importorskip("transformers", minversion=module.MINVERSION)
    return transformers.models.qwen2_5_vl.modeling_qwen2_5_vl


def random_rows(random, padding: str):
    """Eight random rows, words before every image and video, padded as told, with their grids."""
    image_grids, video_grids, seconds, rows = [], [], [], []
    for _ in range(8):
        row = []
        for _ in range(random.randint(0, 5)):
            row += [Kind.TEXT] * random.randint(1, 8)
            grid = (1, *random.randint(1, 6, 2).tolist())
            if kind := random.randint(0, 3):
                if kind == Kind.VIDEO:
                    grid = (random.randint(1, 6), *grid[1:])
                    seconds.append(random.choice([0.083, 0.5, 1.0, 1.9, 2.0, 7.3]))
                (image_grids if kind == Kind.IMAGE else video_grids).append(grid)
                row += [kind] * int(np.prod(grid))
        rows.append(row + [Kind.TEXT] * random.randint(1, 8))
    length = max(map(len, rows)) + 3
    kinds, valid = np.zeros((8, length), int), np.zeros((8, length), bool)
    for row, values in enumerate(rows):
        start = {"left": length - len(values), "right": 0, "both": 2}[padding]
        kinds[row, start : start + len(values)] = values
        valid[row, start : start + len(values)] = True
    return kinds, valid, image_grids, video_grids, seconds


@pytest.mark.reference
@pytest.mark.parametrize("merge", [1, 2])
def test_positions_equal_get_rope_index_on_200_layouts(reference, merge):
    import torch

    videos = 0
    for seed in range(25):  # of 8 rows each
        random = np.random.RandomState(seed)
        clock = int(random.choice([1, 2, 4, 25]))
        layout = random_rows(random, random.choice(["left", "right", "both"]))
        kinds, valid, image_grids, video_grids, seconds = layout
        videos += len(video_grids)
        vision = types.SimpleNamespace(spatial_merge_size=merge, tokens_per_second=clock)
        model = types.SimpleNamespace(
            config=types.SimpleNamespace(vision_config=vision),
            get_vision_position_ids=functools.partial(
                reference.Qwen2_5_VLModel.get_vision_position_ids, None
            ),
        )

        def patches(grids, merge=merge):
            return torch.tensor([(t, h * merge, w * merge) for t, h, w in grids]).reshape(-1, 3)

        places, _ = reference.Qwen2_5_VLModel.get_rope_index(
            model,
            torch.zeros(kinds.shape, dtype=torch.long),
            torch.tensor(kinds),
            patches(image_grids),
            patches(video_grids),
            torch.tensor(seconds, dtype=torch.float32),
            torch.tensor(valid),
        )
        ours, following = conversation_positions(
            kinds, valid, image_grids, video_grids, seconds, clock
        )
        np.testing.assert_array_equal(ours, places.numpy())
        last_words = [row[real][-1] for row, real in zip(places[0].numpy(), valid, strict=True)]
        np.testing.assert_array_equal(following, np.array(last_words) + 1)
    assert videos > 100


@pytest.mark.reference
@pytest.mark.parametrize("heads,section", [(2, (16, 24, 24)), (16, (2, 3, 3))])
def test_rotary_tables_equal_the_reference_at_long_range(reference, heads, section):
    """At position 131,071 one wrong bit of a frequency would turn by 0.008 radians."""
    import torch
    import transformers

    config = transformers.Qwen2_5_VLTextConfig(
        hidden_size=256,
        num_attention_heads=heads,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": list(section),
        },
    )
    places = np.random.RandomState(0).randint(0, 131072, (3, 1, 500)).astype(np.int32)
    half = 128 // heads
    rotary = reference.Qwen2_5_VLRotaryEmbedding(config)
    theirs = rotary(torch.zeros(1), torch.tensor(places))
    ours = jax.jit(rope.mrope_tables, static_argnums=(1, 2, 3))(places, 2 * half, 1e6, section)
    for table, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(table, expected[..., :half].numpy(), atol=1e-5)
