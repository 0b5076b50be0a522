"""Conversations in the messages form of Hugging Face and OpenAI, as Qwen2.5-VL reads them.

Qwen2.5-VL publishes two chat templates, and neither is enough for an agent that sees:
chat_template.json (the processor's) renders images and videos but drops tools without a word;
tokenizer_config.json's renders tools, tool calls and tool responses but no images. This module is
both at once, character for character: contents as in the first, tools as in the second. A
conversation without tools is exactly the first, one without images exactly the second.

    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "<think>...</think>", "tool_calls": [{"function": {
            "name": "get_frame", "arguments": {"timestamp": 3.0}}}]},
        {"role": "tool", "content": [{"type": "image"}]},
    ]
    render_chat(messages, tools=protocol.FUNCTIONS, add_generation_prompt=True)
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medscope_jax.dialogue import protocol
from medscope_jax.dialogue.tokenizer import Tokenizer, encode_parts
from medscope_jax.errors import UserError

VIDEO = "<|video_pad|>"
ROLES = ("system", "user", "assistant", "tool")

# (text, trusted): a tag in a text that is not trusted is mere text to encode_chat.
Part = tuple[str, bool]


def render_chat(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    add_vision_id: bool = False,
) -> str:
    """The conversation's text; each image or video is one placeholder between its vision tags.

    Args:
        messages: dicts of role (system, user, assistant or tool) and content: a text, or a list of
            {"type": "text", "text": ...}, {"type": "image", ...} and {"type": "video", ...}
            (image_url and video_url are read as images and videos). An assistant's message may
            have tool_calls instead of or beside content: {"name", "arguments"} dicts, or those
            under the key "function"; arguments is a mapping, not its JSON text.
        tools: functions' signatures, as transformers' apply_chat_template takes them.
        add_generation_prompt: end with the opening of the assistant's next turn.
        add_vision_id: number the images and videos: "Picture 1: ", "Video 1: ".

    Raises:
        UserError: no messages, an unknown role, or content that the templates cannot show.
    """
    parts = chat_parts(messages, tools, add_generation_prompt, add_vision_id)
    return "".join(text for text, _ in parts)


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    add_vision_id: bool = False,
    image_tokens: Sequence[int] | None = None,
    video_tokens: Sequence[int] | None = None,
) -> list[int]:
    """Ids of render_chat's text, in which no tag comes from what users or tools say.

    The ids are those of transformers' processor as long as users and tools write no tags.

    Args:
        tokenizer: see qwen_tokenizer.
        messages, tools, add_generation_prompt, add_vision_id: as in render_chat.
        image_tokens, video_tokens: visual tokens of each image and video in reading order; its
            placeholder is repeated so often. None: placeholders stay single.

    Raises:
        UserError: as render_chat, or other images or videos than there are counts.
    """
    parts = chat_parts(messages, tools, add_generation_prompt, add_vision_id)
    ids = encode_parts(tokenizer, parts)
    for tag, counts in ((protocol.IMAGE, image_tokens), (VIDEO, video_tokens)):
        if counts is not None:
            ids = _repeat(ids, tokenizer.tag(tag), counts, tag)
    return ids


def chat_parts(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
    add_vision_id: bool,
) -> list[Part]:
    """render_chat's text as (text, trusted) parts for dialogue.encode_parts.

    Trusted are the template's own words, the system's, the assistant's and the tools' signatures.
    """
    if not messages:
        raise UserError("a conversation needs at least one message")
    content = _content_renderer(add_vision_id)
    head, rest = messages[0], messages
    system: list[Part] = [(protocol.SYSTEM, True)]
    if _role(head) == "system":
        system, rest = content(head), messages[1:]
    signatures = protocol.tool_signatures(tools) if tools else ""
    parts = [(f"{protocol.IM_START}system\n", True), *system]
    parts.append((f"{signatures}{protocol.IM_END}\n", True))
    before = ""
    for place, message in enumerate(rest):
        role = _role(message)
        after = _role(rest[place + 1]) if place + 1 < len(rest) else ""
        if role == "tool":  # responses that follow one another share one user turn
            parts.append((f"{protocol.IM_START}user" if before != "tool" else "", True))
            parts += [("\n<tool_response>\n", True), *content(message)]
            parts.append(("\n</tool_response>", True))
            parts.append((f"{protocol.IM_END}\n" if after != "tool" else "", True))
        else:
            calls = message.get("tool_calls") if role == "assistant" else None
            said = [] if calls and not message.get("content") else content(message)
            silent = calls and not any(text for text, _ in said)
            parts += [(protocol.IM_START + role + ("" if silent else "\n"), True), *said]
            parts += [(_call(call), True) for call in calls or ()]
            parts.append((f"{protocol.IM_END}\n", True))
        before = role
    if add_generation_prompt:
        parts.append((f"{protocol.IM_START}assistant\n", True))
    return parts


def _role(message: Mapping[str, Any]) -> str:
    role = message.get("role")
    if role not in ROLES:
        raise UserError(f"unknown role {role!r}: a message is of {', '.join(ROLES)}")
    return role


def _call(call: Mapping[str, Any]) -> str:
    call = call.get("function") or call
    name, arguments = call.get("name"), call.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise UserError(f"a tool call needs a name and a mapping of arguments, got {call!r:.80}")
    text = f'{{"name": "{name}", "arguments": {json.dumps(arguments, ensure_ascii=False)}}}'
    return f"\n{protocol.TOOL_CALL}\n{text}\n{protocol.TOOL_CALL_END}"


def _content_renderer(add_vision_id: bool):
    """A function message -> parts of its content, which counts images and videos as it goes."""
    counts = {"image": 0, "video": 0}
    shown = {"image": ("Picture", protocol.IMAGE), "video": ("Video", VIDEO)}

    def visual(kind: str) -> str:
        counts[kind] += 1
        name, placeholder = shown[kind]
        number = f"{name} {counts[kind]}: " if add_vision_id else ""
        return f"{number}{protocol.VISION_START}{placeholder}{protocol.VISION_END}"

    def render(message: Mapping[str, Any]) -> list[Part]:
        trusted = message["role"] in ("system", "assistant")
        content = message.get("content")
        if isinstance(content, str):
            return [(content, trusted)]
        if not isinstance(content, Sequence):
            raise UserError(f"content of a {message['role']} message is {content!r:.40}, no text")
        return [
            (item["text"], trusted) if kind == "text" else (visual(kind), True)
            for item, kind in _kinds(content)
        ]

    return render


def _kinds(content: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Each item of a content list with its kind, judged in the template's order."""
    for item in content:
        names = {*item, item.get("type")} if isinstance(item, Mapping) else set()
        if names & {"image", "image_url"}:
            yield item, "image"
        elif names & {"video", "video_url"}:
            yield item, "video"
        elif "text" in names and isinstance(item.get("text"), str):
            yield item, "text"
        else:
            raise UserError(f"content is text, image or video, not {item!r:.60}")


def _repeat(ids: list[int], placeholder: int, counts: Sequence[int], tag: str) -> list[int]:
    """ids with the n-th placeholder standing counts[n] times."""
    if ids.count(placeholder) != len(counts):
        raise UserError(f"{ids.count(placeholder)} of {tag} in the text, {len(counts)} given")
    remaining = iter(counts)
    return [i for i in ids for _ in range(next(remaining) if i == placeholder else 1)]
