"""From records to prompts, and from finished episodes to trajectories."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from medscope_jax.dialogue import (
    Episode,
    Layout,
    Role,
    Tokenizer,
    build_prompt,
    generated_text,
    question_text,
    turn_texts,
)
from medscope_jax.dialogue.episode import question_ids
from medscope_jax.errors import UserError
from medscope_jax.rollout.state import Prompts
from medscope_jax.video import preview_indices


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """One finished rollout, read back on the host."""

    text: str  # the transcript: turns and observations, see dialogue.generated_text
    turns: list[str]  # the assistant's turns
    calls: list[tuple]  # (tool, start, end, status) of each executed call, seconds
    frames: list[list[int]]  # bank frames that each call's observation showed


class PromptWidth(NamedTuple):
    """How many positions prompts take; batches with the same one share a compiled program."""

    most: int  # of the longest, rounded up to a multiple of 8, at most layout.length
    least: int  # of the shortest, if no tools are offered, rounded down


def prompt_width(
    records: Sequence[Mapping],
    times: Sequence[np.ndarray],
    tokenizer: Tokenizer,
    layout: Layout,
    tools: bool,
    spare: int = 1,
    shown: Sequence[np.ndarray | None] | None = None,
) -> PromptWidth:
    """The PromptWidth of all questions.

    A frame's stamp takes tokens by its time: "3.0" may be one token where "3.4" is four.

    Args:
        records: N questions, with their options.
        times: N arrays [T_v], the frame times in seconds of the video that each question is about.
            Only those of frames that the prompt shows count.
        tools: whether the prompt offers tools.
        spare: positions of layout.length that every prompt must leave to what follows.
        shown: N, the frames that each prompt shows, see shown_frames.

    Raises:
        UserError: no questions, one that can't be asked (see dialogue.sanitize), or a prompt that
            leaves fewer positions.
    """
    if not records:
        raise UserError("there are no questions to roll out")
    without: dict[bytes, int] = {}  # preview -> tokens of its prompt up to the question
    empty = len(question_ids(tokenizer, "", tools))
    longest, at, shortest = 0, "", layout.length
    for record, when, own in zip(records, times, shown or [None] * len(records), strict=True):
        question = _asked(record)
        seen = np.asarray(when, np.float64)[shown_frames(own, when, layout)]
        key = seen.tobytes()
        if key not in without:
            row = build_prompt("", range(len(seen)), seen, tokenizer, layout, tools)
            without[key] = len(row.tokens) - empty
        count = without[key] + len(question_ids(tokenizer, question, tools))
        shortest = min(shortest, count)
        if count > longest:
            longest, at = count, question
    over = longest + spare - layout.length
    if over > 0:
        raise UserError(
            f"the prompt of {at[:60]!r} is {over} tokens too long for this model's conversations "
            f"of {layout.length}: shorten the question, or train with a larger dialogue.length"
        )
    if tools:
        with_them, without_them = (
            len(build_prompt("", [], np.zeros(0), tokenizer, layout, offered).tokens)
            for offered in (True, False)
        )
        shortest -= with_them - without_them
    return PromptWidth(min(-longest // 8 * -8, layout.length), shortest // 8 * 8)


def shown_frames(own: np.ndarray | None, times: np.ndarray, layout: Layout) -> np.ndarray:
    """The frames of a video that a prompt shows: its own, or where it has none the preview's."""
    return preview_indices(len(times), layout.preview_frames) if own is None else own


def _asked(record: Mapping) -> str:
    return question_text(record, f"the question {record['question'][:60]!r}")


def make_prompts(
    records: Sequence[Mapping],
    videos: Sequence[int],
    times: Sequence[np.ndarray],
    keys,
    width: PromptWidth,
    tokenizer: Tokenizer,
    layout: Layout,
    tools: bool,
    shown: Sequence[np.ndarray | None] | None = None,
) -> Prompts:
    """The prompts of P questions.

    Args:
        records: P of question, and options or none.
        videos: [P] row of the bank that each is about.
        times: P arrays [T_v], that video's frame times in seconds.
        keys: [P, group] random keys.
        width: of these questions or of more.
        tools: whether the prompt offers tools.
        shown: P, the frames that each prompt shows, see shown_frames.

    Raises:
        UserError: a prompt is wider or shorter, or a question can't be asked (dialogue.sanitize).
    """
    tokens = np.zeros((len(records), width.most), np.int32)
    visual_index = np.full((len(records), width.most), -1, np.int32)
    length = np.zeros(len(records), np.int32)
    owns = shown or [None] * len(records)
    for i, (record, when, own) in enumerate(zip(records, times, owns, strict=True)):
        seen = shown_frames(own, when, layout)
        row = build_prompt(_asked(record), seen, when, tokenizer, layout, tools)
        length[i] = len(row.tokens)
        if not width.least <= length[i] <= width.most:
            raise UserError(
                f"a prompt of {length[i]} tokens is not within {width.least} to {width.most}: "
                f"{record['question'][:60]!r}"
            )
        tokens[i, : length[i]] = row.tokens
        visual_index[i, : length[i]] = row.visual_index
    return Prompts(
        tokens=jnp.asarray(tokens),
        visual_index=jnp.asarray(visual_index),
        length=jnp.asarray(length),
        video=jnp.asarray(np.asarray(videos, np.int32)),
        keys=keys,
        least=width.least,
    )


def read_trajectories(episode: Episode, tokenizer: Tokenizer, layout: Layout) -> list[Trajectory]:
    """The trajectories of a finished episode's rows (arrays on the host)."""
    size = layout.tokens_per_frame
    calls = [array.tolist() for array in episode.calls]
    lengths = np.count_nonzero(episode.role != int(Role.PADDING), axis=1).tolist()
    result = []
    for b, row in enumerate(zip(*calls, strict=True)):
        made = [call for call in zip(*row, strict=True) if call[3] >= 0]
        # An observation stands between its call and the next one, or the row's end.
        ends = [*(call[4] for call in made[1:]), lengths[b]]
        frames = []
        for call, end in zip(made, ends[: len(made)], strict=True):
            seen = episode.visual_index[b, call[4] : end]
            frames.append((seen[seen >= 0][::size] // size).tolist())
        tokens, role = np.asarray(episode.tokens[b]), np.asarray(episode.role[b])
        result.append(
            Trajectory(
                text=generated_text(tokens, role, tokenizer),
                turns=turn_texts(tokens, role, tokenizer),
                calls=[(tool, start, end, status) for tool, start, end, status, _ in made],
                frames=frames,
            )
        )
    return result
