"""Records -> training examples: fixed-shape arrays, ready to batch."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from medscope_jax.dialogue import (
    CompactRow,
    Layout,
    Row,
    Tokenizer,
    build_episode,
    build_prompt,
    pad_row,
    question_text,
)
from medscope_jax.dialogue.sanitize import check_turns
from medscope_jax.tools import Tool, select_frames_host
from medscope_jax.video import Video, preview_indices


def _words(record: Mapping) -> tuple[str, Sequence[str]]:
    """The question, with its options, and the turns of a record, which may be anybody's."""
    name = f"record {record['id']}"
    check_turns(record["turns"], name)
    return question_text(record, f"the question of {name}"), record["turns"]


def clip_frames(record: Mapping, video: Video, layout: Layout) -> np.ndarray:
    """Indices of the frames that a clip's row shows."""
    start, end = (float(x) for x in record["window"])
    indices, count = select_frames_host(
        Tool.CROP_VIDEO, start, end, video.times, len(video.times), layout.window_frames
    )
    return indices[:count]


def clip_row(record: Mapping, video: Video, tokenizer: Tokenizer, layout: Layout) -> Row:
    """Stage 1: an episode about a clip whose frames it shows, see clip_frames.

    UserError where the record's words can't be part of a conversation, see dialogue.sanitize. The
    row sees the shown frames alone, because the step encodes no others.
    """
    shown = clip_frames(record, video, layout)
    return build_episode(
        *_words(record),
        range(len(shown)),
        video.times[shown],
        video.duration,
        tokenizer,
        layout,
        tools=False,
    )


def clip_example(row: Row | CompactRow, record: Mapping, video: Video, layout: Layout) -> dict:
    """clip_row's result as arrays: tokens, visual_index, role [L] and frames uint8 [F, H, W, 3]."""
    shown = clip_frames(record, video, layout)
    frames = np.zeros((layout.window_frames, *video.frames.shape[1:]), np.uint8)
    frames[: len(shown)] = video.frames[shown]
    return {**pad_row(row, layout.length), "frames": frames}


def dialogue_row(
    record: Mapping, video: Video, tokenizer: Tokenizer, layout: Layout, tools: bool
) -> Row:
    """Stage 2: the whole-video preview, then the record's turns with their observations.

    tools: whether the prompt offers tools. That is the model's doing, not the record's: the passive
    baseline reads the easy questions that everyone reads, in the words in which it will be asked.
    """
    return build_episode(
        *_words(record),
        preview_indices(len(video.times), layout.preview_frames),
        video.times,
        video.duration,
        tokenizer,
        layout,
        tools=tools,
    )


def question_row(record: Mapping, video: Video, tokenizer: Tokenizer, layout: Layout) -> Row:
    """Stage 3 and evaluation: the whole-video preview and the question, with tools; however long.

    UserError where the question can't be asked, see dialogue.sanitize.
    """
    return build_prompt(
        question_text(record, f"the question of record {record['id']}"),
        preview_indices(len(video.times), layout.preview_frames),
        video.times,
        tokenizer,
        layout,
        tools=True,
    )


def dialogue_example(
    row: Row | CompactRow,
    visual_at: Callable[[np.ndarray], np.ndarray],
    layout: Layout,
    seen: int,
) -> dict:
    """dialogue_row as arrays: tokens, visual_index, role [L], and visual [seen, D].

    The example takes along what it shows, so that the devices hold a batch's frames and no more:
    its own visual tokens are then those, in the order in which they are shown.

    visual_at: visual indices [n] of the video -> its visual tokens [n, D], HostBank.visual.
    seen: visual tokens of the longest row.
    """
    arrays = pad_row(row, layout.length)
    index = arrays["visual_index"]
    shown = index >= 0
    tokens = visual_at(index[shown])
    visual = np.zeros((seen, tokens.shape[-1]), tokens.dtype)
    visual[: len(tokens)] = tokens
    own = np.where(shown, np.cumsum(shown) - 1, -1).astype(np.int32)
    return {**arrays, "visual_index": own, "visual": visual}


def compact(row: Row) -> CompactRow:
    """The row as small arrays, without its calls: laid out once, kept for every epoch."""
    index = np.array(row.visual_index, np.int32)
    return CompactRow(np.array(row.tokens, np.int32), index, np.array(row.role, np.int8))
