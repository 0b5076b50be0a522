"""Times and spans of time as others write them, and as answers state them.

A time is a number of seconds, or a text: "12.5", "12.5 s", "01:05" or "00:01:05.5" (an SRT file's
comma before the milliseconds, too). What is neither raises Unusable, which quotes none of it.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from medscope_jax.rl.intervals import CLOCK, Span, clock_seconds
from tfds_builders.record import Unusable

MAX_SECONDS = 1e7  # 115 days: whatever is later is no time of a video
MAX_SPANS = 1000  # of a row
_LONGEST = 64  # characters of a time

# Each pattern reads a text in one pass: no two parts that follow one another take the same thing.
_CLOCK = rf"{CLOCK}(?:,\d{{3}})?"
_UNSIGNED = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?"
_UNIT = r"(?:\s?s(?:ec(?:ond)?s?)?\.?)?"
_RANGE_MARK = r"\s?(?:[-\u2013\u2014]|to)\s?"
_TIME = re.compile(rf"(?:({_CLOCK})|([+-]?{_UNSIGNED})){_UNIT}", re.ASCII | re.IGNORECASE)
_END = rf"((?:{_CLOCK}|{_UNSIGNED}){_UNIT})"
_RANGE = re.compile(rf"{_END}{_RANGE_MARK}{_END}", re.ASCII | re.IGNORECASE)
_PAIR = re.compile(rf"{_END}(?:{_RANGE_MARK}|\s?[,;]\s?){_END}", re.ASCII | re.IGNORECASE)
_CLOCKS = rf"{CLOCK}{_RANGE_MARK}{CLOCK}"
_CLOCK_RANGES = re.compile(rf"{_CLOCKS}(?:\s?[,;]\s?{_CLOCKS})*", re.ASCII)
_BRACKETS = re.compile(r"\[[^\[\]]*\](?:(?:[\s,;]|and)*\[[^\[\]]*\])*")
_IN_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_NO_WORDS = re.compile(r"(?:[\d\s.,:;+\-\u2013\u2014\[\]s]|nan|inf(?:inity)?|null|none)*", re.I)


def seconds(value: Any, name: str) -> float:
    """A time: a number of seconds, or a text that is nothing but a time."""
    if isinstance(value, str):
        form = _TIME.fullmatch(value.strip()) if len(value) <= _LONGEST else None
        if form is None:
            raise Unusable(f"{name} is no number of seconds, such as 65.5, 01:05.5 or 00:01:05.5")
        value = clock_seconds(form[1].replace(",", ".")) if form[1] else float(form[2])
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unusable(f"{name} is no number of seconds")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Unusable(f"{name} is not finite")
    if number < 0:
        raise Unusable(f"{name} is negative")
    if number > MAX_SECONDS:
        raise Unusable(f"{name} is later than any video lasts")
    return abs(number)  # -0.0 is 0.0


def span(start: Any, end: Any, name: str) -> Span:
    """A span of time that has a length."""
    first, last = seconds(start, f"the start of {name}"), seconds(end, f"the end of {name}")
    if last <= first:
        raise Unusable(f"{name} ends {'before' if last < first else 'where'} it starts")
    return first, last


def spans(value: Any, name: str) -> tuple[Span, ...]:
    """[[start, end], ...], one [start, end], objects {"start": ..., "end": ...}, or a text.

    A text is the JSON of such a list, "12.0-20.5; 40-55" or "[12.0, 20.5], [40, 55]".
    """
    if isinstance(value, str):
        _check_number(value, name)
        value = _spans_of_text(value.strip(), name)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise Unusable(f"{name} is no list of spans")
    _check_number(value, name)
    one = len(value) == 2 and not any(map(_is_span, value))
    return tuple(span(*_ends(pair, name), name) for pair in ([value] if one else value))


def _check_number(found: Sequence[Any], name: str) -> None:
    """Refuses more spans, or a longer text of them, than can be meant."""
    if len(found) > (MAX_SPANS * 2 * _LONGEST if isinstance(found, str) else MAX_SPANS):
        raise Unusable(f"{name} holds more than {MAX_SPANS:,} spans")


def _spans_of_text(text: str, name: str) -> Any:
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            if _BRACKETS.fullmatch(text):
                _check_number(_IN_BRACKETS.findall(text), name)
                found = [_match(_PAIR, piece) for piece in _IN_BRACKETS.findall(text)]
                return [form and form.groups() for form in found]
    return [piece.strip() for piece in text.removesuffix(";").split(";")]


def _is_span(value: Any) -> bool:
    """Whether it says both ends of a span, rather than one."""
    return isinstance(value, (list, tuple, dict)) or (
        isinstance(value, str) and _match(_RANGE, value) is not None
    )


def _ends(value: Any, name: str) -> Sequence[Any]:
    if isinstance(value, dict):
        for keys in (("start", "end"), ("start_time", "end_time")):
            if set(keys) == set(value):
                return [value[key] for key in keys]
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return value
    if isinstance(value, str):
        if form := _match(_RANGE, value):
            return form.groups()
        raise Unusable(f"{name} does not read start-end; start-end, in seconds or as mm:ss")
    raise Unusable(f"{name} holds a span that is not two numbers")


def _match(pattern: re.Pattern, text: str) -> re.Match | None:
    """The pattern's match of a whole text that is short enough to be a span."""
    return pattern.fullmatch(text.strip()) if len(text) <= 2 * _LONGEST else None


