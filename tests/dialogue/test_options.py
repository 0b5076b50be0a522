"""A question and its options are one text, and that text reaches whatever asks or shows it."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.data.examples import clip_row, dialogue_row
from medscope_jax.dialogue import Layout, Role, protocol, question_text, train_tokenizer
from medscope_jax.dialogue.options import choices
from medscope_jax.errors import UserError
from medscope_jax.report import render_trace
from medscope_jax.report.make_trace import make_trace
from medscope_jax.rl import make_judge
from medscope_jax.rl.endpoint import judge_messages
from medscope_jax.rollout import Trajectory, make_prompts, prompt_width, row_keys
from medscope_jax.video import Video
from tfds_builders.messages import conversation

RECORD = {
    "id": "eval-7",
    "question": "Which eye\nis operated on?",
    "options": ["left eye", "right eye"],
    "answer": "right eye",
    "task": "vqa",
    "evidence": np.zeros((0, 2), np.float32),
    "turns": ["<think>so</think><answer>right eye</answer>"],
    "window": np.float32([0, 2]),
    "duration": np.float32(3),
    "video": "eye",
}
TEXT = "Which eye is operated on?\nA. left eye\nB. right eye"
LAYOUT = Layout(400, 3, 4, (1, 2), "{frame}{time:.1f}", 2)
TIMES = np.arange(3.0)


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ([], []),
        (["left", "right  eye"], ["A. left", "B. right eye"]),
        (["A. left", "B. right"], ["A. left", "B. right"]),
        (["a) left", "b) right"], ["A. left", "B. right"]),
        (["(B) left", "(A) right"], ["B. left", "A. right"]),
        (["A: left", "B - right"], ["A. left", "B. right"]),
        (["A.left", "B.right"], ["A. left", "B. right"]),
        (["1. left", "2) right"], ["1. left", "2. right"]),
        (["A", "B", "C"], ["A", "B", "C"]),
        # What looks like a label and is none.
        (["E. coli", "S. aureus"], ["A. E. coli", "B. S. aureus"]),
        (["1.5 mm", "2.5 mm"], ["A. 1.5 mm", "B. 2.5 mm"]),
        (["0", "1", "2"], ["A. 0", "B. 1", "C. 2"]),
        (["A clip", "B cells"], ["A. A clip", "B. B cells"]),
        (["A. left", "right"], ["A. A. left", "B. right"]),
        (["A", "B. right"], ["A. A", "B. B. right"]),
        (["+", "-"], ["A. +", "B. -"]),
        (["left", "left"], ["A. left", "B. left"]),
    ],
)
def test_options_are_lettered_once(options, lines):
    record = {"question": "Which  one?", "options": options}
    assert question_text(record) == "\n".join(["Which one?", *lines])
    assert question_text({"question": "Which one?"}) == "Which one?"


@settings(deadline=None)
@given(st.lists(st.text("abcXYZ .:)(12", min_size=1).filter(str.strip), max_size=60))
def test_labels_differ_and_texts_stay(options):
    made = choices(options)
    assert len(made) == len(options) and len({choice.label for choice in made}) == len(made)
    for choice, option in zip(made, options, strict=True):
        assert choice.text in " ".join(option.split())
    # Lettered by somebody else, they are the same: letters are not put before letters.
    assert choices([str(choice) for choice in made]) == made or not options


def test_letters_go_on_after_z():
    labels = [choice.label for choice in choices([f"step {i}" for i in range(703)])]
    assert labels[:2] + labels[25:28] + labels[701:] == ["A", "B", "Z", "AA", "AB", "ZZ", "AAA"]


@pytest.mark.parametrize(
    ("option", "reason"),
    [(" \n", "is empty"), ("<answer>", "a tag of the protocol"), ("\u202eleft", "broken text")],
)
def test_options_that_cannot_be_asked(option, reason):
    with pytest.raises(UserError, match=f"^an option of the question of record 7 .*{reason}"):
        question_text({"question": "Which?", "options": ["a", option]}, "the question of record 7")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT, *RECORD["turns"]] * 5, 1024, 32)


def prompt_of(tokenizer, tokens, role):
    return tokenizer.decode(np.asarray(tokens)[np.equal(role, Role.PROMPT)].tolist())


def test_training_and_rollouts_ask_with_options(tokenizer):
    """As one text below the frames, of which clips, conversations and prompts are all made."""
    video = Video(np.zeros((3, 28, 56, 3), np.uint8), TIMES, 3.0)
    row = dialogue_row(RECORD, video, tokenizer, LAYOUT, tools=True)
    asked = f"\n{TEXT}\n{protocol.INSTRUCTION_WITH_TOOLS}<|im_end|>"
    assert asked in prompt_of(tokenizer, row.tokens, row.role)
    clip = clip_row(RECORD, video, tokenizer, LAYOUT)
    assert f"\n{TEXT}\n{protocol.INSTRUCTION}" in prompt_of(tokenizer, clip.tokens, clip.role)

    keys = row_keys(jax.random.key(0), np.arange(1)).reshape(1, 1)
    width = prompt_width([RECORD], [TIMES], tokenizer, LAYOUT, True)
    made = make_prompts([RECORD], [0], [TIMES], keys, width, tokenizer, LAYOUT, True)
    tokens = np.asarray(made.tokens[0, : made.length[0]])
    count = np.count_nonzero(np.equal(row.role, Role.PROMPT))
    np.testing.assert_array_equal(tokens, row.tokens[:count])
    assert count <= width.most < count + 8


def test_judges_messages_and_pages_show_options():
    (opening, reply) = conversation(RECORD, TIMES)
    assert opening["content"][1]["text"].startswith(f"{TEXT}\n")
    system, user = judge_messages(question_text(RECORD), "B", RECORD["answer"])
    assert json.loads(user["content"])["question"] == TEXT and "options" in system["content"]
    assert "options" not in judge_messages("Which eye?", "B", "right")[0]["content"]
    rules = make_judge({"url": ""})
    assert rules([RECORD] * 3, ["B", "A", "(b) right eye"]) == [1.0, 0.0, 1.0]
    video = Video(np.zeros((3, 28, 56, 3), np.uint8), TIMES, 3.0)
    trace = make_trace(question_text(RECORD), Trajectory("", [], [], []), video, 2)
    assert f'<h1 class="words">{TEXT}</h1>' in render_trace(trace)
