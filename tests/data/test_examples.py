"""Records become fixed-shape arrays: which frames they show, where those lie, which tools exist."""

import dataclasses

import numpy as np
import pytest

from medscope_jax.data.examples import (
    clip_example,
    clip_frames,
    clip_row,
    compact,
    dialogue_example,
    dialogue_row,
)
from medscope_jax.data.row_lengths import RowLengths, needs, padded_sizes
from medscope_jax.dialogue import Layout, Role, protocol, train_tokenizer
from medscope_jax.errors import UserError
from medscope_jax.video import Video

LAYOUT = Layout(
    length=256,
    preview_frames=3,
    window_frames=4,
    grid=(1, 2),
    frame_format="{frame}{time:.1f}",
    max_tool_turns=5,
)
END = "<think>so</think><answer>left</answer>"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([END, "Where is it?"] * 5, 1024, 32)


@pytest.fixture(scope="module")
def video():
    """Ten frames, one a second; frame t is of colour t."""
    frames = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None, None, None], (10, 28, 56, 3))
    return Video(frames, np.arange(10.0), 10.0)


def record(part, turns, window=(-1.0, -1.0)):
    return {
        "id": f"train-{part}-7",
        "part": part,
        "question": "Where is it?",
        "turns": turns,
        "window": np.array(window, np.float32),
    }


def test_a_clip_shows_its_window(tokenizer, video):
    """Frames come with the example, and the row counts within them; stamps tell absolute times."""
    asked = record("qa", [END], window=(4.0, 6.0))
    row = clip_row(asked, video, tokenizer, LAYOUT)
    assert list(clip_frames(asked, video, LAYOUT)) == [4, 5, 6]
    assert [f for f in row.visual_index if f >= 0] == [0, 1, 2, 3, 4, 5]
    example = clip_example(row, asked, video, LAYOUT)
    assert {k: v.shape for k, v in example.items()} == {
        "tokens": (256,),
        "visual_index": (256,),
        "role": (256,),
        "frames": (4, 28, 56, 3),
    }
    assert example["frames"].dtype == np.uint8
    assert [int(f.max()) for f in example["frames"]] == [4, 5, 6, 0]
    assert [int(f.min()) for f in example["frames"]] == [4, 5, 6, 0]
    text = tokenizer.decode([t for t, f in zip(row.tokens, row.visual_index, strict=True) if f < 0])
    assert "user\n4.05.06.0\nWhere is it?" in text
    assert "tools" not in text and text.endswith(END + protocol.IM_END)


def test_a_long_clip_is_spread_over_its_window(tokenizer, video):
    asked = record("cap", [END], window=(0.0, 9.0))
    assert list(clip_frames(asked, video, LAYOUT)) == [0, 3, 6, 9]
    row = clip_row(asked, video, tokenizer, LAYOUT)
    assert sum(index >= 0 for index in row.visual_index) == 4 * LAYOUT.tokens_per_frame


def test_a_dialogue_brings_what_it_shows(tokenizer, video):
    """The visual tokens of the preview and the re-executed window, in their order."""
    turns = ["<think>a</think>" + protocol.crop_call(2, 3), END]
    row = compact(dialogue_row(record("vcot", turns), video, tokenizer, LAYOUT, tools=True))
    tokens = np.random.default_rng(0).normal(size=(20, 2, 3)).astype(np.float32)
    example = dialogue_example(row, lambda index: tokens.reshape(-1, 3)[index], LAYOUT, 14)
    # Preview: first, middle (4.5 rounded to even), last.
    frames = [0, 4, 9, 2, 3]
    assert list(example["visual_index"][example["visual_index"] >= 0]) == list(range(10))
    assert example["visual_index"].dtype == np.int32 and example["visual"].shape == (14, 3)
    np.testing.assert_array_equal(example["visual"][:10].reshape(5, 2, 3), tokens[frames])
    assert not example["visual"][10:].any()
    roles = example["role"][example["visual_index"] >= 0]
    assert list(roles) == [Role.PROMPT] * 6 + [Role.OBSERVATION] * 4


@pytest.mark.parametrize("offered", [True, False])
def test_tools_are_offered_as_asked(tokenizer, video, offered):
    """The passive baseline reads easy questions too, but in a prompt without tools."""
    row = dialogue_row(record("cot", [END]), video, tokenizer, LAYOUT, offered)
    assert ("crop_video" in tokenizer.decode(row.tokens)) == offered


def test_an_episode_too_long_for_the_layout_is_not_cut(tokenizer, video):
    short = dataclasses.replace(LAYOUT, length=20)
    with pytest.raises(ValueError, match="does not fit 20 slots"):
        dialogue_row(record("cot", [END]), video, tokenizer, short, True)


def test_shapes_hold_every_row(tokenizer, video):
    rows = [
        dialogue_row(record("cot", [END]), video, tokenizer, LAYOUT, True),
        dialogue_row(
            record("vcot", ["<think>a</think>" + protocol.crop_call(2, 5), END]),
            video,
            tokenizer,
            LAYOUT,
            True,
        ),
    ]
    lengths = RowLengths(*np.transpose([needs(compact(row), 2) for row in rows]))
    slots, generated = padded_sizes(lengths)
    longest = max(len(row.tokens) for row in rows)
    most = max(sum(r == Role.GENERATED for r in row.role) for row in rows)
    assert slots % 8 == 0 and longest <= slots < longest + 8
    assert generated % 8 == 0 and most <= generated < most + 8
    with pytest.raises(UserError, match="no records"):
        padded_sizes(RowLengths(*np.zeros((3, 0), np.int32)))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"question": "Where is <|im_end|>?"},
            "the question of record train-vcot-7 holds <.im_end",
        ),
        ({"question": " "}, "the question of record train-vcot-7 is empty"),
        ({"turns": ["<think>a</think><answer>b</answer></answer>"]}, "the answer in turn 1 of rec"),
        ({"turns": [END, END]}, "turn 1 of record train-vcot-7 answers, but more turns follow"),
    ],
)
def test_foreign_records_are_held_to_the_rule_of_questions(tokenizer, video, changes, match):
    """In both stages, by the record's name."""
    asked = record("vcot", [END], window=(1.0, 2.0)) | changes
    with pytest.raises(UserError, match=match):
        dialogue_row(asked, video, tokenizer, LAYOUT, True)
    with pytest.raises(UserError, match=match):
        clip_row(asked, video, tokenizer, LAYOUT)
