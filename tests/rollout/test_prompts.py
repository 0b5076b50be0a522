"""Questions become prompts, finished episodes become trajectories: on the host, without a model."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from medscope_jax.bank import stack_bank
from medscope_jax.dialogue import (
    CallRecord,
    Episode,
    Role,
    build_episode,
    build_prompt,
    generated_text,
    pad_row,
    protocol,
    stamp_ids,
    train_tokenizer,
)
from medscope_jax.errors import UserError
from medscope_jax.phantom.records import records
from medscope_jax.phantom.suite_config import procedures, smoke_suite
from medscope_jax.rollout import (
    PromptWidth,
    make_prompts,
    prompt_width,
    read_trajectories,
    row_keys,
)
from medscope_jax.tools import CallStatus, Tool
from medscope_jax.video import preview_indices
from tests.rollout.prompt_cases import LAYOUT

QUESTIONS = ["Where?", "How many clips are placed on the left?", "When does the capsule tear?"]
LENGTHS = (20, 9, 3)  # frames of each video, one a second
END = "<think>so</think><answer>left</answer>"


@pytest.fixture(scope="module")
def world():
    """(tokenizer, times of each video, a bank of 20 frames a video)."""
    tokenizer = train_tokenizer([*QUESTIONS, END] * 5, 1024, 32)
    times = [np.arange(n, dtype=np.float64) for n in LENGTHS]
    tokens = [np.zeros((n, 2, 4), np.float32) for n in LENGTHS]
    stamps = functools.partial(stamp_ids, tokenizer, LAYOUT)
    bank = stack_bank(tokens, times, [float(n) for n in LENGTHS], stamps)
    return tokenizer, times, bank.padded()


def ask(world, questions, videos, width):
    tokenizer, times, _ = world
    keys = row_keys(jax.random.key(0), np.arange(2 * len(videos))).reshape(-1, 2)
    return make_prompts(
        [{"question": question} for question in questions],
        videos,
        [times[v] for v in videos],
        keys,
        width,
        tokenizer,
        LAYOUT,
        True,
    )


def test_prompts_are_the_hosts(world):
    """Row by row what build_prompt writes, and the video that each is about."""
    tokenizer, times, _ = world
    videos = [2, 0, 1]
    width = width_of(QUESTIONS, [times[v] for v in videos], tokenizer, LAYOUT, True)
    prompts = ask(world, QUESTIONS, videos, width)
    assert prompts.tokens.shape == prompts.visual_index.shape == (3, width.most)
    # The preview: spread evenly, first and last shown; all of a video that has fewer.
    shown = {0: [0, 6, 13, 19], 1: [0, 3, 5, 8], 2: [0, 1, 2]}
    for i, video in enumerate(videos):
        row = build_prompt(QUESTIONS[i], shown[video], times[video], tokenizer, LAYOUT, True)
        count = len(row.tokens)
        assert prompts.length[i] == count and prompts.video[i] == video
        np.testing.assert_array_equal(prompts.tokens[i, :count], row.tokens)
        np.testing.assert_array_equal(prompts.visual_index[i, :count], row.visual_index)
        assert (np.asarray(prompts.visual_index[i, count:]) == -1).all()


def width_of(questions, *rest):
    """prompt_width of records that hold a question alone."""
    return prompt_width([{"question": question} for question in questions], *rest)


def lengths(tokenizer, questions, times, tools=True):
    """Tokens of each prompt, made in full."""
    return [
        len(
            build_prompt(
                question, preview_indices(len(when), 4), when, tokenizer, LAYOUT, tools
            ).tokens
        )
        for question, when in zip(questions, times, strict=True)
    ]


def test_width_is_the_longest_prompts_rounded_up(world):
    tokenizer, times, _ = world
    longest = max(lengths(tokenizer, QUESTIONS, [times[0]] * 3))
    width = width_of(QUESTIONS, [times[0]] * 3, tokenizer, LAYOUT, True)
    assert width.most % 8 == 0 and longest <= width.most < longest + 8
    shortest = min(lengths(tokenizer, QUESTIONS, [times[0]] * 3, tools=False))
    assert width.least % 8 == 0 and shortest - 8 < width.least <= shortest
    assert width_of(QUESTIONS[:1], times[:1], tokenizer, LAYOUT, False).most < width.most
    with pytest.raises(UserError, match="no questions"):
        width_of([], [], tokenizer, LAYOUT, True)


def test_width_follows_the_times_that_are_shown(world):
    """Recordings off the ticks, as of 3 frames a second or thinned: stamps take more tokens."""
    tokenizer, times, _ = world
    odd = np.arange(7) * 5.3667  # 0.0, 10.7, 21.5 and 32.2 are shown
    for questions, when in (
        (QUESTIONS, [odd, odd, odd]),
        (QUESTIONS, [odd, times[0], times[2]]),  # the shortest question has the longest prompt
        (QUESTIONS[:1], [odd]),
    ):
        longest = max(lengths(tokenizer, questions, when))
        width = width_of(questions, when, tokenizer, LAYOUT, True)
        assert longest <= width.most < longest + 8
    assert longest > max(lengths(tokenizer, QUESTIONS, [times[0]] * 3))


def test_the_phantom_suites_width_is_that_of_whole_seconds():
    """However long a procedure is: each of its stamps is one token."""
    suite = smoke_suite()
    scripts = [p for p in procedures(suite) if p.split == "train"]
    asked = [(r["question"], p.duration) for p in scripts for r in records(p, "rl", suite)]
    questions = [question for question, _ in asked]
    tokenizer = train_tokenizer(questions, 1024, 241)
    layout = dataclasses.replace(LAYOUT, preview_frames=suite.preview_frames)
    times = [np.arange(duration, dtype=np.float64) for _, duration in asked]
    width = width_of(questions, times, tokenizer, layout, True)
    longest = max(questions, key=lambda text: len(tokenizer.encode(text)))
    row = build_prompt(longest, range(12), np.arange(12.0), tokenizer, layout, True)
    assert len(questions) > 30 and width.most == -len(row.tokens) // 8 * -8


def test_a_prompt_must_leave_room(world):
    """Exactly as much as is asked for; the refusal is one line."""
    tokenizer, times, _ = world
    (need,) = lengths(tokenizer, QUESTIONS[:1], times[:1])
    fits = dataclasses.replace(LAYOUT, length=need + 5)
    assert need <= width_of(QUESTIONS[:1], times[:1], tokenizer, fits, True, 5).most <= need + 5
    with pytest.raises(UserError, match="'Where.' is 1 tokens too long.*dialogue.length") as error:
        width_of(QUESTIONS[:1], times[:1], tokenizer, fits, True, 6)
    assert "\n" not in str(error.value)


def test_a_prompt_that_is_too_long_is_one_line(world):
    tokenizer, times, _ = world
    width = width_of(QUESTIONS[:1], times[:1], tokenizer, LAYOUT, True)
    with pytest.raises(UserError, match=r"a prompt of \d+ tokens .*'How many clips") as error:
        ask(world, QUESTIONS[1:2], [0], PromptWidth(width.most - 8, 0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("question", ["Is it <answer>left</answer>?", "\ud800?", "Is\x00it?"])
def test_questions_that_cannot_be_asked(world, question):
    """The rule of users' questions, for the records of a suite too, and before any is asked."""
    tokenizer, times, _ = world
    for call in (
        lambda: width_of([question], times[:1], tokenizer, LAYOUT, True),
        lambda: ask(world, [question], [0], PromptWidth(200, 0)),
    ):
        with pytest.raises(UserError, match="a tag of the protocol|broken text|is empty"):
            call()


