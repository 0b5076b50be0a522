"""Clips, captions, events and questions: what models reply is checked before it is believed."""

import asyncio
import dataclasses
import json

import numpy as np
import pytest

from tfds_builders.synthesis.items import Clip, Footage, Frame, Reply
from tfds_builders.synthesis.settings import SynthesisConfig
from tfds_builders.synthesis.stages import caption, merge, questions, segment


def play(stage, items, *replies, **changes):
    """The outcome with a model that gives these replies in turn, and what it was asked."""
    asked, left = [], list(replies)

    async def ask(request):
        asked.append(request)
        return Reply(left.pop(0))

    return asyncio.run(stage(items, ask, SynthesisConfig(**changes))), asked


def reasons(outcome):
    return [drop.reason for drop in outcome.drops]


def still(times, duration, changes=None):
    frames = tuple(Frame(float(t), b"") for t in times)
    return Footage("v.mp4", duration, frames, np.zeros(len(frames)) if changes is None else changes)


def spans(clips):
    return [(clip.start, clip.end) for clip in clips]


def test_clips_are_cut_where_the_picture_changes():
    changes = np.zeros(60)
    changes[[13, 21, 40]] = 9, 5, 9
    (outcome, asked) = play(segment, [still(range(60), 60.0, changes)])
    # At most 30 s: the strongest change within reach, not the first one.
    assert spans(outcome.kept) == [(0, 12), (13, 39), (40, 60)]
    assert not asked


def test_clips_without_a_change_are_long():
    outcome, _ = play(segment, [still(range(100), 100.0)], max_clip_s=30.0)
    assert spans(outcome.kept) == [(0, 29), (30, 59), (60, 89), (90, 100)]


@pytest.mark.parametrize(
    ("times", "duration"),
    [
        ([0], 0.04),
        ([0], 500.0),
        ([0, 200, 400], 500.0),
        (range(32), 32.0),
        (np.arange(0, 95, 0.7), 95.0),
        (np.cumsum(np.random.default_rng(1).uniform(0.1, 9.0, 80)) - 0.1, 400.0),
    ],
)
def test_every_frame_is_in_one_clip(times, duration):
    footage = still(times, duration)
    clips = play(segment, [footage])[0].kept
    assert all(clip.start < clip.end for clip in clips)
    holders = [sum(c.start <= t <= c.end for c in clips) for t in footage.times]
    assert set(holders) == {1}
    assert clips[-1].end == duration


def test_captions_are_words_on_one_line(footage):
    clips = [Clip(footage, 0.0, 9.0), Clip(footage, 10.0, 19.0)]
    outcome, asked = play(caption, clips, '{"caption": "A\\n polyp."}', '{"caption": "Two."}')
    assert [clip.caption for clip in outcome.kept] == ["A polyp.", "Two."]
    assert [f.time for f in asked[0].frames] == list(range(10))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ('{"caption": 3}', "caption: no text"),
        ('{"caption": " "}', "caption: broken text"),
        ('{"caption": "<answer>"}', "caption: broken text"),
        ('{"caption": "\\ud800 polyp"}', "caption: broken text"),
        (json.dumps({"caption": "polyp " * 1000}), "caption: too long"),
        ("no JSON", "unreadable reply (caption)"),
        ('{"words": "A polyp."}', "unreadable reply (caption)"),
        ('{"caption": ' + "[" * 100_000, "unreadable reply (caption)"),
        ("I'm sorry, but I can't assist with that.", "refused"),
    ],
    ids=lambda text: text[:30],
)
def test_bad_captions_are_dropped(footage, reply, reason):
    clip = Clip(footage, 0.0, 9.0)
    outcome, _ = play(caption, [clip], reply, reply)
    assert not outcome.kept and reasons(outcome) == [reason] and outcome.drops[0].item is clip


@pytest.fixture
def captioned(footage):
    """Six clips of ten seconds."""
    return [Clip(footage, 10.0 * n, 10.0 * n + 9, f"Step {n}.") for n in range(6)]


def events(*entries):
    keys = ("first", "last", "caption")
    return json.dumps({"events": [dict(zip(keys, entry, strict=True)) for entry in entries]})


def test_events_span_their_clips(captioned):
    outcome, asked = play(merge, captioned, events((1, 3, "A."), (5, 5, "B.")))
    assert [(e.start, e.end, e.caption) for e in outcome.kept] == [(0, 29, "A."), (40, 49, "B.")]
    assert asked[0].values["captions"].splitlines()[1] == "2. [10.0, 19.0] Step 1."


def test_long_recordings_are_merged_piece_by_piece(captioned):
    replies = [events((1, 4, "A.")), events((2, 2, "B."))]
    outcome, asked = play(merge, captioned, *replies, merge_clips=4)
    assert spans(outcome.kept) == [(0, 39), (50, 59)]
    assert len(asked) == 2 and len(asked[1].values["captions"].splitlines()) == 2


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ((0, 1, "A."), "no such clips"),
        ((2, 1, "A."), "no such clips"),
        ((6, 7, "A."), "no such clips"),
        (("1", 2, "A."), "no such clips"),
        ((True, 2, "A."), "no such clips"),
        ((1, 2, None), "no text"),
        ((1, 2, "<think>"), "broken text"),
    ],
)
def test_a_bad_event_is_dropped_alone(captioned, entry, reason):
    outcome, _ = play(merge, captioned, events(entry, (3, 4, "Good.")))
    assert [event.caption for event in outcome.kept] == ["Good."]
    assert reasons(outcome) == [f"event: {reason}"]


