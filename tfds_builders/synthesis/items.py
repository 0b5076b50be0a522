"""What goes through the stages, and what is asked and answered on the way."""

import dataclasses
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np

from medscope_jax.dialogue import question_text
from medscope_jax.errors import UserError

Span = tuple[float, float]  # seconds, start <= end


@dataclasses.dataclass(frozen=True)
class Frame:
    """One bank frame: its time in seconds, and the picture as JPEG."""

    time: float
    jpeg: bytes


@dataclasses.dataclass(frozen=True, eq=False)
class Footage:
    """A recording at the bank rate.

    Attributes:
      video: its path relative to the folder of recordings; goes into rows, and nowhere else.
      duration: seconds.
      frames: at least one, in time order.
      changes: float [T], how much each frame differs from the one before it; the first is 0.
      split: train, validation, test, or "" where nobody has said.
    """

    video: str
    duration: float
    frames: tuple[Frame, ...]
    changes: np.ndarray
    split: str = ""

    @property
    def times(self) -> np.ndarray:
        """float64 [T] seconds of the frames."""
        return np.array([frame.time for frame in self.frames])


@dataclasses.dataclass(frozen=True)
class Clip:
    """A stretch of a recording; caption: dense words for it, "" before it has any."""

    footage: Footage
    start: float
    end: float
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class WrittenQuestion:
    """A question with its evidence.

    Attributes:
      footage: what it is about.
      task: grounding, vqa or perception.
      text, answer: a grounding answer is "[start, end]".
      reason: what the evidence shows, as one would say before answering.
      spans: the evidence, seconds, in order, none touching another.
      options: the possible answers, where there are few.
    """

    footage: Footage
    task: str
    text: str
    answer: str
    reason: str
    spans: tuple[Span, ...]
    options: tuple[str, ...] = ()

    @property
    def asked(self) -> str:
        """The text with the options, as models are asked."""
        return question_text({"question": self.text, "options": self.options})


@dataclasses.dataclass(frozen=True)
class WrittenTrajectory:
    """A question and the assistant's turns that answer it."""

    question: WrittenQuestion
    turns: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Request:
    """One thing to ask of a model.

    Attributes:
      kind: of prompts.PROMPTS: caption, merge, questions, blind, answer, judge, teach, think.
      values: what the prompt's words are filled with.
      frames: what it shows.
      history: the assistant's turns so far, each with the frames that its call showed.
      draw: 0 for the first answer; other numbers are independent draws.
    """

    kind: str
    values: Mapping[str, Any]
    frames: tuple[Frame, ...] = ()
    history: tuple[tuple[str, tuple[Frame, ...]], ...] = ()
    draw: int = 0


@dataclasses.dataclass(frozen=True)
class Reply:
    """A model's answer and what it cost.

    Attributes:
      text, refused: as rl.endpoint.Completion has them.
      prompt_tokens, completion_tokens: as the endpoint reports them.
      retries: attempts that failed before it came.
      seconds: from the first attempt to the answer.
      origin: "asked", "journal" (an earlier run had asked), or "repeated" (asked before in this
        run: it cost nothing more).
    """

    text: str
    refused: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: int = 0
    seconds: float = 0.0
    origin: str = "asked"


Ask = Callable[[Request], Awaitable[Reply]]


class Dropped(UserError):
    """An item is given up; the message is the reason, in words that quote no content."""


class AskFailed(Dropped):
    """A request that got no answer; retries and seconds are what it cost."""

    def __init__(self, reason: str, retries: int, seconds: float):
        super().__init__(f"endpoint: {reason}")
        self.retries, self.seconds = retries, seconds


@dataclasses.dataclass(frozen=True)
class Drop:
    """What a stage dropped, and why."""

    item: Any
    reason: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a stage made of its items, in their order."""

    kept: list
    drops: list[Drop] = dataclasses.field(default_factory=list)


def unrepeated(outcome: Outcome, key: Callable[[Any], Any], reason: str) -> Outcome:
    """An outcome whose kept items have different keys; later ones are dropped for the reason."""
    kept, drops, seen = [], list(outcome.drops), set()
    for item in outcome.kept:
        if key(item) in seen:
            drops.append(Drop(item, reason))
        else:
            seen.add(key(item))
            kept.append(item)
    return Outcome(kept, drops)


def joined(outcomes: list[Outcome]) -> Outcome:
    """Several outcomes as one, in order."""
    return Outcome(
        list(itertools.chain.from_iterable(o.kept for o in outcomes)),
        list(itertools.chain.from_iterable(o.drops for o in outcomes)),
    )
