"""What an OpenAI-compatible endpoint replies: answers, refusals, errors in the server's own words.

Pure functions over bytes and text. Servers differ in where they put things; what is read is said in
each docstring, and everything else is no answer.
"""

import dataclasses
import datetime
import email.utils
import json
import math
import re
import time
from typing import Any

from medscope_jax.visible import visible

# A shorter key ("EMPTY", "none", "ollama") is no secret and may well be a word of an answer.
_SECRET_LENGTH = 8
_HIDDEN = "***"
_LONGEST_WORDS = 200
_TEXT_PARTS = ("text", "output_text")
_THOUGHT_PARTS = ("thinking", "reasoning")


@dataclasses.dataclass(frozen=True)
class Completion:
    """What a model answered to one request.

    Attributes:
      text: its words; where it refused in the field that the protocol has for that, those.
      refused: whether it did so, or a content filter cut it off.
      prompt_tokens, completion_tokens: as the endpoint counts them; 0 where it does not say.
      cut: whether the limit of tokens cut it off.
    """

    text: str
    refused: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut: bool = False


class AttemptFailed(Exception):
    """One attempt at a request gave no answer; the message is one line.

    Attributes:
      reason: what happened, in this program's words, such as "HTTP status 400".
      words: the server's own, shortened, without the key; "" where it said nothing.
      again: whether another attempt may fare better.
      status: the HTTP status, 0 where there was none.
      wait_s: seconds that the server asks to wait before it (Retry-After), else 0.
      attempts: how many there were.
    """

    def __init__(
        self,
        reason: str,
        words: str = "",
        again: bool = True,
        status: int = 0,
        wait_s: float = 0.0,
    ):
        super().__init__(f"{reason}: {words}" if words else reason)
        self.reason, self.words = reason, words
        self.again, self.status, self.wait_s = again, status, wait_s
        self.attempts = 1


def may_pass(status: int) -> bool:
    """Whether a request with this HTTP status may fare better later: 408, 425, 429 and 5xx."""
    return status in (408, 425, 429) or 500 <= status <= 599


def read_completion(reply: bytes, key: str = "") -> Completion:
    """The answer in the body of a reply with status 200.

    The content is a text or a list of parts, of which those of type "text" are joined and those
    that hold reasoning are left out. A refusal is the message's field, or a part, or the finish
    reason "content_filter".

    Args:
      reply: the body.
      key: what was sent as the key.

    Raises:
      AttemptFailed: there is no answer; or an error object in its place, as some servers send with
        status 200; or the key is in it.
    """
    try:
        body = json.loads(reply)
        error = body.get("error")
        choice = {} if error else body["choices"][0]
        error = error or choice.get("error")
        if error:
            raise _error_of(error, key)
        message, reason = choice["message"], choice.get("finish_reason")
        text, refusal = _content(message.get("content"), message.get("refusal"))
        refused = bool(refusal) or reason == "content_filter"
        if text is None and not (refused or reason == "length"):
            raise TypeError
        usage = body.get("usage")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise AttemptFailed("reply is no chat completion") from None
    text = text or refusal
    if len(key) >= _SECRET_LENGTH and (key in text or key.encode() in reply):
        raise AttemptFailed("reply repeats the key", again=False)
    counts = usage if isinstance(usage, dict) else {}
    return Completion(
        text,
        refused,
        _count(counts, "prompt_tokens"),
        _count(counts, "completion_tokens"),
        reason == "length",
    )


def _content(content: Any, refusal: Any) -> tuple[str | None, str]:
    """(text, words of a refusal) of a message; TypeError where it is neither text nor parts."""
    if not isinstance(refusal, str | None):
        raise TypeError
    if content is None or isinstance(content, str):
        return content, refusal or ""
    texts, refusals = [], [refusal or ""]
    for part in content:
        kind = part["type"]
        if kind in _TEXT_PARTS:
            texts.append(part["text"])
        elif kind == "refusal":
            refusals.append(part["refusal"])
        elif kind not in _THOUGHT_PARTS:
            raise TypeError
    return "".join(texts), "".join(refusals)


def _count(usage: dict, name: str) -> int:
    value = usage.get(name)
    return value if type(value) is int and value > 0 else 0


def _error_of(error: Any, key: str) -> AttemptFailed:
    """What an error object says that came with status 200."""
    code = error.get("code") if isinstance(error, dict) else None
    status = code if type(code) is int and 300 <= code <= 599 else 0
    reason = "the reply is an error" + (f" {status}" if status else "")
    return AttemptFailed(reason, quoted(_words(error), key), not status or may_pass(status), status)


def error_words(reply: bytes, key: str = "") -> str:
    """What a server says in the body of an error, on one short line without the key; or "".

    It is the message of {"error": {"message": ...}}, {"error": ...}, {"message": ...} or
    {"detail": ...}, of the first where there is a list; any other text as it is, without tags.
    """
    try:
        words = _words(json.loads(reply))
    except (ValueError, RecursionError):
        # No more than is shown anyway: patterns over megabytes take time.
        words = re.sub(r"<[^<>]*>", " ", reply[:4000].decode(errors="replace"))
    return quoted(words, key)


def _words(value: Any, depth: int = 0) -> str:
    """The text in an error object, or ""."""
    if isinstance(value, str):
        return value
    if depth < 4 and isinstance(value, list) and value:
        return _words(value[0], depth + 1)
    if depth < 4 and isinstance(value, dict):
        for name in ("error", "message", "detail", "msg"):
            if words := _words(value.get(name), depth + 1):
                return words
    return ""


def quoted(text: str, key: str = "") -> str:
    """Text of a server as messages show it: one line of at most 200 characters, without the key."""
    line = visible(" ".join(hidden(text[: 20 * _LONGEST_WORDS], key).split()))
    return line if len(line) <= _LONGEST_WORDS else line[: _LONGEST_WORDS - 3] + "..."


def hidden(text: str, key: str) -> str:
    """The text with every piece of the key that is at least eight characters long as "***".

    Servers that echo a key often cut it short. Of a shorter key, the whole is hidden; keys of fewer
    than four characters are none.
    """
    size = min(len(key), _SECRET_LENGTH)
    if size < 4:
        return text
    pieces = {key[i : i + size] for i in range(len(key) - size + 1)}
    made: list[str] = []
    end = 0  # of what is copied or hidden so far
    for start in range(len(text) - size + 1):
        if text[start : start + size] not in pieces:
            continue
        if start > end or not made:
            made += [text[end:start], _HIDDEN]
        end = start + size
    return "".join(made) + text[end:]


def retry_after(text: str) -> float:
    """Seconds that a Retry-After header asks for, given as a number or as a date; 0 for neither."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(text)
            if date.tzinfo is None:  # "-0000", which HTTP does not write, means UTC
                date = date.replace(tzinfo=datetime.UTC)
            seconds = date.timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
