"""The stages that write: clips, captions, events, questions."""

import asyncio
import dataclasses
import itertools
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from medscope_jax.dialogue.sanitize import clean_question
from medscope_jax.errors import UserError
from medscope_jax.phantom.questions import span_text
from medscope_jax.rl.intervals import merge_spans
from tfds_builders.synthesis.footage import frames_inside
from tfds_builders.synthesis.items import (
    Ask,
    Clip,
    Drop,
    Dropped,
    Footage,
    Outcome,
    Request,
    Span,
    WrittenQuestion,
    joined,
    unrepeated,
)
from tfds_builders.synthesis.settings import SynthesisConfig
from tfds_builders.synthesis.wire import ask_object

TASKS = ("grounding", "vqa", "perception")
_MAX_CHARACTERS = 4000


async def for_each(items: Sequence, work: Callable[[Any], Awaitable[Any]]) -> Outcome:
    """Does the work on every item at once; an item whose work raises Dropped is dropped."""

    async def one(item: Any) -> Outcome:
        try:
            return Outcome([await work(item)])
        except Dropped as reason:
            return Outcome([], [Drop(item, str(reason))])

    return joined(await asyncio.gather(*map(one, items)))


async def segment(items: Sequence[Footage], ask: Ask, config: SynthesisConfig) -> Outcome:
    """Cuts recordings into clips, each where the picture changes most; asks nobody.

    A clip lasts from min_clip_s to max_clip_s and ends with the last frame before the cut. No cut
    leaves less than half of min_clip_s behind it; the last clip may be longer instead.
    """
    return Outcome([clip for footage in items for clip in _clips(footage, config)])


def _clips(footage: Footage, config: SynthesisConfig) -> list[Clip]:
    times, first, clips = footage.times, 0, []
    while footage.duration - times[first] > config.max_clip_s:
        shortest, longest = times[first] + config.min_clip_s, times[first] + config.max_clip_s
        low = max(first + 1, int(np.searchsorted(times, shortest)))
        high = int(np.searchsorted(times, longest, side="right"))
        cuts = range(low, max(high, low + 1))  # frames may be further apart than a clip is long
        rest = footage.duration - config.min_clip_s / 2
        cuts = [i for i in cuts if i < len(times) and times[i] <= rest]
        if not cuts:
            break
        # The latest of the largest: where nothing changes, clips are long.
        cut = max(cuts, key=lambda i: (footage.changes[i], i))
        # A clip of one frame lasts half of the time to the next: a window has a length.
        end = times[cut - 1] if cut - 1 > first else (times[first] + times[cut]) / 2
        clips.append(Clip(footage, float(times[first]), float(end)))
        first = cut
    return [*clips, Clip(footage, float(times[first]), footage.duration)]


async def caption(items: Sequence[Clip], ask: Ask, config: SynthesisConfig) -> Outcome:
    """Clips with the captions that the model gives them."""

    async def one(clip: Clip) -> Clip:
        frames = frames_inside(clip.footage, [(clip.start, clip.end)], config.clip_frames)
        request = Request("caption", {"start": clip.start, "end": clip.end}, frames)
        words = await ask_object(request, ask, config.reply_attempts, "caption")
        return dataclasses.replace(clip, caption=_words(words, "caption"))

    return await for_each(items, one)


async def merge(items: Sequence[Clip], ask: Ask, config: SynthesisConfig) -> Outcome:
    """Captioned clips of a recording, put together into events: clips with captions again.

    Events are named by their first and last clip, never by times that a model could make up. One
    that cannot be used is dropped alone. A reply that cannot be used drops its clips.
    """

    async def some(clips: Sequence[Clip]) -> list[Clip | Drop]:
        lines = [
            f"{n}. [{c.start:.1f}, {c.end:.1f}] {c.caption}" for n, c in enumerate(clips, start=1)
        ]
        values = {"captions": "\n".join(lines)}
        found = await ask_object(Request("merge", values), ask, config.reply_attempts, "events")
        if not isinstance(found, list):
            raise Dropped("unreadable reply (merge)")
        made, used = [], 0
        for entry in found:
            try:
                event, used = _event(entry, clips, used)
                made.append(event)
            except Dropped as reason:
                made.append(Drop(entry, str(reason)))
        return made

    step = config.merge_clips
    batches = [items[i : i + step] for i in range(0, len(items), step)]
    return _opened(await for_each(batches, some))


