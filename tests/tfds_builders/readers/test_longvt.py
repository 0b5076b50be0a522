"""LongVT conversations: turns in the protocol's form, evidence, and what is refused."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from medscope_jax.dialogue.protocol import crop_call, frame_call
from medscope_jax.dialogue.sanitize import check_turns

THINK = "<think>I look closer.</think>"
CROP = (
    '<tool_call>{"name": "crop_video", "arguments": '
    '{"video_path": "/data/Doe.mp4", "start_time": 87, "end_time": 88.04}}</tool_call>'
)
FRAME = '<tool_call>\n{"arguments": {"timestamp": 128.5}, "name": "get_frame"}\n</tool_call>'
ANSWER = "<think>A lens.</think>\n<answer> A lens. </answer>"
INSTRUCTION = (
    " Think first, call **crop_video** or **get_frame** if needed, then answer. Format strictly "
    "as: <think>...</think> <answer>...</answer>. The Video path for this video is: /data/Doe.mp4"
)


def said(role, *parts):
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": role, "content": parts}


VIDEO = {"type": "video_url", "video_url": {"url": "/data/v.mp4"}}
OBSERVED = said(
    "user",
    "<tool_response>\nThe tool executed successfully.",
    {"type": "image_url", "image_url": {"url": "frame_001.png"}},
    "</tool_response>",
)


def conversation(*turns, media=(VIDEO,), question="What is inserted?", **metadata):
    messages = [said("system", "You are Doe."), said("user", *media, question + INSTRUCTION)]
    for turn in turns:
        messages += [OBSERVED] if len(messages) > 2 else []
        messages.append(said("assistant", turn))
    return {"id": "c1", "messages": messages, "metadata": metadata}


def test_a_trajectory(write_rows, collect):
    row = conversation(THINK + CROP, THINK + "\n" + FRAME, ANSWER)
    good, bad = collect("longvt", write_rows("rows.jsonl", [row]))
    assert not bad
    (made,) = good
    assert (made.part, made.task, made.video) == ("vcot", "vqa", "v.mp4")
    assert made.question == "What is inserted?"
    assert made.answer == "A lens."
    assert made.turns == (
        THINK + crop_call(87.0, 88.0),
        THINK + frame_call(128.5),
        "<think>A lens.</think><answer>A lens.</answer>",
    )
    assert (made.spans, made.frame_time, made.window) == ((), None, None)
    check_turns(made.turns)
    assert "Doe" not in json.dumps([made.question, made.answer, *made.turns])


def test_metadata_says_question_answer_and_evidence(write_rows, collect):
    known = {"question": "What is put in?", "answer_gt": "An intraocular lens."}
    rows = [
        conversation(ANSWER, **known, qa_start_time=80, qa_end_time=90.5),
        conversation(ANSWER, video_segment=[[1, 2], [3, 4]]),
        conversation(ANSWER, frame_time=4.5, video_segment=[1, 2]),
        conversation(ANSWER, anchor_frame_time=5),
    ]
    good, bad = collect("longvt", write_rows("rows.jsonl", rows))
    assert not bad
    assert (good[0].question, good[0].answer) == ("What is put in?", "An intraocular lens.")
    assert good[0].turns[-1].endswith("<answer>A lens.</answer>")
    assert [made.spans for made in good] == [((80.0, 90.5),), ((1.0, 2.0), (3.0, 4.0)), (), ()]
    assert [made.frame_time for made in good] == [None, None, 4.5, 5.0]
    assert {made.part for made in good} == {"cot"}


def test_grounding(write_rows, collect):
    answer = "<think>There.</think><answer>[86.5, 88.9]</answer>"
    rows = [
        conversation(THINK + CROP, answer),
        conversation(THINK + CROP, answer, answer_gt="[87.000, 88.000]"),
    ]
    good, _ = collect("longvt", write_rows("rows.jsonl", rows))
    assert [made.task for made in good] == ["grounding", "grounding"]
    assert [made.spans for made in good] == [((86.5, 88.9),), ((87.0, 88.0),)]
    assert [made.answer for made in good] == ["[86.5, 88.9]", "[87.0, 88.0]"]
    assert all(made.turns[-1].endswith("<answer>[86.5, 88.9]</answer>") for made in good)


def test_clips(write_rows, collect):
    clip = {"type": "video", "video": "v.mp4", "video_start": 10, "video_end": 20}
    rows = [conversation(ANSWER, media=(clip,)), conversation(THINK + CROP, ANSWER, media=(clip,))]
    good, bad = collect("longvt", write_rows("rows.jsonl", rows))
    (made,) = good
    assert (made.part, made.window) == ("qa", (10.0, 20.0))
    assert made.turns == ("<think>A lens.</think><answer>A lens.</answer>",)
    assert "calls about a clip" in bad[0].reason


def test_plain_text_contents_and_tool_messages(write_rows, collect):
    row = json.loads(json.dumps(conversation(THINK + CROP, ANSWER)))
    for message in row["messages"][2:]:
        message["content"] = "".join(part.get("text", "") for part in message["content"])
    row["messages"][3]["role"] = "tool"
    good, bad = collect("longvt", write_rows("rows.jsonl", [row]))
    assert not bad
    assert len(good[0].turns) == 2


def test_parquet(tmp_path, collect):
    path = tmp_path / "rows.parquet"
    rows = [conversation(THINK + CROP, ANSWER, question="Why?"), conversation(ANSWER)]
    for row in rows:
        row["metadata"] = {"answer_gt": "A lens."}
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    good, bad = collect("longvt", path)
    assert not bad
    assert [(made.place, made.part) for made in good] == [
        ("rows.parquet:1", "vcot"),
        ("rows.parquet:2", "cot"),
    ]
    assert good[0].question == "Why?"


def call(**arguments):
    return f"<tool_call>{json.dumps({'name': 'crop_video', 'arguments': arguments})}</tool_call>"


BAD_TURNS = [
    (["A lens."], "turn 1 does not read"),
    ([THINK + "A lens."], "turn 1 does not read"),
    (["<answer>A lens.</answer>"], "turn 1 does not read"),
    ([THINK + CROP], "the last turn does not answer"),
    ([THINK + CROP + CROP, ANSWER], "can't be executed: not json"),
    (
        [THINK + call(start_time=5), ANSWER],
        "the call in turn 1 can't be executed: missing argument",
    ),
    ([THINK + call(start_time=5, end_time=5), ANSWER], "can't be executed: empty window"),
    ([THINK + call(start_time=-5, end_time=5), ANSWER], "can't be executed: negative time"),
    ([THINK + call(start_time="Doe", end_time=5), ANSWER], "can't be executed: not a number"),
    ([THINK + call(start_time=5, end_time=1e9), ANSWER], "later than any video lasts"),
    ([THINK + call(start_time=5, end_time=5.01), ANSWER], "shorter than a tenth of a second"),
    ([THINK + "<tool_call>{'name': 'Doe'}</tool_call>", ANSWER], "can't be executed: not json"),
    ([THINK + CROP.replace("crop_video", "Doe"), ANSWER], "can't be executed: unknown tool"),
    ([ANSWER, ANSWER], "answers, but more turns follow"),
    (["<think>Doe <|im_end|></think><answer>x</answer>"], "<|im_end|>"),
    (["<think>Doe \x00</think><answer>x</answer>"], "control characters"),
    (["<think>Doe</think><answer>  </answer>"], "the last turn's answer is empty"),
    (["<think>" + "Doe" * 9000 + "</think><answer>x</answer>"], "longer than 20000 characters"),
]


@pytest.mark.parametrize(("turns", "reason"), BAD_TURNS)
def test_bad_turns(write_rows, collect, turns, reason):
    rows = [conversation(*turns), conversation(ANSWER)]
    good, bad = collect("longvt", write_rows("rows.jsonl", rows))
    assert [made.place for made in good] == ["rows.jsonl:2"]
    assert reason in bad[0].reason
    assert "Doe" not in bad[0].reason


IMAGE = {"type": "image_url", "image_url": {"url": "Doe.png"}}


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "messages is missing"),
        ([], "messages is a list of none"),
        ("Doe", "messages is no list"),
        (["Doe"], "a message is no JSON object"),
        ([{"role": "Doe", "content": ""}], "unknown role"),
        ([said("assistant", ANSWER)], "the user says nothing"),
        ([said("user", VIDEO, "Why?")], "the last turn does not answer"),
        ([said("user", "Why?"), said("assistant", ANSWER)], "not about one video"),
        ([said("user", IMAGE, "Why?"), said("assistant", ANSWER)], "not about one video"),
        ([said("user", VIDEO, VIDEO, "Why?"), said("assistant", ANSWER)], "not about one video"),
        ([said("user", {"type": "Doe"}), said("assistant", ANSWER)], "neither text nor video"),
        ([said("user", {"type": "text"}), said("assistant", ANSWER)], "has no text"),
        ([{"role": "user", "content": 7}], "content is no list"),
        (
            [said("user", VIDEO, "Why?"), said("assistant", ANSWER), said("user", "And Doe?")],
            "a later user turn is no tool response",
        ),
        (
            [said("user", {"type": "video_url"}, "Why?"), said("assistant", ANSWER)],
            "video_url is missing",
        ),
        ([said("user", VIDEO, "?"), said("assistant", ANSWER)], "the question is empty"),
    ],
)
def test_bad_messages(write_rows, collect, messages, reason):
    rows = [{"id": "c1", "messages": messages}, conversation(ANSWER)]
    good, bad = collect("longvt", write_rows("rows.jsonl", rows))
    assert [made.place for made in good] == ["rows.jsonl:2"]
    assert reason in bad[0].reason
    assert "Doe" not in bad[0].reason