def test_a_question_of_several_lines_is_asked_on_one(world):
    tokenizer, times, _ = world
    width = width_of(["Where  is\n it?"], times[:1], tokenizer, LAYOUT, True)
    prompts = ask(world, ["Where  is\n it?"], [0], width)
    plain = ask(world, ["Where is it?"], [0], width)
    np.testing.assert_array_equal(prompts.tokens, plain.tokens)


TURNS = (
    [END],
    [
        "<think>a</think>" + protocol.crop_call(3, 5),
        "<tool_call>{broken</tool_call>",
        "<think>b</think>" + protocol.frame_call(8),
        END,
    ],
    ["<think>a</think>" + protocol.crop_call(1, 1.5), "<think>cut off"],
)


@pytest.fixture(scope="module")
def episode(world):
    """The three conversations as a finished batch, on the bank of all videos."""
    tokenizer, times, _ = world
    rows, arrays = [], []
    for video, turns in enumerate(TURNS):
        row = build_episode(
            "Where?", turns, [0, 1, 2], times[video], LENGTHS[video], tokenizer, LAYOUT, True
        )
        if video == 2:  # it ran out of tokens within its last turn
            for values in row[:3]:
                values.pop()
        rows.append(row)
        arrays.append(pad_row(row, LAYOUT.length))
    batch = {name: np.stack([a[name] for a in arrays]) for name in arrays[0]}
    calls = [np.zeros((3, 3), np.int32), np.zeros((3, 3), np.float32), np.zeros((3, 3), np.float32)]
    calls += [np.full((3, 3), -1, np.int32), np.full((3, 3), -1, np.int32)]
    for i, row in enumerate(rows):
        for c, call in enumerate(row.calls):
            for array, value in zip(calls, call, strict=True):
                array[i, c] = value
    zeros = np.zeros(batch["role"].shape, np.float32)
    return Episode(
        **batch, positions=np.zeros((3, *zeros.shape)), logprobs=zeros, calls=CallRecord(*calls)
    )


