"""The agent loop of a model behind an OpenAI-compatible endpoint, driven from the host.

It is shown what our own models are: the same frames with the same stamps, the same words, the tools
as text in the system prompt. Frames go as JPEG pictures in messages; a call is read from the text
between its tags, by the same rules (tools/grammar.py), and its observation is the next message.

    system      what tools there are
    user        preview, question
    assistant   <think>...</think><tool_call>...</tool_call>
    user        <tool_response> frames </tool_response>
    assistant   <think>...</think><answer>...</answer>
"""

import base64
import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from medscope_jax.dialogue import protocol, question_text
from medscope_jax.rollout import Trajectory
from medscope_jax.tools import CallStatus
from medscope_jax.tools.grammar import error_text, parse_call
from medscope_jax.tools.windows import select_frames_host
from medscope_jax.video import Video

_JPEG_QUALITY = 90
Messages = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class ChatLayout:
    """What a conversation shows, as Layout has it for our own models.

    Attributes:
      window_frames: most frames of an observation.
      frame_format, response_format: texts of a frame and of an observation, see protocol.
      max_tool_turns: most calls of a conversation.
    """

    window_frames: int
    frame_format: str
    response_format: str
    max_tool_turns: int


async def converse(
    ask: Callable[[Messages], Awaitable[str]],
    record: Mapping[str, Any],
    video: Video,
    shown: np.ndarray,
    layout: ChatLayout,
    tools: bool,
) -> Trajectory:
    """One rollout: asks until the model answers, or makes no more calls that it may make.

    Args:
      ask: messages to the assistant's next words; what it raises ends the conversation.
      record: the question, with its options if it has any.
      shown: [n] frames of the video that the question shows, ascending.
      tools: whether they are offered.
    """
    instruction = protocol.INSTRUCTION_WITH_TOOLS if tools else protocol.INSTRUCTION
    question = question_text(record, f"the question {record['question'][:60]!r}")
    messages: Messages = [
        _message("system", protocol.SYSTEM_WITH_TOOLS if tools else protocol.SYSTEM),
        _message("user", [*_pictures(video, shown, layout), _text(f"\n{question}\n{instruction}")]),
    ]
    transcript = ""
    turns: list[str] = []
    calls: list[tuple] = []
    frames: list[list[int]] = []
    while True:
        turn, called = _turn(await ask(messages), tools)
        turns.append(turn)
        transcript += turn
        if not called or len(calls) == layout.max_tool_turns:
            return Trajectory(transcript, turns, calls, frames)
        _, opened, words = turn.removesuffix(protocol.TOOL_CALL_END).rpartition(protocol.TOOL_CALL)
        call = parse_call(words if opened else "", video.duration)
        seen = np.zeros(0, int)
        if call.status == CallStatus.OK:
            found = (int(call.tool), call.start, call.end, video.times, len(video.times))
            indices, count = select_frames_host(*found, layout.window_frames)
            seen = indices[:count]
        calls.append((int(call.tool), call.start, call.end, int(call.status)))
        frames.append([int(frame) for frame in seen])
        before, after = layout.response_format.split("{response}")
        content = _pictures(video, seen, layout) or [_text(error_text(call.status))]
        messages += [
            _message("assistant", turn),
            _message("user", [_text(before), *content, _text(after)]),
        ]
        stamps = "".join(_stamped(layout, video.times[frame]) for frame in seen)
        opening, closing = protocol.observation_frame(layout.response_format)
        transcript += opening + (stamps or error_text(call.status)) + closing


def _turn(reply: str, tools: bool) -> tuple[str, bool]:
    """(an assistant's turn, whether it ends with a call): what follows a call was made up."""
    words, called, _ = reply.partition(protocol.TOOL_CALL_END) if tools else (reply, "", "")
    return words.strip() + called, bool(called)


def _message(role: str, content: str | list[dict[str, Any]]) -> dict[str, Any]:
    return {"role": role, "content": content}


def _text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def _stamped(layout: ChatLayout, time: float) -> str:
    """A frame's text without its visual tokens, as transcripts have it."""
    return layout.frame_format.format(time=time, frame="")


def _pictures(
    video: Video, indices: Sequence[int] | np.ndarray, layout: ChatLayout
) -> list[dict[str, Any]]:
    """Frames as parts of a message, each with its time; a server sets the tags of pictures."""
    parts = []
    for frame in indices:
        words = layout.frame_format.replace(protocol.VISION_START, "")
        words = words.replace(protocol.VISION_END, "").format(time=video.times[frame], frame="\0")
        before, after = words.split("\0")
        picture = np.ascontiguousarray(np.asarray(video.frames[int(frame)])[..., ::-1])
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        url = "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
        parts += [_text(before)] if before else []
        parts += [{"type": "image_url", "image_url": {"url": url}}]
        parts += [_text(after)] if after else []
    return parts


def request_body(
    model: str, messages: Messages, most_tokens: int, temperature: float | None
) -> bytes:
    """The request of a turn of at most so many tokens; temperature None leaves it out."""
    body: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": most_tokens}
    if temperature is not None:
        body["temperature"] = temperature
    return json.dumps(body).encode()
