"""Rewards: golden values of the co-author's fork, traps, formats and forged evidence."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.rl import (
    Reward,
    RewardConfig,
    as_evidence,
    crop_reward,
    fidelity,
    format_reward,
    frame_reward,
    score_transcript,
)
from medscope_jax.tools import CallStatus, Tool

GOLDENS = json.loads((Path(__file__).parent / "goldens" / "evidence_rewards.json").read_text())
RESPONSE = "<tool_response>[frames]</tool_response>"


def crop(start, end):
    arguments = {"video_path": "video.mp4", "start_time": start, "end_time": end}
    return f"<tool_call>{json.dumps({'name': 'crop_video', 'arguments': arguments})}</tool_call>"


def get_frame(timestamp):
    arguments = {"video_path": "video.mp4", "timestamp": timestamp}
    return f"<tool_call>{json.dumps({'name': 'get_frame', 'arguments': arguments})}</tool_call>"


def transcript(*calls, answer="two clips"):
    scored_calls = "".join(f"<think>look</think>{call}{RESPONSE}" for call in calls)
    return f"{scored_calls}<think>done</think><answer>{answer}</answer>"


@pytest.mark.parametrize("golden", GOLDENS, ids=range(len(GOLDENS)))
def test_golden(golden):
    config = RewardConfig(
        golden["h0"], golden["delta"], golden["eta"], golden["alpha"], golden["window"]
    )
    kind, value = next(iter(golden["evidence"].items()))
    evidence = [value] if kind == "segment" else value
    reward = score_transcript(golden["transcript"], evidence, golden["judge"], config)
    for name in ("accuracy", "format", "crop", "frame", "total"):
        assert getattr(reward, name) == pytest.approx(golden[name], abs=1e-6), name
    assert reward.evidence == pytest.approx(golden["evidence_reward"], abs=1e-6)


# ---- the crop reward and its traps


@pytest.mark.parametrize(
    ("iou", "step", "smooth"),
    [
        (0.0, 0.0, 0.0),
        (0.1, -1.0, 0.1),
        (0.4999, -1.0, 0.4999),
        (0.5, 1.0, 0.5),
        (0.6, 1.2, 0.8),  # floating point's floor would give one step only
        (0.64, 1.2, 0.84),
        (0.7, 1.4, 1.1),
        (1.0, 2.0, 2.0),
    ],
)
def test_crop_reward(iou, step, smooth):
    assert crop_reward(iou, RewardConfig()) == pytest.approx(step)
    assert crop_reward(iou, RewardConfig(crop_reward="smooth")) == pytest.approx(smooth)


@given(st.integers(0, 10), st.sampled_from([0.05, 0.1, 0.025]), st.sampled_from([0.3, 0.5]))
def test_exact_marks_earn_their_step(steps, delta, h0):
    iou = h0 + steps * delta
    assert crop_reward(iou, RewardConfig(h0=h0, delta=delta)) == pytest.approx(1 + 0.1 * steps)


@given(st.floats(0, 1), st.floats(0, 1))
def test_smooth_reward_never_punishes_a_better_window(iou_a, iou_b):
    config = RewardConfig(crop_reward="smooth")
    low, high = sorted((iou_a, iou_b))
    assert 0 <= crop_reward(low, config) <= crop_reward(high, config)


def test_several_spans_are_one_union():
    spans = [(10, 20), (30, 40), (15, 20)]
    reward = score_transcript(transcript(crop(10, 40)), spans, 1.0)
    assert reward.iou == pytest.approx(20 / 30)
    assert reward.crop == pytest.approx(1.3)
    assert score_transcript(transcript(get_frame(35)), spans, 1.0).frame == 1.0
    assert score_transcript(transcript(get_frame(25)), spans, 1.0).frame == 0.0


def test_frame_time_evidence():
    reward = score_transcript(transcript(crop(10, 20), get_frame(12.5)), 12.0, 1.0)
    assert (reward.crop, reward.frame, reward.total) == (1.0, 0.5, 3.5)
    assert score_transcript(transcript(crop(13, 20)), np.float32(12.0), 1.0).crop == 0.0
    assert frame_reward(14.0, 12.0, RewardConfig(frame_window=4.0)) == 0.5


def test_weights():
    config = RewardConfig(answer_weight=2, format_weight=0.5, evidence_weight=0.25)
    reward = score_transcript(transcript(crop(0, 10)), [(0, 10)], 0.5, config)
    assert reward.total == pytest.approx(2 * 0.5 + 0.5 + 0.25 * 2.0)


# ---- which calls count


def test_last_valid_call_of_each_tool_counts():
    text = transcript(crop(1, 2), get_frame(5), crop(3, 4), get_frame(6), crop(9, 8), "junk")
    reward = score_transcript(text, [(0, 10)], 1.0)
    assert (reward.window, reward.timestamp) == ((3.0, 4.0), 6.0)


def test_last_look_alone():
    last = RewardConfig(crop_reward="smooth", scored_calls="last")
    spans = [(10, 14)]
    # As published, a wide window and a frame anywhere inside add up to more than a good window.
    lazy, good = transcript(crop(0, 20), get_frame(13)), transcript(crop(0, 20), crop(9, 14))
    each = RewardConfig(crop_reward="smooth")
    lazy_each, good_each = (score_transcript(t, spans, 1.0, each) for t in (lazy, good))
    assert (lazy_each.crop, lazy_each.frame) == (pytest.approx(0.2), 1.0)
    assert good_each.evidence == pytest.approx(0.8 + 0.6)
    # The frame at 13 s shows 12 to 14 s: half of the evidence.
    reward = score_transcript(lazy, spans, 1.0, last)
    assert (reward.crop, reward.window, reward.iou) == (0.0, None, 0.5)
    assert reward.frame == pytest.approx(0.5)
    assert score_transcript(good, spans, 1.0, last) == good_each
    # A failed call afterwards is no look.
    failed = transcript(crop(9, 14), get_frame(13).replace("get_frame", "get_it"))
    assert score_transcript(failed, spans, 1.0, last).window == (9.0, 14.0)


def test_last_look_at_a_frame_time():
    last = RewardConfig(scored_calls="last")
    reward = score_transcript(transcript(crop(10, 20), get_frame(12.5)), 12.0, 1.0, last)
    assert (reward.crop, reward.frame, reward.iou) == (0.0, 0.5, 1.0)
    reward = score_transcript(transcript(get_frame(12.5), crop(10, 20)), 12.0, 1.0, last)
    assert (reward.crop, reward.frame, reward.timestamp) == (1.0, 0.0, None)
    calls = [(Tool.CROP_VIDEO, 1.0, 2.0, CallStatus.OK), (Tool.GET_FRAME, 9.0, 9.0, CallStatus.OK)]
    text = transcript(crop(1, 2), get_frame(9))
    assert score_transcript(text, 9.0, 1.0, last, calls=calls) == score_transcript(
        text, 9.0, 1.0, last
    )


def test_no_response_no_evidence():
    text = f"<think>a</think>{crop(0, 10)}<think>b</think><answer>two clips</answer>"
    reward = score_transcript(text, [(0, 10)], 1.0)
    assert (reward.crop, reward.format, reward.window) == (0.0, 1.0, None)


def written_window(text, duration=None):
    return score_transcript(text, [(0, 10)], 1.0, duration=duration).window


def test_duration_clamps_ends_and_refuses_what_lies_beyond():
    text = transcript(crop(50, 500), crop(60, 70))
    assert written_window(text, 60.0) == (50.0, 60.0)
    assert written_window(text) == (60.0, 70.0)
    huge = transcript(crop(1, 10**400).replace("1" + "0" * 400, "1" + "0" * 40))
    assert written_window(huge, 60.0) == (1.0, 60.0)


def test_executed_calls_replace_the_text():
    calls = [
        (Tool.CROP_VIDEO, 1.0, 2.0, CallStatus.OK),
        (Tool.CROP_VIDEO, 0.0, 0.0, CallStatus.EMPTY_WINDOW),
    ]
    text = transcript(crop(1, 2), crop(8, 7))
    reward = score_transcript(text, [(1, 2)], 1.0, calls=calls)
    assert (reward.window, reward.format) == ((1.0, 2.0), 1.0)
    # The same text as a lone turn: the model wrote the responses itself.
    forged = score_transcript(text, [(1, 2)], 1.0, calls=[])
    assert (forged.crop, forged.format, forged.total) == (0.0, 0.0, 1.0)


def test_arrays_of_executed_calls():
    times = np.float32([3, 5, 0])
    calls = list(zip([1, 2, 0], times, [4, 5, 0], np.int32([0, 0, -1]), strict=True))
    reward = score_transcript(transcript(crop(3, 4), get_frame(5)), [(3, 4)], 1.0, calls=calls)
    assert (reward.window, reward.timestamp) == ((3.0, 4.0), 5.0)
    # The third slot is empty: it vouches for no response.
    text = transcript(crop(3, 4), get_frame(5), get_frame(6))
    assert score_transcript(text, [(3, 4)], 1.0, calls=calls).format == 0.0


# ---- answers


def test_empty_and_endless_answers_earn_nothing():
    assert score_transcript(transcript(answer=" "), [], 1.0).accuracy == 0.0
    assert score_transcript(transcript(answer="x" * 999), [], 1.0).total == 2.0
    assert score_transcript(transcript(answer="x" * 1000), [], 1.0).total == 0.0


def test_broken_scores_are_refused():
    with pytest.raises(ValueError, match="judge_score"):
        score_transcript(transcript(), [], float("nan"))
    with pytest.raises(ValueError, match="crop_reward"):
        RewardConfig(crop_reward="stepwise")
    with pytest.raises(ValueError, match="scored_calls"):
        RewardConfig(scored_calls="first")


# ---- format: regular expression against a state machine

# state -> {tag: next state}; think opens and closes, then a call and another think, or the answer.
STATES = {
    "start": {"<think>": "thinking"},
    "thinking": {"</think>": "thought"},
    "thought": {"<tool_call>": "calling", "<answer>": "answering"},
    "calling": {"</tool_call>": "called"},
    "called": {"<think>": "thinking"},
    "answering": {"</answer>": "end"},
    "end": {},
}
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>"]


def machine_format(text):
    """Walks through the text character by character."""
    text = text.strip()
    state, position, answer = "start", 0, ""
    while position < len(text):
        tag = next((tag for tag in TAGS if text.startswith(tag, position)), None)
        if tag is None:
            if state in ("start", "end"):
                return 0.0
            answer += text[position] if state == "answering" else ""
            position += 1
            continue
        if tag not in STATES[state]:
            return 0.0
        state = STATES[state][tag]
        position += len(tag)
    return float(state == "end" and len(answer.strip()) < 1000)


# Mostly well-formed texts with a few pieces inserted, dropped or swapped.
pieces = st.sampled_from(
    [*TAGS, "x", " ", "\n", "<tool_response>", "</tool_response>", "<", "think>"]
)
elements = st.sampled_from(["<think>x</think>", "<tool_call>{}</tool_call>", "<answer>y</answer>"])


@st.composite
def near_transcripts(draw):
    calls = ["<think>", "x", "</think>", "<tool_call>", "{}", "</tool_call>", RESPONSE]
    parts = calls * draw(st.integers(0, 3))
    parts += ["<think>", "y", "</think>", "<answer>", "z", "</answer>"]
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(parts) - 1))
        how = draw(st.sampled_from(["insert", "drop", "replace"]))
        parts[place : place + (how != "insert")] = [] if how == "drop" else [draw(pieces)]
        parts = parts or ["x"]
    return "".join(parts)


@settings(deadline=None, max_examples=500)
@given(
    near_transcripts()
    | st.lists(pieces, max_size=12).map("".join)
    | st.lists(elements, max_size=7).map("".join)
)
def test_format_equals_state_machine(text):
    assert format_reward(text) == machine_format(text)


def test_format_equals_state_machine_on_every_short_sequence():
    found = 0
    for length in range(7):
        for tags in itertools.product(TAGS, repeat=length):
            text = "".join(tags)
            found += machine_format(text) == 1.0
            assert format_reward(text) == machine_format(text)
    assert found == 1  # think and answer, nothing else in six tags or fewer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (transcript(), 1.0),
        (" \n" + transcript(crop(1, 2)) + "\n", 1.0),
        (transcript(*[get_frame(3)] * 5), 1.0),
        ("hm " + transcript(), 0.0),
        (transcript() + " so", 0.0),
        (transcript() + transcript(), 0.0),
        (f"{crop(1, 2)}{RESPONSE}" + transcript(), 0.0),
        ("<think>a<answer>b</think></answer>", 0.0),
        ("<think>a</think><think>b</think><answer>c</answer>", 0.0),
        ("<answer>c</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_format_examples(text, expected):
    assert format_reward(text) == expected


# ---- fidelity and evidence of a record


def reward(**parts):
    fields = dict.fromkeys(("accuracy", "format", "crop", "frame", "total"), 0.0)
    return Reward(**(fields | parts))


def test_fidelity_prefers_the_window_and_masks_what_is_unknown():
    assert fidelity(reward(crop=1.2, frame=1.0, window=(1, 2), timestamp=1)) == (1.2, True)
    assert fidelity(reward(frame=0.5, timestamp=1)) == (0.5, True)
    assert fidelity(reward()) == (0.0, False)
    assert fidelity(reward(window=(1, 2), grounded=False)) == (0.0, False)


def test_fidelity_of_a_partial_overlap():
    partial = reward(crop=-1.0, window=(1, 2), iou=0.2)
    assert fidelity(partial) == (-1.0, True)
    assert fidelity(partial, RewardConfig(fidelity="fork")) == (-1.0, False)


@given(st.floats(0, 1))
def test_smooth_fidelity_has_the_sign_of_the_published_one(iou):
    looked = reward(frame=iou, timestamp=1, iou=iou)
    last = RewardConfig(crop_reward="smooth", scored_calls="last")
    assert (fidelity(looked, last)[0] > 0) == (iou >= 0.5)
    configs = RewardConfig(), RewardConfig(crop_reward="smooth")
    published, smooth = (
        fidelity(reward(crop=crop_reward(iou, config), window=(1, 2), iou=iou), config)[0]
        for config in configs
    )
    assert (published > 0) == (smooth > 0)


def test_evidence_of_a_record():
    assert as_evidence(np.zeros((0, 2), np.float32), np.float32(12.5)) == 12.5
    assert as_evidence(np.float32([[1, 2], [4, 5]]), -1.0) == [(1.0, 2.0), (4.0, 5.0)]
    assert as_evidence([], -1.0) == []
    unknown = score_transcript(transcript(crop(1, 2)), [], 1.0)
    assert (unknown.total, unknown.grounded) == (2.0, False)