def _event(entry: Any, clips: Sequence[Clip], used: int) -> tuple[Clip, int]:
    """An event of a reply, and the number of its last clip; `used` is that of the event before."""
    if not isinstance(entry, dict):
        raise Dropped("event: no object")
    first, last = entry.get("first"), entry.get("last")
    if type(first) is not int or type(last) is not int or not 1 <= first <= last <= len(clips):
        raise Dropped("event: no such clips")
    if first <= used:
        raise Dropped("event: not in order")
    text = _words(entry.get("caption"), "event")
    whole = clips[first - 1 : last]
    return Clip(whole[0].footage, whole[0].start, whole[-1].end, text), last


async def questions(items: Sequence[Clip], ask: Ask, config: SynthesisConfig) -> Outcome:
    """Questions about events, each with evidence within its event.

    A grounding question's answer is its evidence. A question that cannot be used is dropped alone;
    one asked twice in the same recording is kept once.
    """

    async def about(event: Clip) -> list[WrittenQuestion | Drop]:
        frames = frames_inside(event.footage, [(event.start, event.end)], config.clip_frames)
        values = {
            "start": event.start,
            "end": event.end,
            "caption": event.caption,
            "count": config.questions_per_event,
        }
        request = Request("questions", values, frames)
        found = await ask_object(request, ask, config.reply_attempts, "questions")
        if not isinstance(found, list):
            raise Dropped("unreadable reply (questions)")
        made = []
        for entry in found[: config.questions_per_event]:
            try:
                made.append(_question(entry, event, config))
            except Dropped as reason:
                made.append(Drop(entry, str(reason)))
        return made

    outcome = _opened(await for_each(items, about))
    return unrepeated(
        outcome, lambda q: (q.footage.video, q.asked.casefold()), "question: asked twice"
    )


def _question(entry: Any, event: Clip, config: SynthesisConfig) -> WrittenQuestion:
    """A question of a reply; Dropped says what is wrong with it."""
    if not isinstance(entry, dict):
        raise Dropped("question: no object")
    task = entry.get("task")
    if task not in TASKS:
        raise Dropped("question: unknown task")
    options = entry.get("options") or []
    if not isinstance(options, list):
        raise Dropped("question: options are no list")
    options = tuple(_words(option, "question") for option in options)
    spans = _spans(entry.get("evidence"), event)
    lengths = [end - start for start, end in spans]
    if min(lengths, default=0) < config.min_evidence_s:
        raise Dropped("question: evidence too short")
    if math.fsum(lengths) > config.max_evidence_share * event.footage.duration:
        raise Dropped("question: evidence too long")
    if task == "grounding":
        answer = ", ".join(span_text(*span) for span in spans)
    else:
        answer = _words(entry.get("answer"), "question")
    if options and answer not in options:
        raise Dropped("question: answer is none of its options")
    return WrittenQuestion(
        event.footage,
        task,
        _words(entry.get("question"), "question"),
        answer,
        _words(entry.get("reason"), "question"),
        spans,
        options,
    )


def _spans(value: Any, event: Clip) -> tuple[Span, ...]:
    """Evidence as spans within an event, merged."""
    if not isinstance(value, list) or not value:
        raise Dropped("question: no evidence")
    spans = []
    for span in value:
        if not (isinstance(span, list) and len(span) == 2 and all(map(_is_time, span))):
            raise Dropped("question: evidence is no times")
        start, end = map(float, span)
        # Half a second: times in replies are rounded.
        if end < start or start < event.start - 0.5 or end > event.end + 0.5:
            raise Dropped("question: evidence outside of the event")
        start, end = np.clip((start, end), event.start, event.end).tolist()
        spans.append((start, end))
    return tuple(merge_spans(spans))


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9


def _words(value: Any, what: str) -> str:
    """A text of a reply on one line; Dropped where it is none or holds the protocol's tags."""
    if not isinstance(value, str) or len(value) > _MAX_CHARACTERS:
        raise Dropped(f"{what}: no text" if not isinstance(value, str) else f"{what}: too long")
    try:
        return clean_question(value)
    except UserError:
        raise Dropped(f"{what}: broken text") from None


def _opened(outcome: Outcome) -> Outcome:
    """An outcome whose kept items are lists of items and Drops, as one of items."""
    made = list(itertools.chain.from_iterable(outcome.kept))
    return Outcome(
        [item for item in made if not isinstance(item, Drop)],
        [*outcome.drops, *(item for item in made if isinstance(item, Drop))],
    )
