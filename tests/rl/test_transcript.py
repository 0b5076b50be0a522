"""What a transcript's answer is: what the model ends with, not what its thinking quotes."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.metrics.grounding import answer_spans, stated_window
from medscope_jax.metrics.scoring import score
from medscope_jax.report.make_trace import make_trace
from medscope_jax.rl import extract_answer, format_reward, score_transcript
from medscope_jax.rl.transcript import elements
from medscope_jax.rollout import Trajectory
from medscope_jax.training.groups import judge_all
from medscope_jax.video import Video

QUOTED = (
    "<think>The format is <answer>...</answer>; at first I took it for <answer>the left eye"
    "</answer>.</think><answer>the right eye</answer>"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer> two clips </answer>", "two clips"),
        ("<answer>a\nb</answer>", "a\nb"),
        ("<answer>a</answer><answer>b</answer>", "b"),
        ("<answer>a</answer> so <answer>never closed", "a"),
        ("<answer>a <answer>b</answer></answer>", "b"),
        ("<answer>never closed", None),
        ("</answer>a<answer>", None),
        ("", None),
        (QUOTED, "the right eye"),
        ("<think>or <answer>a</answer>?</think>", None),
        ("<think>or <answer>a</answer>?</think><answer>b", None),
        ("<answer>a</answer><think>no</think><answer>b</answer>", "b"),
        ("<think>a</think><think>b</think><answer></answer>", ""),
        ("<answer>a</think>b</answer>", None),
    ],
)
def test_extract_answer(text, expected):
    assert extract_answer(text) == expected


PIECES = ("<think>", "</think>", "<answer>", "</answer>", "a", "b ", "<", ">")


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_the_answer_is_the_last_one_of_a_regular_expression(text):
    """Against the definition, on texts short enough for it."""
    said = re.split("</think>", text)[-1]
    # The last opening tag that a closing one follows, up to the first that does.
    found = re.fullmatch(
        r".*<answer>((?:(?!<answer>).)*?)</answer>(?:(?!<answer>.*</answer>).)*", said
    )
    assert extract_answer(text) == (found[1].strip() if found else None)
    assert list(elements(text, "think")) == re.findall("<think>(.*?)</think>", text)


def test_the_quoted_answer_counts_nowhere():
    """One reading for rewards, judges, evaluation and the pages; the form stays an error."""
    assert format_reward(QUOTED) == 0.0
    assert score_transcript(QUOTED, [], 1.0).accuracy == 1.0
    found = Trajectory(QUOTED, [QUOTED], [], [])
    assert judge_all([found], [{}], lambda asked, answers: answers) == ["the right eye"]
    frames = np.zeros((3, 28, 56, 3), np.uint8)
    trace = make_trace("Which eye?", found, Video(frames, np.arange(3.0), 3.0), 2)
    assert trace.answer == "the right eye"
    scored = score(
        model="rl",
        split="test",
        task="vqa",
        text=QUOTED,
        reference="the right eye",
        evidence=[],
        judge_score=1.0,
    )
    assert scored.answer == "the right eye"
    spans = "<think>Not <answer>[0.0, 9.0]</answer>, later.</think><answer>[87.0, 95.0]</answer>"
    assert answer_spans(spans) == [(87.0, 95.0)]


@pytest.mark.parametrize(
    "piece",
    ["<answer>", "<think>", "</answer>", "</think><answer>", "<tool_call>", "[1 to ", "[1 ", "1"],
)
def test_hostile_transcripts_take_linear_time(piece):
    """A megabyte of what a lazy regular expression would search for again from every place."""
    text = "<tool_response>" + piece * (1_000_000 // len(piece))
    reward = score_transcript(text, [(1, 2)], 1.0)
    assert (reward.total, reward.window, reward.timestamp) == (0.0, None, None)
    assert extract_answer(text) is stated_window(text) is answer_spans(text) is None
