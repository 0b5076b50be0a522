"""Labels of single frames as questions about spans of time.

Datasets of surgical workflow label frames: the phase, the instruments in view, what each does. A
label at time t stands for the time from half a sampling step before t to half a step after it, so
the spans of two neighbouring phases meet, and a span is off by half a step at most:

    seconds   0   1   2   3   4   5   6   7           step 1
    hook      x   x   x   .   x   .   .   .
    spans    [0.0 ...         4.5]                    max_gap 1: one label missing is bridged
    spans    [0.0 ... 2.5]   [3.5, 4.5]               max_gap 0

Everything is a function of the labels alone; the same labels give the same questions in the same
order.
"""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple, TypeVar

from medscope_jax.errors import UserError
from medscope_jax.rl.intervals import Span
from tfds_builders.readers._fields import asked, video_names
from tfds_builders.record import Annotation, BadRow, Unusable
from tfds_builders.times import period_text

MIN_RATE, MAX_RATE = 0.001, 250.0  # labels a second: times are rounded to milliseconds
NO_QUESTION = (
    "no question can be made of the file's labels: what they name changes too often, or is nothing"
)
_EPSILON = 1e-6
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Grouping:
    """How labels become questions.

    Attributes:
      max_gap: seconds for which an instrument may be out of view, or a frame unlabelled, without
        ending a span.
      max_spans: a question whose evidence would be more spans than this is not asked.
      stretches: so many of the longest stretches of time a video are asked about by their times.
      min_stretch: seconds that such a stretch lasts at least.
    """

    max_gap: float
    max_spans: int
    stretches: int
    min_stretch: float

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise UserError(f"option {field.name} must not be negative")


class LabelQuestion(NamedTuple):
    """A question about labels, its evidence in seconds; a grounding question has no answer."""

    task: str
    question: str
    answer: str | None
    evidence: tuple[Span, ...]


def ask(
    place: str, video: str, part: str, questions: list[LabelQuestion]
) -> Iterator[Annotation | BadRow]:
    """Questions about a video's labels as Annotations; BadRows where labels are no words.

    A video that has labels, and no question, is one BadRow.
    """
    if not questions:
        yield BadRow(place, NO_QUESTION)
    name_of = video_names()
    for task, question, answer, evidence in questions:
        try:
            yield asked(place, name_of(video), part, question, answer, evidence=evidence, task=task)
        except Unusable as error:
            yield BadRow(place, str(error))