def stated_spans(answer: str, bare: bool = False) -> tuple[Span, ...]:
    """The spans of an answer that is nothing but intervals; else none.

    Intervals stand in brackets, "[12.0, 20.5], [40, 55]", or are clock times, "01:05 - 01:10";
    with `bare` (it is known that they are meant) also "12.0-20.5; 40-55".

    Raises:
      Unusable: numbers in brackets that are no intervals, or no times.
    """
    _check_number(answer, "the answer")
    text = answer.strip()
    if text.startswith("[[") and text.endswith("]]"):
        text = text[1:-1]
    if _BRACKETS.fullmatch(text):
        pieces, pattern = _IN_BRACKETS.findall(text), _PAIR
    elif bare or _CLOCK_RANGES.fullmatch(text):
        pieces, pattern = re.split(r";|,\s", text), _RANGE
    else:
        pieces, pattern = [], _PAIR
    _check_number(pieces, "the answer")
    found = [_match(pattern, piece) for piece in pieces]
    if pieces and None not in found:
        return tuple(span(*form.groups(), "the answer's interval") for form in found)
    if "[" in text and any(map(str.isalnum, text)) and _NO_WORDS.fullmatch(text):
        raise Unusable("the answer is numbers in brackets and no interval [start, end] in seconds")
    return ()


def interval_text(intervals: Sequence[Span]) -> str:
    """Spans, at least one, as answers write them: "[12.0, 20.5], [40.0, 55.0]".

    One decimal, as the protocol's times have; three where one would leave nothing of a span.
    """
    texts = []
    if not intervals:
        raise Unusable("an answer of intervals has none")
    for start, end in intervals:
        for decimals in (1, 3):
            first, last = f"{start:.{decimals}f}", f"{end:.{decimals}f}"
            if first != last:
                break
        else:
            raise Unusable("a span is shorter than a millisecond")
        texts.append(f"[{first}, {last}]")
    return ", ".join(texts)


def period_text(span: Span) -> str:
    """A span as questions about labels write it."""
    return f"from {span[0]:.1f} to {span[1]:.1f} seconds"


def answer_turn(answer: str, window: Span | None) -> str:
    """The one turn of a record that shows a clip; what it thinks is true whatever is asked."""
    clip = "The clip is the whole video."
    if window is not None:
        clip = f"The clip is from {window[0]:.1f} to {window[1]:.1f}."
    return f"<think>{clip}</think><answer>{answer}</answer>"
