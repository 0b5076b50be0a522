"""The card's numbers, on records made by hand whose numbers are known."""

import math

import numpy as np
import pytest

from tests.tfds_builders.card.card_cases import row
from tfds_builders.card import stats as card_stats
from tfds_builders.card.blind_baselines import constant_ious, priors
from tfds_builders.card.stats import Summary, histogram, make_row


def test_rows_of_records():
    record = {
        **{"id": "a", "video": "v", "part": "qa", "source": "eye", "split": "elsewhere"},
        **{"task": "vqa", "question": "Q", "answer": "A", "options": ["A", "B"], "turns": []},
        "evidence": np.array([[4, 9], [2, 5]], np.float32),
        "evidence_time": np.float32(-1),
        "duration": np.float32(60),
        "window": np.array([1, 12], np.float32),
    }
    made = make_row(record, "test")
    assert (made.split, made.spans, made.frame_time) == ("test", ((2.0, 9.0),), None)
    assert (made.window, made.duration, made.options) == ((1.0, 12.0), 60.0, ("A", "B"))
    assert made.has_evidence
    moment = {**record, "evidence": np.zeros((0, 2)), "evidence_time": np.float32(0)}
    moment["window"] = np.array([-1, -1], np.float32)
    made = make_row(moment, "test")
    assert (made.spans, made.frame_time, made.window, made.has_evidence) == ((), 0.0, None, True)


def test_counts_and_samples_a_video():
    rows = [row(video="v")] * 3 + [row(video="w")] + [row(source="gut", video="x", part="cap")] * 2
    assert card_stats.record_counts(rows) == {
        ("cap", "train", "vqa", "gut"): 2,
        ("rl", "train", "vqa", "eye"): 4,
    }
    assert card_stats.samples_per_video(rows) == {
        "eye": Summary((3.0, 1.0)),
        "gut": Summary((2.0,)),
    }


def test_seconds_and_words():
    rows = [
        row(spans=((0.0, 10.0), (20.0, 25.0)), window=(5.0, 40.0)),
        row(frame_time=3.0),
        row(part="cap", answer="a needle  enters\nthe eye", window=(0.0, 8.0)),
        row(part="cap", source="gut", answer="nothing"),
    ]
    assert card_stats.window_seconds(rows) == {"eye": Summary((15.0,))}
    assert card_stats.clip_seconds(rows) == {"eye": Summary((35.0, 8.0))}
    assert card_stats.caption_words(rows) == {"eye": Summary((5.0,)), "gut": Summary((1.0,))}


def test_coverage_is_the_union_over_a_video():
    rows = [
        row(video="v", spans=((0.0, 30.0),)),
        row(video="v", spans=((20.0, 50.0), (90.0, 100.0))),
        row(video="w", frame_time=3.0),
        row(video="x", source="gut", spans=((1.0, 2.0),), duration=4.0),
        row(video="y", part="cap"),
    ]
    assert card_stats.evidence_coverage(rows) == {
        "eye": Summary((0.6, 0.0, 0.0)),
        "gut": Summary((0.25,)),
    }
    shares = card_stats.evidence_share([*rows, row()])
    assert shares["eye"].mean == 0.75 and shares["gut"].mean == 1.0


def test_summaries_and_histograms():
    summary = Summary((1.0, 2.0, 9.0))
    assert (summary.count, summary.mean, summary.median, summary.most) == (3, 4.0, 2.0, 9.0)
    assert math.isnan(Summary(()).mean) and math.isnan(Summary(()).most)
    edges, counts = histogram([0.0, 1.0, 1.0, 10.0], bins=5)
    assert edges == [0, 2, 4, 6, 8, 10] and counts == [3, 0, 0, 0, 1]
    assert sum(histogram([4.0, 4.0])[1]) == 2


def test_answer_priors():
    colours = [row(answer="Red")] * 6 + [row(answer="blue.")] * 3
    sides = [row(question="Which side?", answer="left", task="vqa")] * 2
    other = [row(source="gut", answer="green")] * 50
    asked = [
        row(split="test", answer="red"),
        row(split="test", answer="the red"),
        row(split="test", answer="blue"),
        row(split="test", question="which  SIDE", answer="left"),
        row(split="test", question="Never asked?", answer="blue"),
    ]
    (prior,) = priors([*colours, *sides, *other, *asked])
    assert (prior.split, prior.source, prior.task, prior.count) == ("test", "eye", "vqa", 5)
    assert prior.answer == "red"
    assert prior.by_task == pytest.approx(2 / 5)
    assert prior.by_question == pytest.approx(3 / 5)
    assert prior.span is prior.miou is prior.recall is None

    # A source that train lacks is guessed from all of train.
    (prior,) = priors([*colours, *other, row(split="validation", source="new", answer="green")])
    assert (prior.answer, prior.by_task) == ("green", 1.0)


def test_a_guess_keeps_to_the_options():
    train = [row(answer="red")] * 5 + [row(answer="green")] * 2 + [row(answer="blue")]
    asked = [
        row(split="test", answer="Green", options=("Blue", "Green")),
        row(split="test", answer="blue", options=("Blue", "Green")),
    ]
    (prior,) = priors([*train, *asked])
    assert prior.by_question == 0.5 and prior.by_task == 0.0


def test_open_answers_and_unknown_tasks_have_no_prior():
    rows = [row(task="description", answer="long")] * 3
    rows += [row(split="test", task="description", answer="long"), row(split="test", task="order")]
    for prior in priors(rows):
        assert prior.by_task is prior.by_question is None and prior.count == 1
    assert priors([row(part="cap"), row(part="cap", split="test")]) == []


def test_span_priors():
    def grounding(split, *spans, duration=100.0):
        return row(task="grounding", answer="[0, 1]", split=split, spans=spans, duration=duration)

    train = [grounding("train", (20.0, 40.0))] * 3 + [
        grounding("train", (140.0, 160.0), duration=200)
    ]
    asked = [
        grounding("test", (20.0, 40.0)),  # 1
        grounding("test", (25.0, 45.0), duration=50.0),  # [10, 20]: 0
        grounding("test", (20.0, 30.0), (30.0, 60.0)),  # 20 of 40
        grounding("test", (30.0, 50.0)),  # 10 of 30
    ]
    (prior,) = priors([*train, *asked])
    assert prior.span == (0.2, 0.4)
    assert prior.miou == pytest.approx((1 + 0 + 0.5 + 1 / 3) / 4)
    assert prior.recall == 0.5
    assert prior.by_task is None


def test_constant_windows_by_hand():
    rows = [row(spans=((0.0, 10.0), (50.0, 60.0))), row(spans=((0.0, 50.0),), duration=50.0)]
    ious = constant_ious(rows, [(0.0, 1.0), (0.05, 0.55)])
    np.testing.assert_allclose(ious, [[0.2, 1.0], [10 / 60, 0.5]])
