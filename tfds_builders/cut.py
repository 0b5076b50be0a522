"""Annotations cut to their recording: only a builder knows where it ends.

Annotators' clocks, other copies of a recording and rounding put the end of a span past the end.
Then evidence, window, and what question, answer and turns say of them end with the recording, all
alike, and the build counts the row as cut. A span that lies outside for more than half of it, or
altogether, is of another recording or in other units: its row is a bad one.
"""

import dataclasses
import math
from collections.abc import Sequence

from medscope_jax.dialogue.protocol import TOOL_CALL, TOOL_CALL_END, crop_call
from medscope_jax.rl.intervals import Span
from medscope_jax.tools import CallStatus, parse_call
from tfds_builders.record import Annotation, Unusable
from tfds_builders.times import answer_turn, interval_text, period_text, stated_spans

MIN_INSIDE = 0.5  # share of a span that must lie within the recording
_ROUNDING = 0.1  # seconds that an answer with one decimal may be off


def cut_to(annotation: Annotation, duration: float) -> tuple[Annotation, str]:
    """The annotation with all times within [0, duration] seconds, and what was cut; "" if nothing.

    Raises:
      Unusable: a time that is none, or lies past the end by more than can be cut.
    """
    spans = tuple(_cut(span, duration, "evidence") for span in annotation.spans)
    window = annotation.window and _cut(annotation.window, duration, "window")
    if annotation.frame_time is not None:
        _cut((annotation.frame_time,) * 2, duration, "evidence")
    question, answer, turns = annotation.question, annotation.answer, annotation.turns
    for whole, short in zip(annotation.spans, spans, strict=True):
        question = question.replace(period_text(whole), period_text(short))
    if annotation.task == "grounding" and _differ(spans, annotation.spans):
        answer = interval_text(spans)
    if turns == (answer_turn(annotation.answer, annotation.window),):
        turns = (answer_turn(answer, window),)
    elif turns:
        calls = (_cut_call(turn, duration) for turn in turns[:-1])
        turns = (*calls, _cut_answer(turns[-1], duration))
    said = {"question": question, "answer": answer, "turns": turns}
    made = dataclasses.replace(annotation, spans=spans, window=window, **said)
    pairs = (
        ("evidence", _differ(spans, annotation.spans)),
        ("window", bool(window) and _differ((window,), (annotation.window,))),
        ("calls", turns[:-1] != annotation.turns[:-1]),
        ("last turn", turns[-1:] != annotation.turns[-1:]),
    )
    cut = [what for what, differs in pairs if differs]
    return made, f"its {', '.join(cut)} cut at the video's end at {duration:.3f} s" if cut else ""


def _differ(spans: Sequence[Span], others: Sequence[Span]) -> bool:
    return [tuple(map(float, span)) for span in others] != list(spans)


def _cut(span: Span, duration: float, what: str) -> Span:
    """The span, its end cut to the recording's."""
    start, end = map(float, span)
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start <= end):
        raise Unusable(f"{what} [{start}, {end}] is no span of time")
    past = f"after the video's end at {duration:.3f} s"
    if start >= duration:
        raise Unusable(f"{what} [{start}, {end}] starts {past}")
    if end - duration > MIN_INSIDE * (end - start):
        raise Unusable(f"{what} [{start}, {end}] lies mostly {past}: is it of another recording?")
    return start, min(end, duration)


def _cut_call(turn: str, duration: float) -> str:
    """A turn, its call cut where its window ends past the end."""
    thought, tag, text = turn.partition(TOOL_CALL)
    call = parse_call(text.removesuffix(TOOL_CALL_END), math.inf)
    if not tag or call.status != CallStatus.OK:
        return turn
    # As calls are written; the grammar reads them as float32.
    window = round(call.start, 1), round(call.end, 1)
    cut = _cut(window, duration, "a call's window")
    return turn if cut == window else thought + crop_call(*cut)


def _cut_answer(turn: str, duration: float) -> str:
    """The last turn, its answer cut where it is an interval past the end."""
    thought, tag, said = turn.rpartition("<answer>")
    stated = stated_spans(said.removesuffix("</answer>")) if tag else ()
    if all(end <= duration + _ROUNDING for _, end in stated):
        return turn
    cut = tuple(_cut(span, duration, "the last turn's answer") for span in stated)
    return f"{thought}<answer>{interval_text(cut)}</answer>"
