"""Filters on planted cases: what should be dropped is, for its reason; what should stay does."""

import asyncio
import dataclasses
import json

import pytest

from tfds_builders.synthesis.filters import blind, judged, verify
from tfds_builders.synthesis.items import Reply
from tfds_builders.synthesis.settings import SynthesisConfig


class Model:
    """An `ask` that answers by kind; kinds maps to a text, or to a function of the request."""

    def __init__(self, **kinds):
        self.kinds, self.requests = kinds, []

    async def __call__(self, request):
        self.requests.append(request)
        answer = self.kinds[request.kind]
        return Reply(answer(request) if callable(answer) else answer)

    def shown(self):
        """The times of the frames of each request."""
        return [[frame.time for frame in request.frames] for request in self.requests]


def says(text):
    return json.dumps({"answer": text})


def sees(start, end, answer, other="unknown"):
    """Answers right where a frame of that time is shown."""

    def answer_of(request):
        seen = any(start <= frame.time <= end for frame in request.frames)
        return says(answer if seen else other)

    return answer_of


def play(stage, items, model, **changes):
    return asyncio.run(stage(items, model, SynthesisConfig(**changes)))


def reasons(outcome):
    return [drop.reason for drop in outcome.drops]


def test_a_question_that_text_answers_is_dropped(question):
    outcome = play(blind, [question], Model(blind=says("Red.")))
    assert not outcome.kept and reasons(outcome) == ["blind: answered without frames"]
    assert outcome.drops[0].item is question


def test_one_lucky_attempt_is_enough_to_drop_and_two_may_be_allowed(question):
    def third_time(request):
        return says("red" if request.draw >= 4 else "blue")  # two replies' draws an attempt

    model = Model(blind=third_time, judge='{"score": 0}')
    assert not play(blind, [question], model, blind_attempts=3).kept
    asked = [request for request in model.requests if request.kind == "blind"]
    assert [request.draw for request in asked] == [0, 2, 4]
    assert not any(request.frames for request in model.requests)
    assert play(blind, [question], model, blind_attempts=2).kept == [question]
    assert play(blind, [question], model, blind_attempts=3, blind_right=2).kept == [question]


def test_a_question_is_kept_if_guesses_fail_or_decline(question):
    model = Model(blind=says("green"), judge='{"score": 0}')
    assert play(blind, [question], model).kept == [question]
    assert play(blind, [question], Model(blind="I'm sorry, I can't.")).kept == [question]


def test_a_guess_of_a_time_is_measured_and_not_judged(footage, question):
    timed = dataclasses.replace(question, task="grounding", answer="[20.0, 24.0]")
    near = Model(blind=says("[19.5, 24.5]"))  # IoU 0.8
    assert not play(blind, [timed], near).kept
    assert play(blind, [timed], Model(blind=says("[18.0, 26.0]"))).kept == [timed]  # IoU 0.5
    half = play(blind, [timed], Model(blind=says("[18.0, 26.0]")), leak_score=0.5)
    assert not half.kept


def test_a_verified_question_is_shown_its_evidence_then_everything_else(question):
    model = Model(answer=sees(20, 24, "red"))
    assert play(verify, [question], model).kept == [question]
    inside, outside = model.shown()
    assert inside == [20, 21, 22, 23, 24]
    assert outside == [*range(20), *range(25, 60)]


def test_evidence_that_does_not_hold_the_answer_drops_it(question):
    model = Model(answer=sees(40, 44, "red"))
    outcome = play(verify, [question], model)
    assert not outcome.kept and reasons(outcome) == ["verify: not answered from its evidence"]
    assert len(model.requests) == 1  # no need to look elsewhere


def test_an_answer_seen_elsewhere_too_drops_it(question):
    outcome = play(verify, [question], Model(answer=sees(20, 25, "red")))
    assert reasons(outcome) == ["verify: answered without its evidence"]


def test_a_wrong_answer_from_elsewhere_is_a_failure(question):
    model = Model(answer=sees(20, 24, "red", other="blue"), judge='{"score": 0}')
    assert play(verify, [question], model).kept == [question]


