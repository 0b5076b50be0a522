"""Conversations as integers, against what a reader would write by hand."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.dialogue import (
    Layout,
    Role,
    build_episode,
    build_prompt,
    frame_text_ids,
    generated_text,
    pad_row,
    protocol,
    stamp_ids,
    turn_texts,
)
from medscope_jax.tools import CallStatus, Tool

LAYOUT = Layout(
    length=400,
    preview_frames=3,
    window_frames=4,
    grid=(1, 2),
    frame_format="{time:.1f}{frame}",
    max_tool_turns=5,
)
TIMES = np.arange(10.0)  # ten frames, one a second
DURATION = 10.0
CROP = (
    '<tool_call>{"name": "crop_video", "arguments": {"video_path": "video.mp4", '
    '"start_time": %s, "end_time": %s}}</tool_call>'
)
FRAME = (
    '<tool_call>{"name": "get_frame", "arguments": {"video_path": "video.mp4", '
    '"timestamp": %s}}</tool_call>'
)
END = "<think>so</think><answer>left</answer>"


def build(tokenizer, turns, tools=True, layout=LAYOUT, question="Where is it?", shown=(0, 4, 9)):
    return build_episode(question, turns, shown, TIMES, DURATION, tokenizer, layout, tools)


def read(row, tokenizer, size=2):
    """[(role, text)] of a row, visual tokens written as {t/s}: frame t, token s."""
    image, parts = tokenizer.tag("<|image_pad|>"), []
    for token, index, role in zip(row.tokens, row.visual_index, row.role, strict=True):
        assert (index >= 0) == (token == image)
        text = f"{{{index // size}/{index % size}}}".encode() if index >= 0 else None
        piece = tokenizer.pieces[token] if text is None else text
        if parts and parts[-1][0] == role:
            parts[-1][1] += piece
        else:
            parts.append([role, piece])
    return [(role, text.decode()) for role, text in parts]


def test_an_episode_without_tools_is_what_it_should_read(tokenizer):
    row = build(tokenizer, [END], tools=False)
    assert read(row, tokenizer) == [
        (
            Role.PROMPT,
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n"
            "0.0{0/0}{0/1}4.0{4/0}{4/1}9.0{9/0}{9/1}\n"
            "Where is it?\n"
            "Think first, then answer, strictly as <think></think>, <answer></answer>.<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (Role.GENERATED, "<think>so</think><answer>left</answer><|im_end|>"),
    ]
    assert row.calls == []


def test_an_episode_with_tools_is_what_it_should_read(tokenizer):
    """Two windows and an error: each observation is executed from the call before it."""
    turns = [
        "<think>a</think>" + CROP % ("3.0", "5.0"),
        "<think>b</think>" + FRAME % "0.0",
        "<think>c</think>" + FRAME % "99.0",
        END,
    ]
    row = build(tokenizer, turns)
    (_, prompt), *rest = read(row, tokenizer)
    opening = "<|im_end|>\n<|im_start|>user\n<tool_response>"
    closing = "</tool_response><|im_end|>\n<|im_start|>assistant\n"
    assert rest[:4] == [
        (Role.GENERATED, turns[0]),
        (
            Role.OBSERVATION,
            f"{opening}3.0{{3/0}}{{3/1}}4.0{{4/0}}{{4/1}}5.0{{5/0}}{{5/1}}{closing}",
        ),
        (Role.GENERATED, turns[1]),
        (
            Role.OBSERVATION,
            f"{opening}0.0{{0/0}}{{0/1}}1.0{{1/0}}{{1/1}}2.0{{2/0}}{{2/1}}{closing}",
        ),
    ]
    assert rest[4] == (Role.GENERATED, turns[2])
    role, error = rest[5]
    assert role == Role.OBSERVATION and error.startswith(f"{opening}Tool execution failed: ")
    assert error.endswith(closing) and "{" not in error
    assert rest[6:] == [(Role.GENERATED, END + "<|im_end|>")]
    calls = [tuple(call[:4]) for call in row.calls]
    assert calls == [
        (Tool.CROP_VIDEO, 3.0, 5.0, CallStatus.OK),
        (Tool.GET_FRAME, 0.0, 0.0, CallStatus.OK),
        (Tool.GET_FRAME, 0.0, 0.0, CallStatus.BEYOND_DURATION),
    ]
    assert [row.tokens[call[4]] for call in row.calls] == [tokenizer.tag("</tool_call>")] * 3
    assert prompt.endswith(
        "\n0.0{0/0}{0/1}4.0{4/0}{4/1}9.0{9/0}{9/1}\nWhere is it?\nThink first. Call crop_video or "
        "get_frame on video.mp4 if you need to look closer. Then answer, strictly as "
        "<think></think>, <tool_call></tool_call> (if needed), <answer></answer>.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_system_prompt_signs_the_tools_in_qwens_form(tokenizer):
    (_, prompt), *_ = read(build(tokenizer, [END]), tokenizer)
    system, _, user = prompt.partition("<|im_end|>\n<|im_start|>user\n")
    assert system.startswith("<|im_start|>system\nYou are a helpful assistant.\n\n# Tools\n\n")
    assert user.startswith("0.0")
    signatures = system.split("\n<tools>\n")[1].split("\n</tools>")[0].splitlines()
    functions = [json.loads(line)["function"] for line in signatures]
    asked = {f["name"]: f["parameters"]["required"] for f in functions}
    assert asked == {
        "crop_video": ["video_path", "start_time", "end_time"],
        "get_frame": ["video_path", "timestamp"],
    }


@pytest.mark.parametrize(
    "call, shown",
    [
        (CROP % ("2.0", "2.4"), [2]),
        (CROP % ("2.6", "2.9"), [3]),  # none inside: the frame nearest to the middle
        (CROP % ("0.0", "9.0"), [0, 3, 6, 9]),  # at most four, first and last kept
        (CROP % ("8.0", "500.0"), [8, 9]),  # the end is clamped to the video's
        (FRAME % "5.4", [4, 5, 6]),
        (FRAME % "9.9", [7, 8, 9]),
        (CROP % ("5.0", "3.0"), []),
        (CROP % ("-1.0", "3.0"), []),
        ("<tool_call>look at 3 s</tool_call>", []),
        ((CROP % ("2.0", "4.0")).removeprefix("<tool_call>"), []),
    ],
)
def test_the_observation_follows_from_the_call(tokenizer, call, shown):
    row = build(tokenizer, ["<think>a</think>" + call, END])
    seen = [
        f
        for f, r in zip(row.visual_index, row.role, strict=True)
        if r == Role.OBSERVATION and f >= 0
    ]
    assert seen == [t * 2 + s for t in shown for s in range(2)]
    text = generated_text(np.array(row.tokens), np.array(row.role), tokenizer)
    assert ("Tool execution failed: " in text) == (not shown)


@pytest.mark.parametrize(
    "form, text, stamp, constant",
    [
        ("{time:.1f}{frame}", "12.5{1/0}{1/1}{1/2}{1/3}", "12.5", ""),
        ("{frame}{time:.1f}", "{1/0}{1/1}{1/2}{1/3}12.5", "12.5", ""),
        (
            "<{time:.1f}s><|vision_start|>{frame}<|vision_end|>",  # what Qwen's weights want
            "<12.5s><|vision_start|>{1/0}{1/1}{1/2}{1/3}<|vision_end|>",
            "<12.5s><|vision_start|>",
            "<|vision_end|>",
        ),
    ],
)
def test_frame_text_follows_the_layout(tokenizer, form, text, stamp, constant):
    """The time stands on either side of a frame, and need not be a tick."""
    layout = dataclasses.replace(LAYOUT, frame_format=form, grid=(2, 2))
    row = build_prompt("Where?", [1], [0.0, 12.5], tokenizer, layout, tools=False)
    (_, prompt), *_ = read(row, tokenizer, size=4)
    assert f"user\n{text}\nWhere?" in prompt
    assert tokenizer.decode(stamp_ids(tokenizer, layout, [12.5])[0]) == stamp
    assert tokenizer.decode(frame_text_ids(tokenizer, layout)) == constant


def test_an_episode_that_does_not_fit_is_an_error(tokenizer):
    """Nothing is cut silently, and the last slot counts."""
    turns = ["<think>a</think>" + CROP % ("3.0", "5.0"), END]
    need = len(build(tokenizer, turns).tokens)
    fits = build(tokenizer, turns, layout=dataclasses.replace(LAYOUT, length=need))
    assert len(fits.tokens) == need
    with pytest.raises(ValueError, match=f"{need} tokens does not fit {need - 1} slots"):
        build(tokenizer, turns, layout=dataclasses.replace(LAYOUT, length=need - 1))


def test_padding(tokenizer):
    row = build(tokenizer, [END])
    arrays = pad_row(row, 300)
    count = len(row.tokens)
    for name, fill in (("tokens", 0), ("visual_index", -1), ("role", Role.PADDING)):
        assert arrays[name].shape == (300,) and arrays[name].dtype == np.int32
        np.testing.assert_array_equal(arrays[name][:count], getattr(row, name))
        assert (arrays[name][count:] == fill).all()


def test_the_last_opening_tag_counts(tokenizer):
    """As on the device: what stands between the last <tool_call> and </tool_call> is the call."""
    turn = "<think>a <tool_call> b</think>" + CROP % ("2.0", "4.0")
    row = build(tokenizer, [turn, END])
    assert [call[:4] for call in row.calls] == [(Tool.CROP_VIDEO, 2.0, 4.0, CallStatus.OK)]


WORDS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda text: not any(tag in text for tag in protocol.TAGS)
)
SECONDS = st.floats(-2, 20, allow_nan=False).map("{:.1f}".format)
CALLS = st.one_of(
    st.tuples(SECONDS, SECONDS).map(lambda times: CROP % times),
    SECONDS.map(lambda time: FRAME % time),
    WORDS.map(lambda words: f"<tool_call>{words}</tool_call>"),
)
CALLING = st.tuples(WORDS, CALLS).map(lambda t: f"<think>{t[0]}</think>{t[1]}")
ANSWER = WORDS.map(lambda words: f"<think>so</think><answer>{words}</answer>")


@given(calling=st.lists(CALLING, max_size=3), answer=ANSWER, question=WORDS)
@settings(max_examples=150, deadline=None)
def test_turns_and_transcript_come_back(tokenizer, calling, answer, question):
    """Whatever the words are: the arrays hold the very turns, and only they carry loss."""
    turns = [*calling, answer]
    layout = dataclasses.replace(LAYOUT, length=1000)
    row = build(tokenizer, turns, layout=layout, question=question)
    arrays = pad_row(row, layout.length)
    tokens, role = arrays["tokens"], arrays["role"]
    assert turn_texts(tokens, role, tokenizer) == turns
    generated = tokenizer.decode(tokens[role == Role.GENERATED])
    assert generated == "".join(turns) + "<|im_end|>"
    text = generated_text(tokens, role, tokenizer)
    # The transcript is the turns with one tool response after each call, and nothing else.
    pieces = text.split("</tool_response><|im_end|>\n<|im_start|>assistant\n")
    assert len(pieces) == len(turns) and pieces[-1] == answer
    for piece, turn in zip(pieces, calling, strict=False):
        assert piece.startswith(turn + "<|im_end|>\n<|im_start|>user\n<tool_response>")
    assert len(row.calls) == len(calling)


def test_a_turn_cut_short_is_read_as_far_as_it_goes(tokenizer):
    """A row that ran out of tokens has no <|im_end|>; one that stopped at a call no observation."""
    row = build(tokenizer, ["<think>a</think>" + CROP % ("3.0", "5.0"), END])
    cut = len(row.tokens) - 3  # within the answer
    arrays = pad_row(type(row)(row.tokens[:cut], row.visual_index[:cut], row.role[:cut], []), 300)
    turns = turn_texts(arrays["tokens"], arrays["role"], tokenizer)
    assert len(turns) == 2 and turns[1] and END.startswith(turns[1]) and turns[1] != END
    assert generated_text(arrays["tokens"], arrays["role"], tokenizer).endswith(turns[1])
    stop = row.calls[0][4] + 1
    arrays = pad_row(
        type(row)(row.tokens[:stop], row.visual_index[:stop], row.role[:stop], []), 300
    )
    assert turn_texts(arrays["tokens"], arrays["role"], tokenizer) == [
        "<think>a</think>" + CROP % ("3.0", "5.0")
    ]


def test_empty_rows_have_no_turns(tokenizer):
    nothing = np.zeros(8, np.int32)
    assert turn_texts(nothing, nothing, tokenizer) == []
    assert generated_text(nothing, nothing, tokenizer) == ""
