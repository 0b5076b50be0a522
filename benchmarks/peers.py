"""The agent loop as the peers run it, on the same weights: the host drives every turn.

    until every row is done, for all rows that go on, in one batch:
        tokenize the whole conversation's text again and prefill it into a fresh cache
        generate until </tool_call> or <|im_end|>, one compiled step a token, driven from the host
        turn the tokens into text; parse the call on the host
        open the recording again, decode the window, encode its frames, append them to the text

It is no straw man. All rows are one batch of fixed shapes (nothing compiles in the second run); a
round's batch, prefill and cache are only as large as it needs; recordings are decoded by as many
threads as there are cores, and from the window's key frame on only; a frame that a row has seen is
not encoded again in its later turns; and the times of all frames are known in advance.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from benchmarks.peers_device import Device, encode_all, make_batch
from benchmarks.peers_video import Recording
from medscope_jax.dialogue import Layout, Tokenizer, protocol
from medscope_jax.rollout import RolloutConfig
from medscope_jax.tools import Call, CallStatus, error_text, parse_call, select_frames_host
from medscope_jax.video import preview_indices

PARTS = ("text", "decode video", "encode", "prefill", "generate")


@dataclasses.dataclass
class Conversation:
    """One row: text, and the visual tokens of the frames that it has been shown."""

    recording: Recording
    text: str
    features: list[np.ndarray]  # a [S, D] each frame, in reading order
    ids: list[int] = dataclasses.field(default_factory=list)  # as last tokenized, then sampled
    sampled: int = 0  # tokens generated so far
    turns: int = 0  # calls made so far
    done: bool = False
    drifted: bool = False  # tokenizing its text again gave other tokens than it was made of
    broken: bool = False  # and even another number of visual tokens, which ended it


@dataclasses.dataclass(frozen=True)
class Peers:
    """What does not change from round to round."""

    params: dict
    device: Device
    layout: Layout
    config: RolloutConfig
    tokenizer: Tokenizer
    crop: Callable  # (path, times [F]) -> uint8 [F, H, W, 3]
    threads: int  # that decode recordings


class Clock:
    """Seconds by part."""

    def __init__(self):
        self.seconds: dict[str, float] = collections.defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - begin


def begin(peers: Peers, question: str, recording: Recording, preview: np.ndarray) -> Conversation:
    """A conversation before its first turn; preview: [F, S, D] of its preview frames."""
    shown = preview_indices(len(recording.times), peers.layout.preview_frames)
    text = protocol.prompt_opening(True) + _frames_text(peers.layout, recording.times[shown])
    text += protocol.prompt_closing(question, True)
    return Conversation(recording, text, list(preview))


def roll_out(peers: Peers, rows: Sequence[Conversation], clock: Clock) -> int:
    """Runs all conversations to their end, in place and greedily; returns the decoding steps."""
    steps = 0
    with concurrent.futures.ThreadPoolExecutor(peers.threads) as pool:
        while True:
            with clock("text"):
                for row in rows:
                    if not row.done:
                        _tokenize(peers, row)
                active = [row for row in rows if not row.done]
            if not active:
                return steps
            steps += _generate(peers, active, clock)
            with clock("text"):
                looking = [row for row in active if not row.done]
                calls = [_read_call(peers, row) for row in looking]
                wanted = [_wanted(peers, r, c) for r, c in zip(looking, calls, strict=True)]
                good = [i for i, times in enumerate(wanted) if len(times)]
            with clock("decode video"):
                paths = [looking[i].recording.path for i in good]
                windows = list(pool.map(peers.crop, paths, [wanted[i] for i in good]))
            with clock("encode"):
                seen = dict(zip(good, encode_all(peers.device, peers.params, windows), strict=True))
            with clock("text"):
                for i, (row, call) in enumerate(zip(looking, calls, strict=True)):
                    _observe(peers, row, call, wanted[i], seen.get(i, ()))


def _tokenize(peers: Peers, row: Conversation) -> None:
    """The whole conversation's text as tokens, again."""
    ids = peers.tokenizer.encode(row.text)
    row.drifted |= ids[: len(row.ids)] != row.ids
    images = ids.count(peers.tokenizer.tag(protocol.IMAGE))
    row.broken = images != len(row.features) * peers.layout.tokens_per_frame
    row.done = row.broken or len(ids) >= peers.layout.length
    row.ids = ids