def test_events_do_not_overlap(captioned):
    outcome, _ = play(merge, captioned, events((1, 3, "A."), (3, 4, "B."), (4, 5, "C.")))
    assert [event.caption for event in outcome.kept] == ["A.", "C."]
    assert reasons(outcome) == ["event: not in order"]


@pytest.mark.parametrize("reply", ['{"events": {}}', '{"events": "none"}'])
def test_a_reply_without_events_drops_its_clips(captioned, reply):
    outcome, _ = play(merge, captioned, reply)
    assert reasons(outcome) == ["unreadable reply (merge)"]
    assert outcome.drops[0].item == captioned


def entry(**changes):
    good = {
        "task": "vqa",
        "question": "What colour is the polyp?",
        "answer": "red",
        "reason": "The polyp is red.",
        "options": ["red", "blue"],
        "evidence": [[22.0, 25.5]],
    }
    return {**good, **changes}


def ask_questions(footage, *entries, **changes):
    event = Clip(footage, 20.0, 39.0, "A polyp.")
    reply = json.dumps({"questions": entries})
    return play(questions, [event], reply, reply, **changes)


def test_a_question_with_its_evidence(footage):
    outcome, asked = ask_questions(footage, entry())
    (question,) = outcome.kept
    assert (question.task, question.text, question.answer) == ("vqa", entry()["question"], "red")
    assert question.spans == ((22.0, 25.5),) and question.options == ("red", "blue")
    assert [f.time for f in asked[0].frames] == list(range(20, 40))


def test_a_grounding_answer_is_its_evidence(footage):
    found = entry(task="grounding", answer="soon", options=[], evidence=[[30, 32], [22, 24.04]])
    (question,) = ask_questions(footage, found)[0].kept
    assert question.answer == "[22.0, 24.0], [30.0, 32.0]"
    assert question.spans == ((22.0, 24.04), (30.0, 32.0))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": "opinion"}, "unknown task"),
        ({"task": ["vqa"]}, "unknown task"),
        ({"question": ""}, "broken text"),
        ({"question": "Is it <|im_end|>?"}, "broken text"),
        ({"answer": None}, "no text"),
        ({"reason": None}, "no text"),
        ({"options": "red"}, "options are no list"),
        ({"options": [1]}, "no text"),
        ({"options": ["green", "blue"]}, "answer is none of its options"),
        ({"evidence": []}, "no evidence"),
        ({"evidence": None}, "no evidence"),
        ({"evidence": [22, 25]}, "evidence is no times"),
        ({"evidence": [["22", "25"]]}, "evidence is no times"),
        ({"evidence": [[22, float("nan")]]}, "evidence is no times"),
        ({"evidence": [[True, 25]]}, "evidence is no times"),
        ({"evidence": [[25, 22]]}, "evidence outside of the event"),
        ({"evidence": [[10, 25]]}, "evidence outside of the event"),
        ({"evidence": [[30, 45]]}, "evidence outside of the event"),
        ({"evidence": [[22, 22.4]]}, "evidence too short"),
        ({"evidence": [[22, 25], [30, 30.2]]}, "evidence too short"),
        ({"evidence": [[39.4, 39.5]]}, "evidence too short"),
    ],
)
def test_a_bad_question_is_dropped_alone(footage, changes, reason):
    outcome, _ = ask_questions(footage, entry(**changes), entry(question="Where is it?"))
    assert [question.text for question in outcome.kept] == ["Where is it?"]
    assert reasons(outcome) == [f"question: {reason}"]


def test_evidence_must_leave_something_outside(footage):
    outcome, _ = ask_questions(footage, entry(evidence=[[20, 39]]), max_evidence_share=0.3)
    assert reasons(outcome) == ["question: evidence too long"]  # 19 of 60 seconds


def test_rounded_times_are_cut_to_the_event(footage):
    (question,) = ask_questions(footage, entry(evidence=[[19.6, 39.4]]))[0].kept
    assert question.spans == ((20.0, 39.0),)


def test_no_more_questions_than_wanted_and_none_twice(footage):
    three = [entry(), entry(question="what COLOUR is the polyp?"), entry(question="Where is it?")]
    outcome, _ = ask_questions(footage, *three)
    assert len(outcome.kept) == 2 and reasons(outcome) == ["question: asked twice"]
    # With other options it is another question.
    others = [entry(options=["red", "blue"]), entry(options=["red", "green"])]
    assert len(ask_questions(footage, *others)[0].kept) == 2
    outcome, _ = ask_questions(footage, *three, questions_per_event=1)
    assert len(outcome.kept) == 1 and not outcome.drops


def test_the_same_question_of_two_recordings_is_kept(footage):
    other = dataclasses.replace(footage, video="w.mp4")
    items = [Clip(f, 20.0, 39.0, "A polyp.") for f in (footage, other)]
    reply = json.dumps({"questions": [entry()]})
    assert len(play(questions, items, reply, reply)[0].kept) == 2
