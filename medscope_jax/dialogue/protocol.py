"""The constant texts of a conversation: tags, system prompts, instructions and tool responses.

They follow Qwen's tool-calling chat form (function signatures as JSON inside
<tools></tools>, calls as JSON inside <tool_call></tool_call>) and the MedScope protocol think /
tool_call / answer.
"""

import json
from collections.abc import Iterable, Mapping

from medscope_jax.errors import UserError

PAD = "<|endoftext|>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"
IMAGE = "<|image_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
TOOL_CALL, TOOL_CALL_END = "<tool_call>", "</tool_call>"

TAGS = (
    PAD,
    IM_START,
    IM_END,
    IMAGE,
    VISION_START,
    VISION_END,
    *(f"<{slash}{name}>" for name in ("think", "answer", "tools") for slash in ("", "/")),
    TOOL_CALL,
    TOOL_CALL_END,
    "<tool_response>",
    "</tool_response>",
    "\n",
)

# Every episode's video goes by one alias: real paths can name patients, and tools ignore paths
# anyway.
VIDEO_PATH = "video.mp4"


def _function(name: str, description: str, **parameters: str) -> dict:
    """A function signature in the JSON form that Qwen's chat template shows."""
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": properties, "required": [*parameters]},
        },
    }


FUNCTIONS = (
    _function(
        "crop_video",
        "Look at densely sampled frames of a window, in seconds.",
        video_path="string",
        start_time="number",
        end_time="number",
    ),
    _function(
        "get_frame",
        "Look at the three frames nearest to a timestamp, in seconds.",
        video_path="string",
        timestamp="number",
    ),
)


def tool_signatures(functions: Iterable[Mapping]) -> str:
    """What Qwen's chat template adds to the system prompt: the functions, one JSON line each."""
    return (
        "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        + "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        + "\n".join(json.dumps(function, ensure_ascii=False) for function in functions)
        + "\n</tools>\n\nFor each function call, return a json object with function name and "
        + "arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
        + '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    )


SYSTEM = "You are a helpful assistant."
SYSTEM_WITH_TOOLS = SYSTEM + tool_signatures(FUNCTIONS)

INSTRUCTION_WITH_TOOLS = (
    f"Think first. Call crop_video or get_frame on {VIDEO_PATH} if you need to look closer. "
    "Then answer, strictly as <think></think>, <tool_call></tool_call> (if needed), "
    "<answer></answer>."
)
INSTRUCTION = "Think first, then answer, strictly as <think></think>, <answer></answer>."

CALL_PHRASES = (
    f'{{"name": "crop_video", "arguments": {{"video_path": "{VIDEO_PATH}", "start_time": ',
    ', "end_time": ',
    f'{{"name": "get_frame", "arguments": {{"video_path": "{VIDEO_PATH}", "timestamp": ',
    "}}",
)


def prompt_opening(tools: bool) -> str:
    """The text before the frames that the user shows."""
    system = SYSTEM_WITH_TOOLS if tools else SYSTEM
    return f"{IM_START}system\n{system}{IM_END}\n{IM_START}user\n"


def prompt_closing_parts(question: str, tools: bool) -> list[tuple[str, bool]]:
    """The text between the frames and the assistant's first token, as (text, trusted) parts.

    Tags in the user's question are plain text.
    """
    instruction = INSTRUCTION_WITH_TOOLS if tools else INSTRUCTION
    closing = f"\n{instruction}{IM_END}\n{IM_START}assistant\n"
    return [("\n", True), (question, False), (closing, True)]


RESPONSE = "<tool_response>{response}</tool_response>"
# For Qwen's weights: a frame's time before its tags, and an observation as in the chat template,
# which they and their fine-tunes were trained on.
QWEN_FRAME = f"<{{time:.1f}}s>{VISION_START}{{frame}}{VISION_END}"
QWEN_RESPONSE = "<tool_response>\n{response}\n</tool_response>"


def check_frame_format(text: str, name: str) -> None:
    """A frame's text has {frame} once and, on one side of it, a time that can be written.

    Args:
        text: as FRAME or QWEN_FRAME.
        name: the config's key, as the message calls it.

    Raises:
        UserError: it has not.
    """
    name = f"{name} is {text!r}"
    sides = text.split("{frame}")
    if len(sides) != 2 or sum("{time" in side for side in sides) != 1:
        raise UserError(
            f"{name}; it needs {{frame}} once and {{time}} on one side of it, as in "
            "'{frame}{time:.1f}'"
        )
    stamp = next(side for side in sides if "{time" in side)
    constant = next(side for side in sides if "{time" not in side)
    try:
        same = stamp.format(time=1.0) == stamp.format(time=200.0)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(f"{name}, which can't be filled in: {error}") from error
    if same or "{" in constant or "}" in constant or IMAGE in text:
        raise UserError(
            f"{name}; it may hold {{frame}}, {{time}} and plain text without braces or {IMAGE}"
        )


def check_response_format(text: str, name: str) -> None:
    """An observation's text has its tags around {response}, and nothing else to fill in.

    Args:
        text: as RESPONSE or QWEN_RESPONSE.
        name: the config's key, as the message calls it.

    Raises:
        UserError: it has not.
    """
    before, mark, after = text.partition("{response}")
    tags = before.strip() == "<tool_response>" and after.strip() == "</tool_response>"
    if not (mark and tags):
        raise UserError(
            f"{name} is {text!r}; it needs {RESPONSE!r}, with "
            "white space around the tags if you like"
        )


def observation_frame(response_format: str) -> tuple[str, str]:
    """The texts before and after an observation's content, changes of the turn included.

    response_format: such as RESPONSE; {response} stands for the content.
    """
    before, after = response_format.split("{response}")
    opening, closing = f"{IM_END}\n{IM_START}user\n{before}", f"{after}{IM_END}\n"
    return opening, f"{closing}{IM_START}assistant\n"


def crop_call(start: float, end: float) -> str:
    """A crop_video call as the phantom teacher writes it; times in seconds."""
    return (
        f"{TOOL_CALL}{CALL_PHRASES[0]}{start:.1f}{CALL_PHRASES[1]}{end:.1f}"
        f"{CALL_PHRASES[3]}{TOOL_CALL_END}"
    )


def frame_call(timestamp: float) -> str:
    """A get_frame call as the phantom teacher writes it; time in seconds."""
    return f"{TOOL_CALL}{CALL_PHRASES[2]}{timestamp:.1f}{CALL_PHRASES[3]}{TOOL_CALL_END}"


def constant_phrases(limit: int) -> list[str]:
    """The protocol's constant texts cut at spaces into pieces of at most `limit` characters.

    With these phrases as pieces, a tokenizer writes the system prompt in some twenty tokens. No
    phrase holds a tag that a model must generate.
    """
    texts = [f"system\n{SYSTEM_WITH_TOOLS}", f"system\n{SYSTEM}", "user\n", "assistant\n"]
    texts += [f"\n{INSTRUCTION}", f"\n{INSTRUCTION_WITH_TOOLS}"]
    pieces = [piece for text in texts for piece in _cut(text, limit)]
    return list(dict.fromkeys([*CALL_PHRASES, *pieces]))


def _cut(line: str, limit: int) -> list[str]:
    """A line cut before spaces into pieces of at most `limit` characters; a longer word is one."""
    pieces, piece = [], ""
    for index, word in enumerate(line.split(" ")):
        word = word if index == 0 else " " + word
        if piece and len(piece) + len(word) > limit:
            pieces.append(piece)
            piece = ""
        piece += word
    return [*pieces, piece]