def test_trajectories_come_back(world, episode):
    """Turns, executed calls and the bank frames that each observation showed, row by row."""
    tokenizer = world[0]
    found = read_trajectories(episode, tokenizer, LAYOUT)
    assert [t.turns for t in found] == [list(turns) for turns in TURNS]
    assert [t.frames for t in found] == [[], [[3, 4, 5], [], [6, 7, 8]], [[1]]]
    assert found[0].calls == []
    assert found[1].calls == [
        (Tool.CROP_VIDEO, 3.0, 5.0, CallStatus.OK),
        (Tool.NONE, 0.0, 0.0, CallStatus.NOT_JSON),
        (Tool.GET_FRAME, 8.0, 8.0, CallStatus.OK),
    ]
    assert found[2].calls == [(Tool.CROP_VIDEO, 1.0, 1.5, CallStatus.OK)]
    assert found[0].text == END
    for i, trajectory in enumerate(found):
        assert trajectory.text == generated_text(episode.tokens[i], episode.role[i], tokenizer)
        assert trajectory.text.count("<tool_response>") == len(trajectory.calls)
    # The transcript holds the observation's time stamps, but no visual tokens.
    observation = found[1].text.split("<tool_response>")[1].split("</tool_response>")[0]
    assert observation == "3.04.05.0"
    assert protocol.IMAGE not in found[1].text


def test_a_call_whose_observation_did_not_fit_shows_nothing(world, episode):
    """The row ended at its call: the call counts, no frames were seen."""
    tokenizer = world[0]
    role, tokens, shown = (x.copy() for x in (episode.role, episode.tokens, episode.visual_index))
    end = episode.calls.where[2, 0] + 1
    role[2, end:], tokens[2, end:], shown[2, end:] = Role.PADDING, 0, -1
    found = read_trajectories(
        episode.replace(role=role, tokens=tokens, visual_index=shown), tokenizer, LAYOUT
    )[2]
    assert found.frames == [[]] and len(found.calls) == 1
    assert found.turns == [TURNS[2][0]] and found.text == TURNS[2][0]
