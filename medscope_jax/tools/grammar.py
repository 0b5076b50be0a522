"""The call grammar: the host specification of a tool call.

`parse_call` defines what a call means. It is built on `json.loads`, and the jitted interpreter
(`interpreter.py`) must agree with it on every input: tool, times and status.
"""

import enum
import json
import math
import re
from typing import Any, NamedTuple

import numpy as np

MAX_DEPTH = 64  # containers inside each other; the device keeps this many bits of stack
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


class Tool(enum.IntEnum):
    """The tools that a call can name; `str(tool)` is the name in the call."""

    NONE = 0
    CROP_VIDEO = 1
    GET_FRAME = 2

    def __str__(self) -> str:
        return self.name.lower()


class CallStatus(enum.IntEnum):
    """What is wrong with a call; where several apply, the first in this order is reported."""

    OK = 0
    NOT_JSON = 1
    UNKNOWN_TOOL = 2
    MISSING_ARGUMENT = 3
    NOT_A_NUMBER = 4
    NEGATIVE_TIME = 5
    BEYOND_DURATION = 6
    EMPTY_WINDOW = 7


class Call(NamedTuple):
    """One call (host: Python values) or a batch of calls (device: arrays [B]).

    get_frame has start == end == timestamp. With any status but OK both times are 0.0; the tool is
    NONE for NOT_JSON and UNKNOWN_TOOL, else the tool that was named.
    """

    tool: Any  # Tool | int32 [B]
    start: Any  # seconds: float with a float32 value | float32 [B]
    end: Any  # seconds, never beyond the duration
    status: Any  # CallStatus | int32 [B]


ARGUMENTS = {Tool.CROP_VIDEO: ("start_time", "end_time"), Tool.GET_FRAME: ("timestamp",)}

_ERRORS = {
    CallStatus.NOT_JSON: "the call is not a JSON object with a name and an arguments object.",
    CallStatus.UNKNOWN_TOOL: "unknown tool; the tools are crop_video and get_frame.",
    CallStatus.MISSING_ARGUMENT: "crop_video needs start_time and end_time; get_frame needs "
    "timestamp.",
    CallStatus.NOT_A_NUMBER: "times must be finite numbers, in seconds.",
    CallStatus.NEGATIVE_TIME: "times must not be negative.",
    CallStatus.BEYOND_DURATION: "the time lies beyond the end of the video.",
    CallStatus.EMPTY_WINDOW: "end_time must be greater than start_time.",
}


def error_text(status: int) -> str:
    """The observation that the model reads after a call of this status ("" for OK)."""
    status = CallStatus(status)
    return "" if status == CallStatus.OK else f"Tool execution failed: {_ERRORS[status]}"


def parse_call(text: str, duration: float) -> Call:
    """Read the text between the tool_call tags as a call on a video of `duration` seconds.

    Times and duration are first rounded to float32, as float32(float(text)), and every rule is
    applied to the rounded values, so that a device without float64 can agree exactly: start < 0 is
    NEGATIVE_TIME (-0.0 is not), start or timestamp >= duration is BEYOND_DURATION, end <= start is
    EMPTY_WINDOW (a negative end too), and end > duration is clamped to duration. Numbers beyond
    float64 are NOT_A_NUMBER; beyond float32 alone, they count as infinite. An argument that is
    null, a string, true or false is NOT_A_NUMBER. Never raises, whatever the text.
    """
    name, arguments = _name_and_arguments(text)
    if arguments is None:
        return _failed(CallStatus.NOT_JSON)
    tool = next((t for t in ARGUMENTS if str(t) == name), None)
    if tool is None:
        return _failed(CallStatus.UNKNOWN_TOOL)
    if not all(key in arguments for key in ARGUMENTS[tool]):
        return _failed(CallStatus.MISSING_ARGUMENT, tool)
    values = [arguments[key] for key in ARGUMENTS[tool]]
    # parse_int=float below makes every JSON number a float; bool is no float.
    if not all(isinstance(value, float) and math.isfinite(value) for value in values):
        return _failed(CallStatus.NOT_A_NUMBER, tool)
    start, end, limit = map(_float32, (values[0], values[-1], duration))
    if start < 0:
        return _failed(CallStatus.NEGATIVE_TIME, tool)
    if start >= limit:
        return _failed(CallStatus.BEYOND_DURATION, tool)
    if tool == Tool.CROP_VIDEO and end <= start:
        return _failed(CallStatus.EMPTY_WINDOW, tool)
    return Call(tool, abs(start), abs(min(end, limit)), CallStatus.OK)  # abs: -0.0 reads as 0.0


def _failed(status: CallStatus, tool: Tool = Tool.NONE) -> Call:
    return Call(tool, 0.0, 0.0, status)


def _name_and_arguments(text: str) -> tuple[Any, dict | None]:
    """(name, arguments) of a well-formed call, else (None, None)."""
    if _depth(text) > MAX_DEPTH:
        return None, None
    try:
        # float takes integers of any length (int stops at 4,300 digits) and gives inf when huge.
        call = json.loads(text, parse_int=float)
    except ValueError:
        return None, None
    if not isinstance(call, dict) or "name" not in call:
        return None, None
    arguments = call.get("arguments")
    return (call["name"], arguments) if isinstance(arguments, dict) else (None, None)


def _depth(text: str) -> int:
    """Deepest nesting of containers; exact for valid JSON, and never too small for a prefix.

    Counted before json.loads, whose recursion would otherwise depend on the text.
    """
    depth = deepest = 0
    for char in _STRING.sub("", text):
        depth += (char in "[{") - (char in "]}")
        deepest = max(deepest, depth)
    return deepest


def _float32(value: float) -> float:
    with np.errstate(over="ignore"):  # beyond float32: infinity, compared like any late time
        return float(np.float32(value))
