"""Questions about a phantom procedure, with their reference answers and the words to think in."""

import dataclasses

import numpy as np

from medscope_jax.phantom.procedure import COLOURS, COUNTS, EVENTS, SIDES, Event, Procedure

_VALUES = {"side": SIDES, "colour": COLOURS, "count": COUNTS}
_PHRASES = {"side": "on the {}", "colour": "{}", "count": "{} of them"}


@dataclasses.dataclass(frozen=True)
class Question:
    """A question and its reference answer.

    Attributes:
      task: grounding, vqa, perception, order or description.
      text, answer: short sentences; a grounding answer is "[start, end]".
      thought: what one says after having looked, before answering.
      event: what the question is about; None if the preview alone answers it.
    """

    task: str
    text: str
    answer: str
    thought: str
    event: Event | None = None


def span_text(start: float, end: float) -> str:
    """An interval as answers write it: "[30.0, 42.0]"."""
    return f"[{start:.1f}, {end:.1f}]"


def details_text(event: Event) -> str:
    """The details of an event that one can ask for: "red, on the left"."""
    details = EVENTS[event.kind].details
    return ", ".join(_PHRASES[name].format(getattr(event, name)) for name in details)


def description_of(event: Event) -> str:
    """The event in one sentence: "The polyp is red, on the left."."""
    return f"The {event.kind} is {details_text(event)}."


def hard_questions(procedure: Procedure, rng: np.random.Generator) -> list[Question]:
    """Questions whose answer no preview shows: several for every event.

    Grounding is asked where the evidence is a segment; endoscopic evidence is one frame time.
    """
    questions = []
    for event in procedure.events:
        if procedure.source != "endoscopic":
            answer = span_text(event.start, event.end)
            thought = f"The {event.kind} is from {event.start:.1f} to {event.end:.1f}."
            for text in (f"When does the {event.kind} occur?", f"Find the {event.kind}."):
                questions.append(Question("grounding", text, answer, thought, event))
        thought = description_of(event)
        for name in EVENTS[event.kind].details:
            value = getattr(event, name)
            questions.append(Question("vqa", _open(event, name), value, thought, event))
        name = str(rng.choice(EVENTS[event.kind].details))
        text, answer = _yes_no(event, name, rng)
        questions.append(Question("perception", text, answer, thought, event))
        text, answer = _both(event)
        questions.append(Question("perception", text, answer, thought, event))
    return questions


def easy_questions(procedure: Procedure, rng: np.random.Generator) -> list[Question]:
    """Questions that the preview answers: order of phases, phases at a time, full description."""
    phases = procedure.phases
    order = ", then ".join(phase.kind for phase in phases)
    thought = f"I see {order}."
    questions = [
        Question("order", "Which phase comes first?", phases[0].kind, thought),
        Question("order", "Which phase comes last?", phases[-1].kind, thought),
    ]
    for before, after in zip(phases, phases[1:], strict=False):
        text = f"Which phase follows {before.kind}?"
        questions.append(Question("order", text, after.kind, thought))
        text = f"Which phase precedes {after.kind}?"
        questions.append(Question("order", text, before.kind, thought))
    for time in sorted(rng.choice(procedure.preview, 3, replace=False).tolist()):
        kind = procedure.phase_at(time).kind
        text = f"Which phase is seen at {time:.1f}?"
        questions.append(Question("perception", text, kind, f"At {time:.1f} I see {kind}."))
    # The preview shows when a phase is first seen, not when it begins.
    answer = ", ".join(f"{phase.kind} {phase.first_seen:.1f}" for phase in phases)
    text = "List the phases and when each is first seen."
    questions.append(Question("description", text, answer, thought))
    return questions


def eval_questions(procedure: Procedure, rng: np.random.Generator) -> list[Question]:
    """What evaluation asks: of each event at most one question a task, and a few easy ones."""
    chosen = []
    hard = hard_questions(procedure, rng)
    for event in procedure.events:
        for task in ("grounding", "vqa", "perception"):
            same = [q for q in hard if q.event is event and q.task == task]
            if same and (task != "perception" or rng.random() < 0.5):
                chosen.append(same[rng.integers(len(same))])
    easy = easy_questions(procedure, rng)
    for task in ("order", "description"):
        same = [q for q in easy if q.task == task]
        chosen.append(same[rng.integers(len(same))])
    return chosen


def _open(event: Event, name: str) -> str:
    """An open question about one detail."""
    if name == "side":
        return f"On which side is the {event.kind}?"
    if name == "colour":
        return f"What colour is the {event.kind}?"
    return f"How many {EVENTS[event.kind].plural} are there?"


def _yes_no(event: Event, name: str, rng: np.random.Generator) -> tuple[str, str]:
    """A claim about one detail, right half of the time."""
    value = getattr(event, name)
    true = bool(rng.random() < 0.5)
    if not true:
        value = str(rng.choice([v for v in _VALUES[name] if v != value]))
    kind = EVENTS[event.kind]
    if name == "count":
        text = (
            f"Is there one {kind.singular}?"
            if value == "one"
            else f"Are there {value} {kind.plural}?"
        )
    else:
        text = f"Is the {event.kind} {_PHRASES[name].format(value)}?"
    return text, "yes" if true else "no"


def _both(event: Event) -> tuple[str, str]:
    """A question for both details at once."""
    first, second = EVENTS[event.kind].details
    values = f"{getattr(event, first)}, {getattr(event, second)}"
    return f"Which {first} and which {second} has the {event.kind}?", values
