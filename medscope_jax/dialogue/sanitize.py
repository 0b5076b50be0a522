"""Checks of text from outside: a user's question, the questions and turns of records.

The protocol's tags structure a conversation, so the text between them may hold none: an answer with
"</answer>" in it would be cut there, and a question with "<|im_end|>" could speak for the model.
Such text is refused, never altered, so that what is asked or trained on is what was written.
"""

import re
from collections.abc import Sequence

from medscope_jax.dialogue import protocol
from medscope_jax.errors import UserError

# Control characters but line feed and tab, characters that reorder text, and lone surrogates.
_BROKEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_TAG = re.compile("|".join(re.escape(tag) for tag in protocol.TAGS if tag.strip()))
# The first </think> ends the thought: looking for a later one as well would take quadratic time.
_TURN = re.compile(
    r"\s*<think>(?>(.*?)</think>)\s*(?:<tool_call>(.*)</tool_call>|<answer>(.*)</answer>)",
    re.DOTALL,
)


def clean_question(text: str, name: str = "the question") -> str:
    """A question on one line; `name` is what an error calls it.

    Raises:
      UserError: it has no letter or digit, is no valid text, or holds one of the protocol's tags.
    """
    if not any(character.isalnum() for character in text):
        raise UserError(f"{name} is empty: ask something about the video")
    return clean_words(text, name)


def clean_words(text: str, name: str) -> str:
    """A text on one line, a sign such as "+" included; `name` is what an error calls it.

    Raises:
      UserError: it is empty, no valid text, or holds one of the protocol's tags.
    """
    words = " ".join(text.split())
    if not words:
        raise UserError(f"{name} is empty")
    _refuse(words, name)
    return words


def check_turns(turns: Sequence[str], name: str = "the record") -> None:
    """Refuses assistant turns that are not a thought, then a tool call or the final answer.

    name: whose turns they are, for errors.

    Raises:
      UserError: another form, a turn after an answer, or a text within a turn that holds one of the
        protocol's tags or is not valid.
    """
    for number, turn in enumerate(turns, 1):
        form = _TURN.fullmatch(turn)
        if form is None:
            raise UserError(
                f"turn {number} of {name} does not read <think>...</think>, then "
                "<tool_call>...</tool_call> or <answer>...</answer>"
            )
        for kind, words in zip(("thought", "call", "answer"), form.groups(), strict=True):
            _refuse(words or "", f"the {kind} in turn {number} of {name}")
        if form[3] is not None and number < len(turns):
            raise UserError(f"turn {number} of {name} answers, but more turns follow")


def _refuse(words: str, name: str) -> None:
    if _BROKEN.search(words):
        raise UserError(f"{name} holds control characters or broken text; type it again")
    if tag := _TAG.search(words):
        raise UserError(f"{name} holds {tag[0]}, a tag of the protocol; leave it out")