def test_declining_elsewhere_is_a_failure_and_here_a_drop(question):
    def decline(request):
        first = request.frames[0].time
        return says("red") if first == 20 else "I'm unable to see that."

    assert play(verify, [question], Model(answer=decline)).kept == [question]
    outcome = play(verify, [question], Model(answer="I'm unable to see that."))
    assert reasons(outcome) == ["verify: not answered from its evidence"]


def test_evidence_of_the_whole_recording_cannot_be_verified(question):
    whole = dataclasses.replace(question, spans=((0.0, 60.0),))
    outcome = play(verify, [whole], Model(answer=says("red")))
    assert reasons(outcome) == ["verify: no frames outside of the evidence"]


def test_evidence_of_several_spans(question):
    two = dataclasses.replace(question, spans=((3.0, 4.0), (50.0, 51.0)))
    model = Model(answer=sees(50, 51, "red"))
    assert play(verify, [two], model).kept == [two]
    inside, outside = model.shown()
    assert inside == [3, 4, 50, 51]
    assert outside == [*range(3), *range(5, 50), *range(52, 60)]


def test_a_question_for_a_time_shows_more_than_its_answer(question):
    timed = dataclasses.replace(question, task="grounding", answer="[20.0, 24.0]")
    model = Model(answer=lambda r: says("[20.0, 24.0]") if len(r.frames) < 20 else says("?"))
    assert play(verify, [timed], model).kept == [timed]
    inside, outside = model.shown()
    assert inside == [*range(15, 30)]  # five seconds on either side
    assert not set(outside) & {20, 21, 22, 23, 24}


def test_few_frames_are_spread_over_what_they_stand_for(question):
    model = Model(answer=sees(20, 24, "red"))
    play(verify, [question], model, verify_frames=3, outside_frames=5)
    inside, outside = model.shown()
    assert inside == [20, 22, 24]
    assert len(outside) == 5 and (outside[0], outside[-1]) == (0, 59)


@pytest.mark.parametrize(
    ("answer", "score", "asks"),
    [
        ("The red.", 1, 0),
        ("crimson", 1, 1),
        ("", 0, 0),
        ("Unknown.", 0, 0),
    ],
)
def test_only_other_words_need_a_judge(question, answer, score, asks):
    model = Model(judge='{"score": 1}')
    assert asyncio.run(judged(question, answer, model, SynthesisConfig())) == score
    assert len(model.requests) == asks


def test_yes_is_not_no(question):
    claim = dataclasses.replace(question, answer="yes")
    assert asyncio.run(judged(claim, "No.", Model(), SynthesisConfig())) == 0


def test_options_are_asked_with_and_judged_by(question):
    """By letter or text without the model; it sees them where an answer names none."""
    choice = dataclasses.replace(question, options=("blue", "red"))
    for answer, score in (("B", 1), ("red", 1), ("(B) red", 1), ("A", 0), ("A. red", 0)):
        assert asyncio.run(judged(choice, answer, Model(), SynthesisConfig())) == score
    model = Model(blind=says("crimson"), judge='{"score": 1}')
    assert reasons(play(blind, [choice], model)) == ["blind: answered without frames"]
    asked = {request.values["question"] for request in model.requests}
    assert asked == {"What colour is the polyp?\nA. blue\nB. red"}


def test_a_judge_without_a_score_is_asked_anew_then_the_question_is_dropped(question):
    model = Model(blind=says("crimson"), judge="Well...")
    outcome = play(blind, [question], model)
    assert reasons(outcome) == ["unreadable reply (judge)"]
    draws = [request.draw for request in model.requests if request.kind == "judge"]
    assert draws == [0, 1]


def test_others_go_on_where_one_is_dropped(question):
    others = [dataclasses.replace(question, text=f"Which is polyp {n}?") for n in range(3)]

    def knows_one(request):
        return says("red" if "polyp 1" in request.values["question"] else "green")

    outcome = play(blind, others, Model(blind=knows_one, judge='{"score": 0}'))
    assert outcome.kept == [others[0], others[2]]
    assert [drop.item for drop in outcome.drops] == [others[1]]
