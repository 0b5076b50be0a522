"""Times past the end of a recording: cut alike wherever they are said, or a bad row."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medscope_jax.dialogue.protocol import crop_call, frame_call
from medscope_jax.rl import parse_intervals
from tfds_builders.cut import cut_to
from tfds_builders.record import Annotation, Unusable
from tfds_builders.times import answer_turn, interval_text, period_text

THOUGHT = "<think>There.</think>"


def annotation(*spans, **fields):
    answer = fields.pop("answer", "") or (interval_text(spans) if spans else "A vein.")
    task = "grounding" if spans else "vqa"
    row = Annotation("rows.csv:2", "v.mp4", "rl", task, "When?", answer, spans=spans)
    return dataclasses.replace(row, **fields)


def test_evidence_and_answer_are_cut_alike():
    made, note = cut_to(annotation((2.0, 9.0), (0.0, 1.0)), 6.0)
    assert made.spans == ((2.0, 6.0), (0.0, 1.0))
    assert made.answer == "[2.0, 6.0], [0.0, 1.0]"
    assert note == "its evidence cut at the video's end at 6.000 s"
    words = annotation((2.0, 9.0), task="vqa", answer="A vein.")
    made, note = cut_to(words, 6.0)
    assert (made.spans, made.answer, bool(note)) == (((2.0, 6.0),), "A vein.", True)


def test_what_lies_inside_stays():
    for row in (annotation((2.0, 6.0)), annotation(frame_time=5.9), annotation()):
        assert cut_to(row, 6.0) == (row, "")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (annotation((5.9, 5000.0)), "lies mostly after"),
        (annotation((6.0, 7.0)), "starts after"),
        (annotation((1.0, 2.0), (7.0, 8.0)), "starts after"),
        (annotation(frame_time=6.5), "starts after"),
        (annotation(part="qa", window=(5.0, 60.0)), "window [5.0, 60.0] lies mostly after"),
        (annotation(spans=((math.nan, 2.0),)), "no span of time"),
        (annotation(spans=((2.0, math.inf),)), "no span of time"),
        (annotation(spans=((-1.0, 2.0),)), "no span of time"),
        (annotation(spans=((3.0, 2.0),)), "no span of time"),
        (annotation((5.9997, 6.0002), answer="[5.9, 6.1]"), "shorter than a millisecond"),
        (
            annotation((2.0, 3.0), turns=(f"{THOUGHT}<answer>[5.9, 50.0]</answer>",)),
            "the last turn's answer [5.9, 50.0] lies mostly after",
        ),
    ],
)
def test_what_can_not_be_cut(row, words):
    with pytest.raises(Unusable) as caught:
        cut_to(row, 6.0)
    assert words in str(caught.value)


def test_clips_and_turns_say_the_same():
    clip = annotation((2.0, 9.0), part="qa", window=(1.0, 10.0))
    clip = dataclasses.replace(clip, turns=(answer_turn(clip.answer, clip.window),))
    made, note = cut_to(clip, 6.0)
    assert made.window == (1.0, 6.0)
    assert made.turns == ("<think>The clip is from 1.0 to 6.0.</think><answer>[2.0, 6.0]</answer>",)
    assert note == "its evidence, window, last turn cut at the video's end at 6.000 s"
    # A teacher's own answer is cut, and not replaced by the evidence.
    turns = (f"{THOUGHT}<tool_call>...</tool_call>", f"{THOUGHT}<answer>[2.5, 8.0]</answer>")
    made, _ = cut_to(annotation((2.0, 9.0), part="vcot", turns=turns), 6.0)
    assert made.turns == (turns[0], f"{THOUGHT}<answer>[2.5, 6.0]</answer>")
    words = (turns[0], f"{THOUGHT}<answer>A vein.</answer>")
    assert cut_to(annotation((2.0, 3.0), turns=words), 6.0)[0].turns == words


def calling(*calls):
    turns = [THOUGHT + call for call in calls]
    return annotation(part="vcot", turns=(*turns, f"{THOUGHT}<answer>A vein.</answer>"))


def test_calls_are_cut_as_spans_are():
    row = calling(crop_call(2.0, 8.0), frame_call(5.9), crop_call(1.0, 6.0))
    made, note = cut_to(row, 6.0)
    assert made == calling(crop_call(2.0, 6.0), frame_call(5.9), crop_call(1.0, 6.0))
    assert note == "its calls cut at the video's end at 6.000 s"
    assert cut_to(made, 6.0) == (made, "")
    for call, words in (
        (crop_call(2.0, 50.0), "window [2.0, 50.0] lies mostly after"),
        (crop_call(20.0, 50.0), "window [20.0, 50.0] starts after"),
        (frame_call(6.5), "window [6.5, 6.5] starts after"),
    ):
        with pytest.raises(Unusable) as caught:
            cut_to(calling(call), 6.0)
        assert words in str(caught.value)
    # A recording's end is no round number: the call says the same, and nothing is counted.
    row = calling(crop_call(5.9, 6.0))
    assert cut_to(row, 5.97) == (row, "")


def test_a_question_says_no_more_than_its_evidence():
    question = f"What does the hook do {period_text((2.0, 9.0))}?"
    made, _ = cut_to(annotation((2.0, 9.0), question=question), 6.0)
    assert made.question == "What does the hook do from 2.0 to 6.0 seconds?"


times = st.floats(0, 100).map(lambda time: round(time, 2))


@given(spans=st.lists(st.tuples(times, times), min_size=1, max_size=3), duration=st.floats(0.5, 50))
def test_answers_are_their_evidence(spans, duration):
    spans = [(min(span), max(span) + 1) for span in spans]
    row = annotation(*spans)
    row = dataclasses.replace(row, turns=(f"{THOUGHT}<answer>{row.answer}</answer>",))
    try:
        made, note = cut_to(row, duration)
    except Unusable:
        assert any(start >= duration or end > duration for start, end in spans)
        return
    assert all(0 <= start < end <= duration for start, end in made.spans)
    assert bool(note) == any(end > duration for _, end in spans)
    for said in (made.answer, made.turns[-1]):
        for stated, span in zip(parse_intervals(said), made.spans, strict=True):
            assert stated == pytest.approx(span, abs=0.11)
