"""Episodes: the one record that SFT, rollouts, the loss and evaluation share, and how it is made.

An episode is integers only. A visual position holds no pixels but an index of one of the visual
tokens that its row sees, so a preview, a tool's observation and the training forward pass are the
same gather:

    tokens        ... 12.0 <img> <img> 13.0 <img> <img> \\n  When  does ...
    visual_index  ...  -1    24    25   -1    26    27   -1   -1    -1  ...   (S = 2 a frame)

Indices count within the row's own video, t * S + s for token s of frame t, whatever bank holds it:
bank.flat_index alone turns them into rows of a bank of many videos.

Observations are never stored in records: they are executed again from the calls that the turns
hold, by the same rules as on the device, so that a record and a rollout cannot drift apart.
"""

import dataclasses
import enum
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import struct

from medscope_jax.dialogue import protocol
from medscope_jax.dialogue.tokenizer import Tokenizer, encode_parts
from medscope_jax.errors import UserError
from medscope_jax.tools import CallStatus, error_text, parse_call, select_frames_host


class Role(enum.IntEnum):
    """What a position of an episode is; only GENERATED positions carry loss."""

    PADDING = 0
    PROMPT = 1
    GENERATED = 2
    OBSERVATION = 3


class CallRecord(NamedTuple):
    """The calls of a batch of episodes, in order; a row with fewer than C calls is padded."""

    tool: jax.Array  # [B, C] int32, tools.Tool; Tool.NONE where unknown
    start: jax.Array  # [B, C] float32 seconds
    end: jax.Array  # [B, C] float32 seconds
    status: jax.Array  # [B, C] int32, tools.CallStatus; -1: padding
    where: jax.Array  # [B, C] int32 position of </tool_call>; -1: padding


class Episode(struct.PyTreeNode):
    """A batch of B conversations; a row fills positions from 0 on, the rest is padding."""

    tokens: jax.Array  # [B, L] int32 ids; the image id at visual positions
    visual_index: jax.Array  # [B, L] int32, of the row's own visual tokens [T * S]; -1: text
    role: jax.Array  # [B, L] int32 Role
    positions: jax.Array  # [3, B, L] int32 M-RoPE positions
    logprobs: jax.Array  # [B, L] float32 as sampled; 0 where not generated
    calls: CallRecord


@dataclasses.dataclass(frozen=True)
class Layout:
    """How conversations are laid out in positions.

    frame_format is the text of one frame, with {frame} standing for its S visual tokens and the
    time on either side of it. "<{time:.1f}s><|vision_start|>{frame}<|vision_end|>" suits Qwen's
    weights. In "{frame}{time:.1f}" the time's own token can gather what the frame shows, which a
    small model learns sooner than to carry the time to each visual token.
    """

    length: int  # positions of an episode
    preview_frames: int  # most frames of the preview
    window_frames: int  # most frames of an observation
    grid: tuple[int, int]  # merged tokens of a frame (height, width); S = height * width
    frame_format: str
    max_tool_turns: int
    response_format: str = protocol.RESPONSE  # text of an observation, {response} its content

    @property
    def stamp_first(self) -> bool:
        """Whether a frame's time stands before its visual tokens."""
        return "{time" in self.frame_format.split("{frame}")[0]

    @property
    def tokens_per_frame(self) -> int:
        """Visual tokens of a frame, S."""
        return self.grid[0] * self.grid[1]


class Row(NamedTuple):
    """One conversation before batching: three lists of equal length, and its executed calls."""

    tokens: list[int]
    visual_index: list[int]  # of the row's own visual tokens: t * S + s, or -1 for text
    role: list[int]
    calls: list[tuple]  # (tool, start, end, status, where)


class CompactRow(NamedTuple):
    """A Row as small arrays of equal length, without its calls."""

    tokens: np.ndarray  # int32
    visual_index: np.ndarray  # int32
    role: np.ndarray  # int8


@functools.lru_cache(maxsize=2**16)
def _repeated_ids(encode: Callable[[str], list[int]], text: str) -> tuple[int, ...]:
    """Token ids of a text that many conversations hold, encoded once."""
    return tuple(encode(text))


def stamp_ids(
    tokenizer: Tokenizer, layout: Layout, times: Sequence[float] | np.ndarray
) -> list[tuple[int, ...]]:
    """Token ids of the text that tells each frame's time; times in seconds."""
    stamp = layout.frame_format.split("{frame}")[0 if layout.stamp_first else 1]
    return [_repeated_ids(tokenizer.encode, stamp.format(time=float(time))) for time in times]


def frame_text_ids(tokenizer: Tokenizer, layout: Layout) -> tuple[int, ...]:
    """Token ids of the constant text on the other side of each frame's visual tokens."""
    constant = layout.frame_format.split("{frame}")[1 if layout.stamp_first else 0]
    return _repeated_ids(tokenizer.encode, constant)


def question_ids(tokenizer: Tokenizer, question: str, tools: bool) -> list[int]:
    """Token ids of what follows the frames of a prompt: the question and the instruction."""
    return encode_parts(tokenizer, protocol.prompt_closing_parts(question, tools))


def _append(row: Row, ids: Sequence[int], role: Role) -> None:
    row.tokens.extend(ids)
    row.visual_index.extend([-1] * len(ids))
    row.role.extend([role] * len(ids))


