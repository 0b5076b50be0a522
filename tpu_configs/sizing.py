"""How a published size is cut for a slice: arithmetic before anything is compiled.

A chip holds its part of the weights and of what trains, what a batch's rows see, and what is kept
for the backward pass of the rows that pass the model at once: each layer's input. The compiler's
other temporaries are in proportion to the latter, and some. `plan` compiles what comes out;
docs/tpus.md has the table.
"""

import dataclasses
import math
from typing import NamedTuple

from medscope_jax.models import ModelConfig, count_params

BATCH = 128  # conversations of a supervised step
QUESTIONS = 64  # of a step of stage 3
PATCHES, TOKENS = 256, 64  # of a pair of frames of 224x224 pixels
FRAME_BYTES = 2 * 224 * 224 * 3
MAX_FRAMES = 1800  # pairs of a bank: an hour at 1 frame a second
GROUP = 8  # rollouts of a question
# Conversations that a packed row of the paper's stages 1 and 2, and of the baseline beside, holds,
# by the mean lengths of the paper's sources (benchmarks/paper_lengths.py).
SUPERVISED = {"warm_up": 4, "cold_start": 6, "passive": 6}
_TEMPORARIES = 2.5  # bytes that training needs of a chip, for each that it keeps of its rows
_OTHERS = 1.25 * 2**30  # and beside
_FILLED = 0.9  # share of a chip that arithmetic may fill
_BANK, _CACHES = 0.2, 0.4  # shares of a chip for stage 3's videos, and for its rollouts' caches
_FRAME = TOKENS + 12  # positions of a pair: its tokens, and its time digit by digit in tags


