"""The text of a question with its options: one form for training, rollouts, judges and pages.

Which eye is operated on?
A. left eye
B. right eye
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from medscope_jax.dialogue.sanitize import clean_question, clean_words

# "A. left", "A) left", "(A) left", "A: left", "A - left", "1. left", or "A" alone.
_LABELLED = re.compile(
    r"(?:[(\[]([A-Za-z]{1,2}|\d{1,3})[)\]][.:]?"
    r"|([A-Za-z]{1,2}|\d{1,3})(?:[.):](?!\d)|\s[-\u2013\u2014]\s|\Z))\s*(.*)",
    re.DOTALL,
)


class Choice(NamedTuple):
    """One option as a question shows it."""

    label: str  # such as "A"
    text: str  # "" for an option that is its label alone

    def __str__(self) -> str:
        return f"{self.label}. {self.text}" if self.text else self.label


def question_text(record: Mapping, name: str = "the question") -> str:
    """A record's question on one line, and each of its options, if it has any, on one below it.

    Args:
      record: question, and options or none.
      name: what an error calls the question.

    Raises:
      UserError: words that can't be part of a conversation, see sanitize; an empty option.
    """
    question = clean_question(record["question"], name)
    options = [clean_words(option, f"an option of {name}") for option in record.get("options", ())]
    return "\n".join([question, *map(str, choices(options))])


def choices(options: Sequence[str]) -> list[Choice]:
    """Options with their labels: their own where all have one, else A, B, ... Z, AA, ...

    ["left", "right"] -> A. left, B. right    ["(B) left", "(A) right"] -> B. left, A. right
    """
    lines = [" ".join(option.split()) for option in options]
    found = [form for line in lines if (form := _LABELLED.fullmatch(line))]
    if lines and len(found) == len(lines):
        own = [Choice((form[1] or form[2]).upper(), form[3]) for form in found]
        labels = {choice.label for choice in own}
        numbers = ({str(i + start) for i in range(len(own))} for start in (0, 1))
        texts = [choice.text for choice in own]
        # A number alone is an option's text, not its label.
        if labels == {_letters(i) for i in range(len(own))} and (all(texts) or not any(texts)):
            return own
        if labels in numbers and all(texts):
            return own
    return [Choice(_letters(i), line) for i, line in enumerate(lines)]


def _letters(index: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    letters = chr(ord("A") + index % 26)
    return letters if index < 26 else _letters(index // 26 - 1) + letters
