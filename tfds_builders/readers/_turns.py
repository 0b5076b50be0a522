"""Foreign conversations in the protocol's form: think, then a call or the answer.

Calls are read by the grammar that the model's own calls go through and written again as the
protocol writes them, so whatever path, key order or spelling a source uses is gone.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from medscope_jax.dialogue.protocol import crop_call, frame_call
from medscope_jax.dialogue.sanitize import check_turns
from medscope_jax.errors import UserError
from medscope_jax.tools import CallStatus, Tool, parse_call
from tfds_builders.record import Unusable
from tfds_builders.times import MAX_SECONDS

MAX_TURN = 20_000  # characters of a turn
_TURN = re.compile(
    r"\s*<think>(.*?)</think>\s*"
    r"(?:<tool_call>(.*?)</tool_call>|<answer>(.*?)</answer>)\s*",
    re.DOTALL,
)
# Where a user's question ends and the peers' instruction begins.
_INSTRUCTION = re.compile(
    r"you first think about|think first,? call|the video path for this video is", re.IGNORECASE
)


def own_turns(texts: Sequence[Any]) -> tuple[str, ...]:
    """Assistant turns as the protocol has them; the last one answers."""
    turns = []
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise Unusable(f"turn {number} is no text")
        if len(text) > MAX_TURN:
            raise Unusable(f"turn {number} is longer than {MAX_TURN} characters")
        form = _TURN.fullmatch(text)
        if form is None:
            raise Unusable(
                f"turn {number} does not read <think>...</think>, then one call or the answer"
            )
        thought, call, answer = form.groups()
        act = f"<answer>{answer.strip()}</answer>" if call is None else _call(call, number)
        turns.append(f"<think>{thought.strip()}</think>{act}")
    if not turns or not turns[-1].endswith("</answer>"):
        raise Unusable("the last turn does not answer")
    if not final_answer(turns):
        raise Unusable("the last turn's answer is empty")
    try:
        check_turns(turns, "the row")
    except UserError as error:
        raise Unusable(str(error)) from None
    return tuple(turns)


def calls_in(turns: Sequence[str]) -> int:
    """How many of the protocol's turns call a tool."""
    return sum(turn.endswith("</tool_call>") for turn in turns)


def final_answer(turns: Sequence[str]) -> str:
    """What the last of the protocol's turns answers."""
    return turns[-1].rpartition("<answer>")[2].removesuffix("</answer>")


def cut_instruction(prompt: Any, marker: str = "") -> str:
    """The question of a prompt: without <video> and what follows it for the model.

    marker: words of the source's own with which its instruction begins.
    """
    if not isinstance(prompt, str):
        raise Unusable("the prompt is no text")
    text = prompt.replace("<video>", " ")
    if marker:
        text = text.partition(marker)[0]
    found = _INSTRUCTION.search(text)
    return text[: found.start()] if found else text


def _call(text: str, number: int) -> str:
    """A call as the protocol writes it."""
    call = parse_call(text, math.inf)  # the length of the video is not known here
    if call.status != CallStatus.OK:
        reason = call.status.name.lower().replace("_", " ")
        raise Unusable(f"the call in turn {number} can't be executed: {reason}")
    if call.end > MAX_SECONDS:
        raise Unusable(f"the call in turn {number} is later than any video lasts")
    if call.tool == Tool.GET_FRAME:
        return frame_call(call.start)
    if f"{call.start:.1f}" == f"{call.end:.1f}":
        raise Unusable(f"the window in turn {number} is shorter than a tenth of a second")
    return crop_call(call.start, call.end)
