"""Judging the answer to a multiple-choice question by the option that it names (plain Python)."""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from medscope_jax.dialogue.options import choices
from medscope_jax.rl.words import answer_words, denies, other_numbers

_MOST_CHARACTERS = 1000  # of an answer that may say more than an option's name
_MOST_LEADING, _MOST_ENDS = 10, 8
# Words before the option that an answer names: "I think the correct answer is (B)".
_LEADING = frozenset(
    ("the", "my", "so", "thus", "i", "think", "believe", "it", "it's", "this", "that", "is", "are")
    + ("be", "must", "would", "should", "final", "correct", "right", "best", "most", "likely")
    + ("answer", "option", "choice", "letter", "boxed")
)
# A sign before a number is part of it.
_FIRST_WORD = re.compile(r"[^\w+\-\u2212<>=~\u00b1.]*([\w'\u2019]+)[^\w+\-\u2212<>=~\u00b1.]*")
_LABEL = re.compile(r"[^\w%\u00b0+\u2212-]*(\w{1,3})[^\w%\u00b0+\u2212-]*")
# Where an option's name may end and more is said: "B) left eye", "B: left", "B - left", "left (B)",
# "B, since ...", "B is right". A point or a colon before a digit belongs to a number.
_END = re.compile(
    r"(?:[.:](?!\d)|[)\]])[\s*_]*|[,;]\s+|\s+[-\u2013\u2014]\s+(?!\d)|\n\s*|\s+(?=[(\[])"
    r"|\s+(?=(?:is|because|since|as)\b)"
)
_LETTER = re.compile(r"(?<![\w'\u2019-])(?:[B-HJ-Zb-hj-z]|A(?!\s+[a-z])|[A-Z]{2})(?![\w'\u2019-])")
_WRONG = re.compile(r"\b(?:wrong|incorrect|false)\b", re.IGNORECASE)


class _Option(NamedTuple):
    label: str
    words: list[str]  # of its text


def judge_choice(answer: str, reference: str, options: Sequence[str]) -> float | None:
    """Scores an answer 1 if it names the right option and no other one, else 0.5 or 0.

    An option is named by its letter, its text, or both: "B", "(b)", "B) left eye", "left eye", "The
    answer is B", "B, since the probe enters there". Another sentence that holds the right option's
    text, and no other's, is half right unless it denies something. Options of the same words are
    one option.

    Args:
      answer: the model's, without its tags.
      reference: letter or text of the right option, or both, or its index from 0.
      options: as records hold them, with letters of their own or without.

    Returns: 0, 0.5 or 1; None if the reference is none of the options.
    """
    made = _read(options)
    right = _by_text(reference, made) or _named(reference, made) or _indexed(reference, made)
    right = {
        i for i, option in enumerate(made) if any(option.words == made[j].words for j in right)
    }
    if not right or any(made[i].words != made[min(right)].words for i in right):
        return None
    if named := _named(answer, made):
        return float(named <= right)
    if len(answer) >= _MOST_CHARACTERS:
        return 0.0
    words = answer_words(answer)
    wanted = made[min(right)].words
    return 0.5 if _mentioned(words, made) == right and not _against(words, wanted) else 0.0


def named_options(answer: str, options: Sequence[str]) -> set[int]:
    """Indices of the options that an answer names, see judge_choice; empty where it names none."""
    return _named(answer, _read(options))


def _read(options: Sequence[str]) -> list[_Option]:
    made = choices(options)
    # An option of marks alone, "?", has no words.
    return [_Option(label, answer_words(text or label) or [text]) for label, text in made]


def _named(answer: str, made: Sequence[_Option]) -> set[int]:
    for said in _without_leading(answer):
        if found := _by_text(said, made) | _by_label(said, made):
            return found
        if len(answer) >= _MOST_CHARACTERS:
            continue
        for end in itertools.islice(_END.finditer(said), _MOST_ENDS):
            name, rest = said[: end.start()], said[end.end() :]
            label = _by_label(name, made)
            if name.strip().islower() and end[0].strip() not in (".", ":", ")", "]"):
                label = set()  # "a, b and c": no letter of an option stands so
            # The number of "3, 5" may go on.
            text = set() if any(map(str.isdigit, name)) else _by_text(name, made)
            if label or text:
                return _with_rest(label | text, rest, made)
        letter, _, rest = said.strip().partition(" ")  # "B left eye"
        if letter.isupper() and (text := _by_text(rest, made)):
            return _by_label(letter, made) | text
    return set()


def _without_leading(answer: str) -> Iterator[str]:
    """An answer, and what is left of it without the first of `_LEADING`, the second, and so on."""
    yield answer
    for _ in range(_MOST_LEADING):
        word = _FIRST_WORD.match(answer)
        if not word or word[1].casefold().replace("\u2019", "'") not in _LEADING:
            return
        answer = answer[word.end() :]
        yield answer


def _by_text(said: str, made: Sequence[_Option]) -> set[int]:
    words = answer_words(said)
    return {i for i, option in enumerate(made) if words and option.words == words}


def _by_label(said: str, made: Sequence[_Option]) -> set[int]:
    form = _LABEL.fullmatch(said)
    return {i for i, option in enumerate(made) if form and option.label == form[1].upper()}


def _indexed(reference: str, made: Sequence[_Option]) -> set[int]:
    written = {str(i): i for i in range(len(made))}
    return {written[reference.strip()]} if reference.strip() in written else set()


def _with_rest(found: set[int], rest: str, made: Sequence[_Option]) -> set[int]:
    """Options named by an answer that goes on after `found`; empty where that takes it back."""
    text = _by_text(rest, made)
    if found & text:
        return found
    if text := text | _by_label(rest, made):
        return found | text
    words = answer_words(rest)
    if any(_against(words, made[i].words) for i in found) or _WRONG.search(rest):
        return set()
    letters = {letter.upper() for letter in _LETTER.findall(rest)}
    letters -= {word.upper() for i in found for word in made[i].words}  # hepatitis C
    return (
        found
        | _mentioned(words, made)
        | {i for i, option in enumerate(made) if option.label in letters}
    )


def _against(words: Sequence[str], option: Sequence[str]) -> bool:
    """Whether what is said beside an option contradicts it."""
    return (denies(words) and not denies(option)) or other_numbers(words, option)


def _mentioned(words: Sequence[str], made: Sequence[_Option]) -> set[int]:
    """Options whose words stand in a text, but not within a longer one's."""
    taken = [False] * len(words)
    found = set()
    for i in sorted(range(len(made)), key=lambda i: -len(made[i].words)):
        sought = made[i].words
        for start in range(len(words) - len(sought) + 1):
            end = start + len(sought)
            if words[start:end] == sought and not any(taken[start:end]):
                found.add(i)
                taken[start:end] = [True] * len(sought)
    return found