def plain_name(label: str) -> str:
    """A label as words: "CalotTriangleDissection", "specimen_bag" and "clipping-and-cutting"."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    return " ".join(re.split(r"[\s_-]+", spaced)).strip().lower()


def spans_of(times: Iterable[float], step: float, max_gap: float) -> tuple[Span, ...]:
    """The spans that labels at ascending times cover; a gap of at most max_gap is bridged."""
    found: list[Span] = []
    for time in times:
        start, end = max(0.0, time - step / 2), time + step / 2
        if found and start - found[-1][1] <= max_gap + _EPSILON:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return tuple((round(start, 3), round(end, 3)) for start, end in found)


def phase_questions(
    phases: Mapping[float, str], step: float, grouping: Grouping
) -> list[LabelQuestion]:
    """When each phase takes place, with all its spans, in the order in which phases begin.

    A span ends where another phase is labelled, however briefly; where no frame is labelled for at
    most max_gap seconds, it goes on.
    """
    found: dict[str, list[Span]] = {}
    times = sorted(phases)
    for phase, group in itertools.groupby(times, key=lambda time: phases[time]):
        found.setdefault(phase, []).extend(spans_of(group, step, grouping.max_gap))
    return [
        LabelQuestion(
            "grounding", f"When does the {plain_name(phase)} phase take place?", None, evidence
        )
        for phase, spans in found.items()
        if len(evidence := tuple(spans)) <= grouping.max_spans
    ]


def instrument_questions(
    seen: Mapping[float, Set[str]], order: Sequence[str], step: float, grouping: Grouping
) -> list[LabelQuestion]:
    """When each instrument is in view, and which are in view in the longest unchanging stretches.

    Args:
      seen: the instruments at each labelled time.
      order: every instrument, in the order in which answers name them.
    """
    questions = []
    times = sorted(seen)
    when = _times_of(seen)
    for name in order:
        evidence = spans_of(when.get(name, ()), step, grouping.max_gap)
        if 0 < len(evidence) <= grouping.max_spans:
            words = plain_name(name)
            text = f"When {_be(words)} the {words} in view?"
            questions.append(LabelQuestion("grounding", text, None, evidence))
    rank = {name: place for place, name in enumerate(order)}
    sets = {time: tuple(sorted(seen[time], key=rank.__getitem__)) for time in times}
    for (start, end), names in longest_stretches(sets, step, grouping):
        text = f"Which instruments are in view {period_text((start, end))}?"
        answer = ", ".join(map(plain_name, names))
        questions.append(LabelQuestion("perception", text, answer, ((start, end),)))
    return questions


def longest_stretches(
    values: Mapping[float, object], step: float, grouping: Grouping
) -> list[tuple[Span, object]]:
    """The longest spans of labelled time over which a value that is not empty stays the same.

    As many as grouping says, the earlier of two that last as long, in the order of time.
    """
    found: list[tuple[Span, object]] = []
    runs: list[tuple[object, list[float]]] = []
    for time in sorted(values):
        if runs and runs[-1][0] == values[time] and time - runs[-1][1][-1] <= 1.5 * step:
            runs[-1][1].append(time)
        else:
            runs.append((values[time], [time]))
    for value, times in runs:
        ((start, end),) = spans_of((times[0], times[-1]), step, float("inf"))
        if value and end - start > grouping.min_stretch - _EPSILON:
            found.append(((start, end), value))
    found.sort(key=lambda one: (one[0][0] - one[0][1], one[0][0]))
    return sorted(found[: grouping.stretches])


def triplet_questions(
    done: Mapping[float, Set[tuple[str, str, str]]], step: float, grouping: Grouping
) -> list[LabelQuestion]:
    """What instruments do to what: triplets (instrument, verb, target) as grounded questions.

    Of each triplet, in alphabetical order: when it happens (grounding); which instrument does it,
    where only one does that to that target in the video; and to what the instrument does it, where
    there is only one such target (vqa, the triplet's spans as evidence). Of the longest stretches
    in which an instrument does one and the same thing: what it does then (vqa).
    """
    questions = []
    when = _times_of(done)
    doers = collections.Counter(triplet[1:] for triplet in when)
    targets = collections.Counter(triplet[:2] for triplet in when)
    for triplet in sorted(when):
        evidence = spans_of(when[triplet], step, grouping.max_gap)
        if len(evidence) > grouping.max_spans:
            continue
        tool, verb, target = map(plain_name, triplet)
        text = f"When {_do(tool)} the {tool} {verb} the {target}?"
        questions.append(LabelQuestion("grounding", text, None, evidence))
        if doers[triplet[1:]] == 1:
            text = f"Which instrument is used to {verb} the {target}?"
            questions.append(LabelQuestion("vqa", text, tool, evidence))
        if targets[triplet[:2]] == 1:
            text = f"What {_do(tool)} the {tool} {verb}?"
            questions.append(LabelQuestion("vqa", text, target, evidence))
    acts: dict[str, dict[float, tuple[str, ...]]] = {}
    for triplet, times in when.items():
        for time in times:
            # Of two things at once it is not said which it does.
            others = acts.setdefault(triplet[0], {})
            others[time] = () if time in others else triplet
    stretches = []
    for tool in sorted(acts):
        stretches += longest_stretches(acts[tool], step, grouping)
    stretches.sort(key=lambda one: (one[0][0] - one[0][1], one[0][0], one[1]))
    for (start, end), triplet in sorted(stretches[: grouping.stretches]):
        tool, verb, target = map(plain_name, triplet)
        text = f"What {_do(tool)} the {tool} do {period_text((start, end))}?"
        questions.append(LabelQuestion("vqa", text, f"{verb} the {target}", ((start, end),)))
    return questions


def _times_of(labels: Mapping[float, Set[T]]) -> dict[T, list[float]]:
    """The ascending times at which each label stands."""
    when: dict[T, list[float]] = {}
    for time in sorted(labels):
        for label in labels[time]:
            when.setdefault(label, []).append(time)
    return when


def _be(name: str) -> str:
    return "are" if name.endswith("s") else "is"


def _do(name: str) -> str:
    return "do" if name.endswith("s") else "does"