def _append_frames(
    row: Row,
    indices: Sequence[int] | np.ndarray,
    times: np.ndarray,
    tokenizer: Tokenizer,
    layout: Layout,
    role: Role,
) -> None:
    """Appends the visual tokens of each frame index, between its time and its constant text."""
    image, size = tokenizer.tag(protocol.IMAGE), layout.tokens_per_frame
    constant = frame_text_ids(tokenizer, layout)
    stamps = stamp_ids(tokenizer, layout, [times[i] for i in indices])
    for index, stamp in zip(indices, stamps, strict=True):
        before, after = (stamp, constant) if layout.stamp_first else (constant, stamp)
        _append(row, before, role)
        row.tokens.extend([image] * size)
        row.visual_index.extend(range(index * size, index * size + size))
        row.role.extend([role] * size)
        _append(row, after, role)


def build_prompt(
    question: str,
    shown: Sequence[int] | np.ndarray,
    times: np.ndarray,
    tokenizer: Tokenizer,
    layout: Layout,
    tools: bool,
) -> Row:
    """The prompt of an episode: system, the shown frames with their stamps, question, instruction.

    Args:
        question: with its options, see options.question_text.
        shown: indices into times [T] (seconds) of the frames that the prompt shows.
        tools: whether the prompt offers tools.
    """
    row = Row([], [], [], [])
    opening = _repeated_ids(tokenizer.encode, protocol.prompt_opening(tools))
    _append(row, opening, Role.PROMPT)
    _append_frames(row, shown, times, tokenizer, layout, Role.PROMPT)
    _append(row, question_ids(tokenizer, question, tools), Role.PROMPT)
    return row


def build_episode(
    question: str,
    turns: Sequence[str],
    shown: Sequence[int] | np.ndarray,
    times: np.ndarray,
    duration: float,
    tokenizer: Tokenizer,
    layout: Layout,
    tools: bool,
) -> Row:
    """A whole conversation: the prompt, and each assistant turn with the observation of its call.

    Args:
        question, shown, tools: as of build_prompt.
        turns: each ends in </tool_call>, which an observation follows, or in </answer>.
        times: [T] seconds; duration: seconds.

    Raises:
        UserError: it needs more than layout.length positions: nothing is cut silently.
    """
    row = build_prompt(question, shown, times, tokenizer, layout, tools)
    im_end = tokenizer.tag(protocol.IM_END)
    opening, closing = (
        _repeated_ids(tokenizer.encode, text)
        for text in protocol.observation_frame(layout.response_format)
    )
    for turn in turns:
        _append(row, tokenizer.encode(turn), Role.GENERATED)
        if not turn.endswith(protocol.TOOL_CALL_END):
            _append(row, [im_end], Role.GENERATED)
            break
        _, opened, text = turn[: -len(protocol.TOOL_CALL_END)].rpartition(protocol.TOOL_CALL)
        # Without an opening tag nothing is read, on the device too: that is NOT_JSON.
        call = parse_call(text if opened else "", duration)
        row.calls.append((*call, len(row.tokens) - 1))
        _append(row, opening, Role.OBSERVATION)
        if call.status == CallStatus.OK:
            indices, count = select_frames_host(
                call.tool, call.start, call.end, times, len(times), layout.window_frames
            )
            _append_frames(row, indices[:count], times, tokenizer, layout, Role.OBSERVATION)
        else:
            _append(row, tokenizer.encode(error_text(call.status)), Role.OBSERVATION)
        _append(row, closing, Role.OBSERVATION)
    if len(row.tokens) > layout.length:
        raise UserError(
            f"an episode of {len(row.tokens)} tokens does not fit {layout.length} slots "
            f"(dialogue.length; clip_length for a clip): {question[:60]!r}"
        )
    return row


def pad_row(row: Row | CompactRow, length: int) -> dict[str, np.ndarray]:
    """A row as arrays [length]: tokens, visual_index (-1 padded) and role (PADDING)."""
    count = len(row.tokens)
    arrays = {
        "tokens": np.zeros(length, np.int32),
        "visual_index": np.full(length, -1, np.int32),
        "role": np.zeros(length, np.int32),
    }
    for name, array in arrays.items():
        array[:count] = getattr(row, name)
    return arrays


def generated_text(tokens: np.ndarray, role: np.ndarray, tokenizer: Tokenizer) -> str:
    """The transcript of one row [L]: turns and observations, without prompt and padding.

    Visual tokens give no text, nor does the token that ends the last turn (tokenizer.ends). This is
    what rewards and traces parse.
    """
    image = tokenizer.tag(protocol.IMAGE)
    after_prompt = (role == int(Role.GENERATED)) | (role == int(Role.OBSERVATION))
    ids = tokens[after_prompt & (tokens != image)].tolist()
    if ids and ids[-1] in tokenizer.ends:
        ids.pop()
    return tokenizer.decode(ids)


def turn_texts(tokens: np.ndarray, role: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """The assistant's turns of one row [L], as text, in order."""
    text = ~np.isin(tokens, tokenizer.ends)
    positions = np.flatnonzero((role == int(Role.GENERATED)) & text)
    if not len(positions):
        return []
    # A turn's tokens are consecutive: a gap starts another turn.
    starts = [0, *(np.flatnonzero(np.diff(positions) > 1) + 1).tolist(), len(positions)]
    ids = tokens[positions].tolist()
    return [tokenizer.decode(ids[i:j]) for i, j in itertools.pairwise(starts)]
