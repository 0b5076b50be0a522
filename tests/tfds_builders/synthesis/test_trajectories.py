"""Trajectories: calls are executed, and every kind of a bad one is dropped under its reason."""

import asyncio
import dataclasses
import json

import pytest

from tfds_builders.synthesis.items import Reply
from tfds_builders.synthesis.settings import SynthesisConfig
from tfds_builders.synthesis.trajectories import teach, think


def call(name="crop_video", thought="I look closer.", **arguments):
    text = json.dumps({"name": name, "arguments": {"video_path": "video.mp4", **arguments}})
    return f"<think>{thought}</think><tool_call>{text}</tool_call>"


def crop(start, end, **more):
    return call(start_time=start, end_time=end, **more)


def answer(text="red", thought="It is red."):
    return f"<think>{thought}</think><answer>{text}</answer>"


class Teacher:
    """Says its turns in order; a judge of other words says 0."""

    def __init__(self, *turns):
        self.turns, self.requests = turns, []

    async def __call__(self, request):
        if request.kind == "judge":
            return Reply('{"score": 0}')
        self.requests.append(request)
        return Reply(self.turns[len(request.history)])


def play(question, *turns, stage=teach, **changes):
    teacher = Teacher(*turns)
    outcome = asyncio.run(stage([question], teacher, SynthesisConfig(**changes)))
    return outcome, teacher


def test_a_good_trajectory_is_kept_as_it_was_said(question):
    turns = (crop(5, 40), "\n" + crop(19.0, 25.5) + "\n", answer())
    outcome, teacher = play(question, *turns)
    assert outcome.kept[0].turns == tuple(turn.strip() for turn in turns)
    assert not outcome.drops

    # What each turn had been shown: the preview, then the frames of its calls.
    assert [len(r.frames) for r in teacher.requests] == [60, 60, 60]
    seen = [[f.time for f in frames] for _, frames in teacher.requests[-1].history]
    assert seen[1] == [19, 20, 21, 22, 23, 24, 25]
    assert len(seen[0]) == 32 and (seen[0][0], seen[0][-1]) == (5, 40)


def test_the_teacher_is_told_where_but_not_what(question):
    _, teacher = play(question, crop(19, 25), answer())
    values = teacher.requests[0].values
    assert values["evidence"] == "[20.0, 24.0]"
    assert question.answer not in json.dumps(dict(values))


def test_get_frame_shows_three_frames_and_their_window_counts(question):
    outcome, teacher = play(question, call("get_frame", timestamp=22.2), answer())
    assert [f.time for f in teacher.requests[1].history[0][1]] == [21, 22, 23]
    assert len(outcome.kept) == 1  # 21 to 23 of 20 to 24: IoU 0.5
    outcome, _ = play(question, call("get_frame", timestamp=22.2), answer(), min_iou=0.6)
    assert not outcome.kept


BAD = {
    "call fails (not_json)": [
        "<think>a</think><tool_call>{'name': 'crop_video'}</tool_call>",
        "<think>a</think><tool_call>[]</tool_call>",
    ],
    "call fails (unknown_tool)": [call("zoom", start_time=20, end_time=24)],
    "call fails (missing_argument)": [call(start_time=20)],
    "call fails (not_a_number)": [crop("20", 24), crop(20, None)],
    "call fails (negative_time)": [crop(-1, 24)],
    "call fails (beyond_duration)": [crop(60, 64), call("get_frame", timestamp=61)],
    "call fails (empty_window)": [crop(24, 20)],
    "form": [
        "I would look at 20 s.",
        answer() + " Done.",
        "<tool_call>{}</tool_call>",
        crop(20, 24) + answer(),
        "<think>a</think><answer>red</answer><answer>blue</answer>",
        "",
    ],
    "answers without a look": [answer()],
    "too long": [crop(20, 24, thought="Well. " * 2000)],
    "speaks of its instructions": [
        crop(20, 24, thought="As instructed, I look."),
        crop(20, 24, thought="The evidence is at 20 s."),
    ],
    "too many calls": [crop(20, 24)],
    "last window misses the evidence": [crop(30, 40), crop(0, 60)],
    "wrong answer": [crop(20, 24)],
    "no usable answer": [crop(20, 24)],
}
ENDINGS = {
    "too many calls": (crop(20, 24), crop(20, 24)),
    "wrong answer": (answer("blue"),),
    "no usable answer": (answer(" "),),
}


@pytest.mark.parametrize(
    ("reason", "turn"),
    [(reason, turn) for reason, turns in BAD.items() for turn in turns],
    ids=lambda text: text[:40],
)
def test_a_bad_trajectory_is_dropped_under_its_reason(question, reason, turn):
    outcome, teacher = play(question, turn, *ENDINGS.get(reason, (answer(),)))
    assert not outcome.kept
    assert [drop.reason for drop in outcome.drops] == [f"trajectory: {reason}"]
    assert outcome.drops[0].item[0] is question


def test_only_the_last_window_counts(question):
    assert play(question, crop(50, 55), crop(20, 24), answer())[0].kept
    outcome, _ = play(question, crop(20, 24), crop(50, 55), answer())
    assert [d.reason for d in outcome.drops] == ["trajectory: last window misses the evidence"]


@pytest.mark.parametrize(("end", "kept"), [(34.0, True), (34.1, False)])
def test_the_threshold_is_the_configs(question, end, kept):
    """[20, 34] has IoU 4 / 14 with [20, 24]."""
    outcome, _ = play(question, crop(20, end), answer(), min_iou=4 / 14 - 1e-6)
    assert bool(outcome.kept) is kept


def test_windows_end_with_the_recording(question):
    late = dataclasses.replace(question, spans=((56.0, 60.0),))
    outcome, _ = play(late, crop(56, 500), answer())
    assert outcome.kept  # clamped to 60: IoU 1


def test_a_refusal_is_dropped_and_every_trajectory_counts(question):
    outcome, teacher = play(question, "I'm sorry, I cannot watch this.", trajectories=3)
    assert [drop.reason for drop in outcome.drops] == ["refused"] * 3
    assert [request.draw for request in teacher.requests] == [0, 1, 2]


def test_the_same_trajectory_is_kept_once(question):
    outcome, _ = play(question, crop(20, 24), answer(), trajectories=2)
    assert len(outcome.kept) == 1
    assert [drop.reason for drop in outcome.drops] == ["trajectory: said twice"]


def test_easy_questions_are_answered_from_the_preview(question):
    outcome, teacher = play(question, answer(), stage=think, preview_frames=12)
    assert outcome.kept[0].turns == (answer(),)
    assert len(teacher.requests[0].frames) == 12


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (crop(20, 24), "trajectory: calls without tools"),
        (answer("blue"), "trajectory: wrong answer"),
        ("red", "trajectory: form"),
    ],
)
def test_bad_answers_to_easy_questions_are_dropped(question, turn, reason):
    outcome, _ = play(question, turn, stage=think)
    assert [drop.reason for drop in outcome.drops] == [reason]
