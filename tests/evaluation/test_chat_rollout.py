"""A model behind an endpoint goes through the same loop as ours: a script stands in for it."""

import asyncio
import base64

import cv2
import numpy as np
import pytest

from medscope_jax.dialogue import protocol
from medscope_jax.evaluation.chat_rollout import ChatLayout, converse
from medscope_jax.rl import extract_answer
from medscope_jax.rl.rewards import format_reward
from medscope_jax.video import Video

LAYOUT = ChatLayout(4, protocol.QWEN_FRAME, protocol.QWEN_RESPONSE, max_tool_turns=2)
RECORD = {"question": "When is it?", "options": [], "duration": 10.0}


def video():
    """Ten frames, each of one grey: 20 times its number."""
    frames = np.stack([np.full((28, 28, 3), 20 * i, np.uint8) for i in range(10)])
    return Video(frames, np.arange(10.0), duration=10.0)


def talk(*replies, tools=True, record=RECORD):
    """(the trajectory, the messages of each request) of a model that says `replies`."""
    asked = []

    async def ask(messages):
        asked.append([dict(message) for message in messages])
        return replies[len(asked) - 1]

    shown = np.array([0, 9])
    return asyncio.run(converse(ask, record, video(), shown, LAYOUT, tools)), asked


def greys(message):
    """The numbers of the frames that a message shows."""
    found = []
    for part in message["content"]:
        if part["type"] == "image_url":
            data = base64.b64decode(
                part["image_url"]["url"].removeprefix("data:image/jpeg;base64,")
            )
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            found.append(round(picture.mean() / 20))
    return found


def words(message):
    return [part["text"] for part in message["content"] if part["type"] == "text"]


LOOK = "<think>closer</think>" + protocol.crop_call(2.0, 6.0)
ANSWER = "<think>seen</think><answer>[3.0, 5.0]</answer>"


def test_a_look_and_an_answer():
    found, asked = talk(LOOK + " made up", ANSWER)
    assert found.turns == [LOOK, ANSWER]
    assert found.calls == [(1, 2.0, 6.0, 0)]
    assert found.frames == [[2, 3, 5, 6]]  # five frames thinned to four
    system, user = asked[0]
    assert system["content"] == protocol.SYSTEM_WITH_TOOLS
    assert greys(user) == [0, 9]
    assert words(user)[:2] == ["<0.0s>", "<9.0s>"]
    assert words(user)[2] == f"\n{RECORD['question']}\n{protocol.INSTRUCTION_WITH_TOOLS}"
    assistant, response = asked[1][2:]
    assert assistant == {"role": "assistant", "content": LOOK}  # without what it made up
    assert greys(response) == [2, 3, 5, 6]
    assert words(response)[0] == "<tool_response>\n" and words(response)[-1] == "\n</tool_response>"
    assert extract_answer(found.text) == "[3.0, 5.0]"
    assert format_reward(found.text) == 1.0  # the transcript reads as one of our own


@pytest.mark.parametrize(
    "call, status",
    [
        ("<tool_call>{}</tool_call>", 1),
        ('<tool_call>{"name": "zoom", "arguments": {}}</tool_call>', 2),
        ("no call was opened</tool_call>", 1),
        (protocol.crop_call(20.0, 30.0), 6),
        ('<tool_call>{"name": "crop_video", "arguments": {"start_time": 3}}</tool_call>', 3),
        ("<tool_call>{<tool_call>" + protocol.frame_call(9).removeprefix("<tool_call>"), 0),
    ],
)
def test_calls_that_fail_are_told(call, status):
    found, asked = talk("<think>x</think>" + call, ANSWER)
    assert [one[3] for one in found.calls] == [status]
    assert bool(found.frames[0]) == (status == 0)
    told = "".join(words(asked[1][-1]))
    assert ("Tool execution failed" in told) == (status != 0)


def test_a_model_that_only_looks_is_stopped():
    found, asked = talk(*[LOOK] * 9)
    assert len(asked) == 3 and len(found.calls) == 2 and extract_answer(found.text) is None


def test_without_tools_a_call_is_words():
    found, asked = talk(LOOK + ANSWER, tools=False)
    assert len(asked) == 1 and found.calls == [] and extract_answer(found.text) == "[3.0, 5.0]"
    assert asked[0][0]["content"] == protocol.SYSTEM
    assert words(asked[0][1])[-1].endswith(protocol.INSTRUCTION)


def test_nothing_is_said():
    found, _ = talk("")
    assert (found.text, found.turns, found.calls) == ("", [""], [])


def test_options_are_shown():
    _, asked = talk(ANSWER, record={**RECORD, "options": ["left", "right"]})
    assert "\nA. left\nB. right\n" in words(asked[0][1])[-1]
