"""The agent loop as the peers run it, on the same weights: the host drives every turn.

    until every row is done, for all rows that go on, in one batch:
        tokenize the whole conversation's text again and prefill it into a fresh cache
        generate until </tool_call> or a turn ends, one compiled step a token, driven from the host
        turn the tokens into text; parse the call on the host
        open the recording again, decode the window, encode its frames, show them in the text

It runs in two forms. In the plain one nothing that was seen is kept: at every turn a row's
recording is decoded again from end to end, and all frames of its conversation are encoded again.
With `keep` it is at its best: the preview is there before the clock starts, a frame that a row
has seen is not encoded again, and only the new window is decoded, from its key frame on.

Neither is a straw man otherwise. All rows are one batch of fixed shapes (nothing compiles in a
second run); a round's batch, prefill and cache are only as large as it needs; recordings are
decoded by as many threads as there are cores; the times of all frames are known in advance.
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
from medscope_jax.tools import CallStatus, error_text, parse_call, select_frames_host
from medscope_jax.video import preview_indices

PARTS = ("text", "decode video", "encode", "prefill", "generate")


@dataclasses.dataclass
class Conversation:
    """One row: text, and the visual tokens of the frames that it has been shown."""

    recording: Recording
    text: str
    times: list[float]  # seconds of the frames shown, in reading order
    features: list[np.ndarray]  # their visual tokens [S, D], as far as they are encoded
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
    keep: bool  # whether frames once encoded stay, see above
    encode: Callable = encode_all  # (device, params, windows) -> visual tokens, as encode_all
    generate: Callable | None = None  # (peers, rows, clock) -> steps, in place of the one here


class Stopwatch:
    """Seconds by part."""

    def __init__(self):
        self.seconds: dict[str, float] = collections.defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - begin


def begin(
    peers: Peers, question: str, recording: Recording, preview: Sequence[np.ndarray] = ()
) -> Conversation:
    """A conversation before its first turn; preview: [S, D] of each preview frame, if there are."""
    times = recording.times[preview_indices(len(recording.times), peers.layout.preview_frames)]
    text = protocol.prompt_opening(True) + _frames_text(peers.layout, times)
    text += "".join(part for part, _ in protocol.prompt_closing_parts(question, True))
    return Conversation(recording, text, times.tolist(), list(preview))


def roll_out(peers: Peers, rows: Sequence[Conversation], clock: Stopwatch) -> int:
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
            _see(peers, active, clock, pool)
            steps += (peers.generate or _generate)(peers, active, clock)
            with clock("text"):
                for row in active:
                    if not row.done:
                        _look(peers, row)


def _see(peers: Peers, rows: Sequence[Conversation], clock: Stopwatch, pool) -> None:
    """Decodes and encodes the frames that rows are shown and that have no features (any more)."""
    for row in rows:
        if not peers.keep:
            row.features = []
    blind = [row for row in rows if len(row.features) < len(row.times)]
    with clock("decode video"):
        missing = [np.array(row.times[len(row.features) :]) for row in blind]
        windows = list(pool.map(peers.crop, [row.recording.path for row in blind], missing))
    with clock("encode"):
        seen = peers.encode(peers.device, peers.params, windows)
    for row, features in zip(blind, seen, strict=True):
        row.features = [*row.features, *features]


def _tokenize(peers: Peers, row: Conversation) -> None:
    """The whole conversation's text as tokens, again."""
    ids = peers.tokenizer.encode(row.text)
    row.drifted |= ids[: len(row.ids)] != row.ids
    images = ids.count(peers.tokenizer.tag(protocol.IMAGE))
    row.broken = images != len(row.times) * peers.layout.tokens_per_frame
    row.done = row.broken or len(ids) >= peers.layout.length
    row.ids = ids


def _generate(peers: Peers, rows: Sequence[Conversation], clock: Stopwatch) -> int:
    """One assistant turn of every row, from a fresh prefill; returns the decoding steps."""
    tag, params, most = peers.tokenizer.tag, peers.params, peers.config.turn_tokens
    with clock("prefill"):
        tokens, index, length, features = make_batch(
            [row.ids for row in rows], [row.features for row in rows], tag(protocol.IMAGE)
        )
        slots = min(peers.layout.length, tokens.shape[1] + most)
        state = peers.device.prefill(params, tokens, index, features, length, slots=slots)
        token, cache, position = jax.block_until_ready(state)
    with clock("generate"):
        going = np.arange(len(length)) < len(rows)
        sampled = []
        while True:
            now = np.asarray(token)
            sampled.append(np.where(going, now, -1))
            ended = np.isin(now, (*peers.tokenizer.ends, tag(protocol.TOOL_CALL_END)))
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
            end_turn(peers, row, [int(t) for t in turn if t >= 0])
    return len(sampled) - 1


def end_turn(peers: Peers, row: Conversation, turn: list[int]) -> None:
    """Appends a turn as text; the row goes on only where it made a call that may be executed."""
    row.ids = row.ids + turn
    row.text += peers.tokenizer.decode(turn)
    row.sampled += len(turn)
    full = len(row.ids) >= peers.layout.length or len(turn) >= peers.config.turn_tokens
    called = turn[-1] == peers.tokenizer.tag(protocol.TOOL_CALL_END)
    row.done = full or not called or row.turns >= peers.layout.max_tool_turns


def _look(peers: Peers, row: Conversation) -> None:
    """Parses the call that ends the row's text and shows its window, or says what is wrong.

    A row without room for that and an answer ends instead.
    """
    turn = row.text.rpartition(f"{protocol.IM_START}assistant\n")[2]
    _, mark, text = turn.removesuffix(protocol.TOOL_CALL_END).rpartition(protocol.TOOL_CALL)
    readable = mark and len(peers.tokenizer.encode(text)) <= peers.config.call_tokens
    call = parse_call(text if readable else "", row.recording.duration)
    times, content = [], error_text(call.status)
    if call.status == CallStatus.OK:
        known = row.recording.times
        indices, count = select_frames_host(
            call.tool, call.start, call.end, known, len(known), peers.layout.window_frames
        )
        times = known[indices[:count]].tolist()
        content = _frames_text(peers.layout, times)
    shown = content.join(protocol.observation_frame(peers.layout.response_format))
    row.turns += 1
    if len(row.ids) + len(peers.tokenizer.encode(shown)) >= peers.layout.length:
        row.done = True
        return
    row.text += shown
    row.times += times


def _frames_text(layout: Layout, times: Sequence[float]) -> str:
    images = protocol.IMAGE * layout.tokens_per_frame
    return "".join(layout.frame_format.format(time=float(t), frame=images) for t in times)
