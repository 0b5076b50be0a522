"""A Request as an OpenAI-compatible endpoint takes it, and what replies hold."""

import base64
import dataclasses
import json
import re
from collections.abc import Iterable
from typing import Any

from medscope_jax.rl.endpoint import judge_messages, without_thinking
from tfds_builders.synthesis.items import Ask, Dropped, Frame, Reply, Request
from tfds_builders.synthesis.request_texts import PROMPTS, stamp
from tfds_builders.synthesis.settings import SynthesisConfig

_REFUSAL = re.compile(
    r"\s*(?:I(?:'m| am) (?:very )?(?:sorry|unable|not able)|I (?:can(?:'|no)t|won't|must decline)|"
    r"Sorry\b|As an AI\b)",
    re.IGNORECASE,
)


def request_body(request: Request, model: str, config: SynthesisConfig) -> bytes:
    """The body of a chat completion request, the same bytes for the same request.

    A first draw is greedy; others have a temperature and a seed of their own (of the temperatures,
    config.own_temperature leaves the model its own). Frames go as JPEG in base64, each after its
    time.
    """
    body = {
        "model": model,
        "temperature": config.temperature if request.draw else 0,
        "seed": request.draw,
        "messages": messages(request),
    }
    if config.own_temperature:
        del body["temperature"]
    if config.max_tokens:
        body["max_tokens"] = config.max_tokens
    return json.dumps(body).encode()


def messages(request: Request) -> list[dict[str, Any]]:
    """The chat messages of a request."""
    values = request.values
    if request.kind == "judge":
        return judge_messages(values["question"], values["answer"], values["reference"])
    prompt = PROMPTS[request.kind]
    opening = _text(prompt.before.format(**values)) if prompt.before else []
    closing = _text(prompt.after.format(**values))
    made = [
        {"role": "system", "content": prompt.system.format(**values)},
        {"role": "user", "content": [*opening, *_shown(request.frames), *closing]},
    ]
    for turn, frames in request.history:
        seen = [*_text("<tool_response>"), *_shown(frames), *_text("</tool_response>")]
        made += [{"role": "assistant", "content": turn}, {"role": "user", "content": seen}]
    return made


def _text(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}]


def _shown(frames: Iterable[Frame]) -> list[dict[str, Any]]:
    parts = []
    for frame in frames:
        url = "data:image/jpeg;base64," + base64.b64encode(frame.jpeg).decode()
        parts += [*_text(stamp(frame.time)), {"type": "image_url", "image_url": {"url": url}}]
    return parts


def json_object(text: str) -> dict:
    """The JSON object in a reply, alone or within other words or a code fence, after any thinking.

    Raises:
      ValueError: there is none.
    """
    _, text = without_thinking(text)
    start = text.find("{")
    if start < 0:
        raise ValueError("no JSON object")
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except RecursionError:
        raise ValueError("JSON too deep") from None
    return value


def is_refusal(reply: Reply) -> bool:
    """Whether a model declined: by the protocol's field, or in words where JSON was asked for."""
    return reply.refused or bool(_REFUSAL.match(reply.text))


async def ask_object(request: Request, ask: Ask, attempts: int, field: str) -> Any:
    """The value of one field of the JSON object that a reply holds.

    A reply that cannot be read is asked for anew, as an independent draw; a refusal is final.

    Raises:
      Dropped: the model refused, or no reply could be read.
    """
    for attempt in range(attempts):
        draw = request.draw * attempts + attempt  # no two draws share a number
        reply = await ask(dataclasses.replace(request, draw=draw))
        if is_refusal(reply):
            raise Dropped("refused")
        try:
            return json_object(reply.text)[field]
        except (ValueError, KeyError):
            continue
    raise Dropped(f"unreadable reply ({request.kind})")