class View(NamedTuple):
    """What a conversation shows, in pairs of frames, and how long it may become."""

    preview: int
    window: int
    length: int

    @property
    def prompt(self) -> int:
        """Positions of a prompt: the preview and words."""
        return self.preview * _FRAME + 600

    @property
    def piece(self) -> int:
        """Tokens that are prefilled at once: half an observation, so that the weights are read
        seldom and little is padding."""
        return -(-self.window * _FRAME // 256) * 128

    @property
    def packed(self) -> int:
        """Positions of a packed group: a prompt, and what follows it in each rollout."""
        return self.prompt + GROUP * (self.length - self.prompt)


# The paper's, and what one GPU holds: two looks that are as long, two looks half as long.
VIEWS = (View(256, 64, 32_768), View(128, 64, 20_480), View(64, 32, 10_240))
CLIP_LENGTH = 6_144  # a window and its words


class Sizes(NamedTuple):
    """What a config takes from here."""

    view: View
    tensor: int  # mesh axes; fsdp is the rest
    context: int
    batch: dict[str, int]  # rows of a step, by supervised stage
    rows: dict[str, int]  # of one pass
    questions: int
    slots: int
    rollout_tensor: int  # of rollouts; 0: as in training


@dataclasses.dataclass(frozen=True)
class Cut:
    """A model on a slice whose chips are split over tensor, context and, the rest, fsdp.

    memory: bytes that a program may use of a chip; slices: copies of the weights; packed: whether
    rows hold several conversations.
    """

    model: ModelConfig
    memory: int
    full: bool
    packed: bool
    chips: int
    slices: int
    tensor: int
    context: int

    @property
    def fsdp(self) -> int:
        """Parts of the weights."""
        return self.chips // self.slices // self.tensor // self.context

    @property
    def shards(self) -> int:
        """Parts of a batch's rows."""
        return self.slices * self.fsdp

    def weights(self, stage: str) -> float:
        """Bytes of weights; of what trains, gradients and two moments, too, all in float32. A
        tower's attention is not split over tensor."""
        tower = 0.68e9  # parameters, of both sizes
        base = count_params(self.model) * (16 if self.full else 2) / self.fsdp / self.tensor
        trains = stage == "warm_up" and not self.full
        return base + trains * 16 * tower / self.fsdp * (0.3 + 0.7 / self.tensor)

    def needs(self, positions: int, pairs: int = 0) -> float:
        """Bytes that rows of so many positions in all need, whose pairs of frames a tower that
        trains encodes."""
        text, vision = self.model.text, self.model.vision
        kept = positions * text.hidden_size * 2 * text.num_hidden_layers
        kept += pairs * PATCHES * vision.hidden_size * 2 * vision.depth
        return _TEMPORARIES * kept / self.tensor / self.context

    def clip(self, view: View) -> int:
        """Pairs of frames that a row of stage 1 brings: a packed one as many as it has room for."""
        return CLIP_LENGTH // TOKENS if self.packed else view.window

    def batch(self, stage: str) -> int:
        """Rows of a supervised step: BATCH conversations, but a row a shard at least."""
        size, each = BATCH, SUPERVISED[stage] if self.packed else 1
        while size // 2 * each >= BATCH and size > self.shards:
            size //= 2
        return size

    def beside(self, stage: str, view: View) -> float:
        """Bytes beside a pass: weights and what trains, what the batch's rows see, and others."""
        if stage == "ga_grpo":
            seen = self.bank(self.questions)
        elif stage == "warm_up":
            seen = self.split(self.batch(stage) * self.clip(view) * FRAME_BYTES)
        else:
            tokens = self.batch(stage) * view.length
            seen = self.split(tokens * self.model.text.hidden_size * 2)
        return self.weights(stage) + seen + _OTHERS

    def bank(self, questions: int) -> float:
        """Bytes of the videos of so many questions."""
        video = MAX_FRAMES * TOKENS * self.model.text.hidden_size * 2
        return self.split(questions * video)

    def split(self, size: float) -> float:
        """Bytes that a chip holds of so many that lie on the slice but once."""
        return size / self.shards / self.context

    def row(self, stage: str, view: View) -> float:
        """Bytes that a pass needs for each of a shard's rows; for a packed group in stage 3."""
        if stage == "warm_up":
            return self.needs(CLIP_LENGTH, self.clip(view))
        return self.needs(view.packed if stage == "ga_grpo" else view.length)

    def takes(self, view: View) -> bool:
        """Whether a step of each stage fits that takes one row, or group, a shard at a time."""
        stages = (*SUPERVISED, "ga_grpo")
        most = max(self.beside(stage, view) + self.row(stage, view) for stage in stages)
        return most <= _FILLED * self.memory

    @property
    def questions(self) -> int:
        """Of a step: as many as their share of a chip holds the videos of, one a shard at least."""
        fits = (n for n in (64, 32, 16, 8, 4, 2, 1) if self.bank(n) <= _BANK * self.memory)
        return max(self.shards, next(fits, 1))

    def rows(self, stage: str, view: View) -> int:
        """Rows of one pass: a power of two a shard, as many as fit, up to a batch."""
        fits = (_FILLED * self.memory - self.beside(stage, view)) / self.row(stage, view)
        most = min(fits, self.batch(stage) / self.shards)
        return self.shards * 2 ** int(math.log2(max(1.0, most)))

    def slots(self, view: View) -> int:
        """Rows that a chip rolls out at once: a power of two, whose caches have their share beside
        those of the prompts that they begin with."""
        text = self.model.text
        position = 4 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
        position /= self.tensor
        prompts = math.ceil(self.questions / self.shards) * view.prompt * position
        own = (view.length - view.prompt) * position
        return 2 ** int(math.log2(max(1.0, (_CACHES * self.memory - prompts) / own)))

    def heads(self, slots: int) -> int:
        """Parts of the heads in rollouts, if they are more than in training: chips along context
        take part in a question's rollouts together, where all of these have a slot, in place of
        some rollouts each, for which each would read all of its weights."""
        parts = self.tensor * self.context
        fits = self.questions * GROUP <= slots * self.shards
        whole = self.model.text.num_attention_heads % parts == 0
        return parts if self.context > 1 and fits and whole else 0


def cut(
    model: ModelConfig, memory: int, full: bool, packed: bool, chips: int, slices: int
) -> Sizes:
    """The Sizes of a model for `chips` in all, of so many slices; the others: see Cut.

    Heads are split as far as the key-value heads allow. A row's positions are split into as few
    parts as it takes, for a packed group to fit and for a batch of questions to split over the
    rest; where no number of parts is enough, a conversation shows less. What fits nowhere gets the
    smallest sizes, for `plan` to say by how much they are too large.
    """
    tensor = math.gcd(model.text.num_key_value_heads, chips // slices, 4)
    inside = chips // slices // tensor
    parts = [2**n for n in range(inside.bit_length()) if inside % 2**n == 0]
    tried = [Cut(model, memory, full, packed, chips, slices, tensor, n) for n in parts]
    tried = [one for one in tried if one.shards <= QUESTIONS] or tried[-1:]
    found = ((view, one) for view in VIEWS for one in tried if one.takes(view))
    view, one = next(found, (VIEWS[-1], tried[-1]))
    batch = {stage: one.batch(stage) for stage in SUPERVISED}
    rows = {stage: one.rows(stage, view) for stage in SUPERVISED}
    slots = one.slots(view)
    return Sizes(view, tensor, one.context, batch, rows, one.questions, slots, one.heads(slots))