def _generate(peers: Peers, rows: Sequence[Conversation], clock: Clock) -> int:
    """One assistant turn of every row, from a fresh prefill; returns the decoding steps."""
    tag, params, most = peers.tokenizer.tag, peers.params, peers.config.turn_tokens
    with clock("prefill"):
        tokens, frame, length, features = make_batch(
            [row.ids for row in rows], [row.features for row in rows], tag(protocol.IMAGE)
        )
        slots = min(peers.layout.length, tokens.shape[1] + most)
        state = peers.device.prefill(params, tokens, frame, features, length, slots=slots)
        token, cache, position = jax.block_until_ready(state)
    with clock("generate"):
        going = np.arange(len(length)) < len(rows)
        sampled = []
        while True:
            now = np.asarray(token)
            sampled.append(np.where(going, now, -1))
            ended = (now == tag(protocol.IM_END)) | (now == tag(protocol.TOOL_CALL_END))
            full = length + len(sampled) >= peers.layout.length
            going &= ~ended & ~full & (len(sampled) < most)
            if not going.any():
                break
            start = length + np.int32(len(sampled) - 1)
            token, cache, position = peers.device.step(
                params, token, cache, start, position, going.astype(np.int32)
            )
    with clock("text"):
        for row, turn in zip(rows, np.stack(sampled, axis=1), strict=False):
            _end_turn(peers, row, [int(t) for t in turn if t >= 0])
    return len(sampled) - 1


def _end_turn(peers: Peers, row: Conversation, turn: list[int]) -> None:
    """Appends a turn as text; the row goes on only where it made a call that may be executed."""
    row.ids = row.ids + turn
    row.text += peers.tokenizer.decode(turn)
    row.sampled += len(turn)
    full = len(row.ids) >= peers.layout.length or len(turn) >= peers.config.turn_tokens
    called = turn[-1] == peers.tokenizer.tag(protocol.TOOL_CALL_END)
    row.done = full or not called or row.turns >= peers.layout.max_tool_turns


def _read_call(peers: Peers, row: Conversation) -> Call:
    """The call that ends the row's text."""
    turn = row.text.rpartition(f"{protocol.IM_START}assistant\n")[2]
    before, mark, text = turn.removesuffix(protocol.TOOL_CALL_END).rpartition(protocol.TOOL_CALL)
    readable = mark and len(peers.tokenizer.encode(text)) <= peers.config.call_tokens
    return parse_call(text if readable else "", row.recording.duration)


def _wanted(peers: Peers, row: Conversation, call: Call) -> np.ndarray:
    """Times of the frames that a call shows, seconds; none where it failed."""
    times = row.recording.times
    indices, count = select_frames_host(
        call.tool, call.start, call.end, times, len(times), peers.layout.window_frames
    )
    return times[indices[: count if call.status == CallStatus.OK else 0]]


def _observe(peers: Peers, row: Conversation, call: Call, times, features) -> None:
    """Appends what a call brought back; a row without room for it and an answer ends instead."""
    good = call.status == CallStatus.OK
    content = _frames_text(peers.layout, times) if good else error_text(call.status)
    text = protocol.OBSERVATION_OPENING + content + protocol.OBSERVATION_CLOSING
    row.turns += 1
    if len(row.ids) + len(peers.tokenizer.encode(text)) >= peers.layout.length:
        row.done = True
        return
    row.text += text
    row.features.extend(features)


def _frames_text(layout: Layout, times: Sequence[float]) -> str:
    images = protocol.IMAGE * layout.tokens_per_frame
    return "".join(layout.frame_format.format(time=float(t), frame=images) for t in times)
