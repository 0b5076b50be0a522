"""A record's turns as a conversation in the messages form of Hugging Face."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medscope_jax.dialogue import protocol, question_text
from medscope_jax.errors import UserError
from medscope_jax.tools import CallStatus, Tool, error_text, parse_call, select_frames_host

_CALL = re.compile(
    rf"(.*){re.escape(protocol.TOOL_CALL)}(.*){re.escape(protocol.TOOL_CALL_END)}\s*", re.DOTALL
)
_PATH = re.compile(r'"video_path"\s*:\s*"([^"]*)"')
_NEAREST = 3  # frames that get_frame shows


def conversation(record: Mapping[str, Any], times: np.ndarray) -> list[dict[str, Any]]:
    """A record's messages, as dialogue/chat_template.jinja renders them; [] for one without turns.

    The user shows the video (or the record's window of it), asks, and instructs; each assistant's
    turn is a message, its call under tool_calls; each observation is a tool's message. Videos go
    by the record's video id and, where only a part is shown, video_start and video_end in seconds;
    the frames that get_frame shows go by the id and timestamp. A call that fails stays in its
    message as it was written, and what the tool answered follows.

    Args:
      record: see record.make_record; its turns have passed dialogue.foreign.check_turns.
      times: float64 [T] seconds of the video's bank frames.

    Raises:
      UserError: a call names another file than the protocol's alias: it may name a patient.
    """
    if not record["turns"]:
        return []
    calls = [_CALL.fullmatch(turn) for turn in record["turns"]]
    instruction = protocol.INSTRUCTION_WITH_TOOLS if any(calls) else protocol.INSTRUCTION
    question = f"{question_text(record)}\n{instruction}"
    start, end = map(float, record["window"])
    video = _video(record["video"], start, end) if start >= 0 else _video(record["video"])
    messages = [{"role": "user", "content": [video, {"type": "text", "text": question}]}]
    for turn, call in zip(record["turns"], calls, strict=True):
        if call is None:
            messages.append({"role": "assistant", "content": turn})
        else:
            messages += _exchange(turn, call[1], call[2], record, times)
    return messages


def _exchange(
    turn: str, thought: str, text: str, record: Mapping[str, Any], times: np.ndarray
) -> Sequence[dict[str, Any]]:
    """An assistant's turn with a call, and the tool's answer."""
    if set(_PATH.findall(text)) - {protocol.VIDEO_PATH}:
        raise UserError(f"a call names another file than {protocol.VIDEO_PATH}")
    call = parse_call(text, float(record["duration"]))
    if call.status != CallStatus.OK:
        return (
            {"role": "assistant", "content": turn},
            {"role": "tool", "content": error_text(call.status)},
        )
    function = json.loads(text)
    function = {"name": function["name"], "arguments": function["arguments"]}
    if call.tool == Tool.CROP_VIDEO:
        shown = [_video(record["video"], float(call.start), float(call.end))]
    else:
        indices, count = select_frames_host(
            call.tool, call.start, call.end, times, len(times), _NEAREST
        )
        shown = [
            {"type": "image", "image": record["video"], "timestamp": float(times[i])}
            for i in indices[:count]
        ]
    said = {"role": "assistant", "content": thought}
    return (
        {**said, "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": shown},
    )


def _video(name: str, *window: float) -> dict[str, Any]:
    keys = zip(("video_start", "video_end"), window, strict=False)
    return {"type": "video", "video": name, **dict(keys)}
