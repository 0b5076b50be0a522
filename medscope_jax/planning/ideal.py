"""The least time of a rollout, from its model's and texts' sizes: no program is looked at.

Every chip works all the time. A question's prompt is prefilled, kept and read once for all of its
rollouts; a decode step reads the weights once for all rollouts of the CELL chips that share a copy
of them, and of keys and values only those that there are.
"""

import dataclasses
import math

from medscope_jax.planning.chips import Chip

CELL = 4  # chips that hold the weights together, and so read a quarter of them each


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Sizes of a text model."""

    width: int
    inner: int  # of the feed-forward layers
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    weight_bytes: float = 2.0  # of a number of the layers' matrices
    head_bytes: float = 2.0  # of a number of the output head's
    cache_bytes: float = 2.0  # of a number of the key-value cache, its scales included

    @property
    def head_dim(self) -> int:
        """Numbers of a head's query, key or value."""
        return self.width // self.heads

    @property
    def body(self) -> int:
        """Numbers of the layers' matrices: query and output, key and value, feed-forward."""
        kv = self.kv_heads * self.head_dim
        each = 2 * self.width**2 + 2 * self.width * kv + 3 * self.width * self.inner
        return self.layers * each

    @property
    def head(self) -> int:
        """Numbers of the output head."""
        return self.vocab * self.width

    @property
    def token_cache(self) -> float:
        """Bytes of one token's keys and values."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.cache_bytes

    @property
    def pair_flops(self) -> int:
        """Operations of a query with one key and its value, in all layers and heads."""
        return 4 * self.layers * self.width


@dataclasses.dataclass(frozen=True)
class Texts:
    """Tokens that a batch of rollouts reads and writes."""

    questions: int
    group: int  # rollouts of a question
    prompt: int
    observation: int
    looks: int  # of a rollout, each between two turns
    turn: int

    @property
    def written(self) -> int:
        """Tokens that a rollout writes."""
        return (self.looks + 1) * self.turn

    @property
    def own(self) -> float:
        """Tokens of a rollout's own, behind the prompt, at its mean decode step."""
        starts = (turn * (self.turn + self.observation) for turn in range(self.looks + 1))
        return sum(start + self.turn / 2 for start in starts) / (self.looks + 1)


@dataclasses.dataclass(frozen=True)
class Least:
    """What a batch of rollouts needs at least, of all chips together but for the bytes."""

    prefill_flops: float
    decode_flops: float
    decode_bytes: float  # that a chip reads from HBM

    def seconds(self, chip: Chip, chips: int) -> float:
        """The prefill's arithmetic, then the slower side of decoding, at a chip's peak rates."""
        prefill = self.prefill_flops / (chips * chip.flops)
        arithmetic = self.decode_flops / (chips * chip.flops)
        return prefill + max(arithmetic, self.decode_bytes / chip.hbm)


def least_of(decoder: Decoder, texts: Texts, chips: int) -> Least:
    """What `texts` need of so many chips."""
    rollouts = texts.questions * texts.group
    read, pairs = texts.questions * texts.prompt, texts.questions * texts.prompt**2 / 2
    for look in range(texts.looks):
        before = texts.prompt + (look + 1) * texts.turn + look * texts.observation
        read += rollouts * texts.observation
        pairs += rollouts * texts.observation * (before + texts.observation / 2)
    seen = texts.prompt + texts.own
    token = 2 * (decoder.body + decoder.head) + decoder.pair_flops * seen
    # Fewer questions than cells: as many chips share the weights as there are for each question.
    cell = min(chips, max(CELL, math.ceil(chips / texts.questions)))
    weights = decoder.body * decoder.weight_bytes + decoder.head * decoder.head_bytes
    kept = texts.questions * (texts.prompt + texts.group * texts.own) * decoder.token_cache
    return Least(
        prefill_flops=read * 2 * decoder.body + pairs * decoder.pair_flops,
        decode_flops=rollouts * texts.written * token,
        decode_bytes=texts.written * (weights / cell + kept / chips),
    )
