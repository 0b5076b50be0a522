"""All stages over all recordings: rows out, costs and drops counted."""

import asyncio
import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfds_builders.synthesis.filters import EASY, blind, verify
from tfds_builders.synthesis.items import (
    Ask,
    AskFailed,
    Footage,
    Outcome,
    Reply,
    Request,
)
from tfds_builders.synthesis.rows import Made, rows_of
from tfds_builders.synthesis.settings import SynthesisConfig
from tfds_builders.synthesis.stages import caption, for_each, merge, questions, segment
from tfds_builders.synthesis.trajectories import teach, think

STAGES = (
    "read",
    "segment",
    "caption",
    "merge",
    "questions",
    "blind",
    "verify",
    "teach",
    "think",
)


@dataclasses.dataclass
class Tally:
    """What went through one stage, and what it cost.

    Attributes:
      items, kept: what came in, and what went out (a stage may make many of one).
      drops: how often each reason dropped something.
      requests: answers had, of which `journal` were an earlier run's and `repeated` this run's.
      failed: requests that got no answer, whatever they cost.
      retries: attempts that failed.
      prompt_tokens, completion_tokens: as the endpoint reports them, the journal's included.
      seconds: of waiting for answers, summed over requests, the journal's included.
    """

    items: int = 0
    kept: int = 0
    drops: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    requests: int = 0
    journal: int = 0
    repeated: int = 0
    failed: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def add_reply(self, reply: Reply) -> None:
        """Counts an answer."""
        self.requests += 1
        self.journal += reply.origin == "journal"
        self.repeated += reply.origin == "repeated"
        self.retries += reply.retries
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        self.seconds += reply.seconds

    def add_failure(self, failure: AskFailed) -> None:
        """Counts a request without an answer."""
        self.failed += 1
        self.retries += failure.retries
        self.seconds += failure.seconds

    def add_outcome(self, items: int, outcome: Outcome) -> None:
        """Counts what a stage made of so many items."""
        self.items += items
        self.kept += len(outcome.kept)
        self.drops.update(drop.reason for drop in outcome.drops)


@dataclasses.dataclass(frozen=True)
class FootageSource:
    """A recording to work on: how to get it (may raise Dropped, may block), and whom to ask."""

    load: Callable[[], Footage]
    ask: Ask


def metered(ask: Ask, tally: Tally) -> Ask:
    """An `ask` that adds what each request costs to the tally."""

    async def counted(request: Request) -> Reply:
        try:
            reply = await ask(request)
        except AskFailed as failure:
            tally.add_failure(failure)
            raise
        tally.add_reply(reply)
        return reply

    return counted


async def run(
    sources: Sequence[FootageSource],
    config: SynthesisConfig,
    tallies: Mapping[str, Tally],
    progress: Callable[[], Any] = lambda: None,
) -> list[dict[str, Any]]:
    """Rows of all recordings, in their order; `progress` is called after each recording.

    A recording that cannot be read is a drop of the stage "read".
    """
    slots = asyncio.Semaphore(config.videos_at_once)

    async def one(source: FootageSource) -> list[dict[str, Any]]:
        async with slots:
            outcome = await for_each([source], lambda s: asyncio.to_thread(s.load))
            tallies["read"].add_outcome(1, outcome)
            rows = []
            for footage in outcome.kept:
                rows = await synthesize(footage, source.ask, config, tallies)
            progress()
            return rows

    return [row for rows in await asyncio.gather(*map(one, sources)) for row in rows]


async def synthesize(
    footage: Footage, ask: Ask, config: SynthesisConfig, tallies: Mapping[str, Tally]
) -> list[dict[str, Any]]:
    """Rows of one recording: the fields of a record.Annotation, but for its place.

    A question that the rest of the recording answers is no hard one; it is demonstrated without
    calls, from the preview alone.
    """

    async def stage(function: Callable, items: Sequence) -> Outcome:
        tally = tallies[function.__name__]
        outcome = await function(items, metered(ask, tally), config)
        tally.add_outcome(len(items), outcome)
        return outcome

    clips = (await stage(segment, [footage])).kept
    captions = (await stage(caption, clips)).kept
    events = (await stage(merge, captions)).kept
    written = (await stage(questions, events)).kept
    open_questions = (await stage(blind, written)).kept
    verified = await stage(verify, open_questions)
    easy = [drop.item for drop in verified.drops if drop.reason == EASY]
    taught = (await stage(teach, verified.kept)).kept
    thought = (await stage(think, easy)).kept

    made = Made(captions, events, verified.kept, taught, thought)
    return rows_of(footage.split, made, config)
