"""What a rollout reads, and what it carries from step to step.

    request      0 1 2 3 4 ...       question * group + sample: one rollout, one row of the episode
    batch slot   [2] [5] [3] [4]     a row of the batch that decodes, with one request at a time

What is kept of a request is written to its own row of the episode. A batch slot holds what only
the next token needs: keys and values of what follows the prompt, a hidden state and how far the row
is. The prompt's own keys and values are in the prefix cache, once for all rollouts of a question.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from medscope_jax.bank import FrameBank
from medscope_jax.dialogue import CallRecord, Episode, Layout, Role
from medscope_jax.models import Cache, ModelConfig, init_cache, mrope_positions
from medscope_jax.models.attention.dispatch import cached_length
from medscope_jax.rollout.observation import SpecialTokens

WRITING, WAITING, DONE = 0, 1, 2  # of a batch slot; DONE also where it has no request
_FEW_LAYERS = 12  # layers that are compiled one by one


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """Static facts of a rollout program."""

    group: int  # rollouts of each question
    turn_tokens: int  # most tokens of an assistant turn; a longer turn ends its row
    call_tokens: int  # most tokens of a call's text; a longer one is NOT_JSON
    prefill_rows: int  # most observations, or prompts, that are prefilled together
    temperature: float  # 0: greedy
    top_p: float
    slots: int = 0  # batch slots of each device's part; 0: one for each request
    prefill_tokens: int = 0  # of a row in one chunk; 0: a whole prompt or observation
    kv_dtype: str = ""  # of the key-value cache: "" for the model's, or "int8"
    weights_dtype: str = ""  # of the decoder's kernels: "" for the trained ones', or "int8"
    tensor: int = 0  # parts of the heads, see placement.rollout_mesh; 0: as the weights come


class Prompts(struct.PyTreeNode):
    """P questions, each with its video. Row i's rollouts are rows i * group .. of the episode."""

    tokens: jax.Array  # [P, N] int32
    visual_index: jax.Array  # [P, N] int32, of the video's visual tokens; -1: text
    length: jax.Array  # [P] int32 real tokens, the rest is padding
    video: jax.Array  # [P] int32 row of the bank
    keys: jax.Array  # [P, group] random keys, one a rollout
    least: int = struct.field(pytree_node=False, default=0)  # tokens that each has or more


@dataclasses.dataclass(frozen=True)
class RolloutInputs:
    """What a rollout reads and never writes."""

    params: dict
    bank: FrameBank
    flat: jax.Array | np.ndarray  # [V * T * S, D] the bank's visual tokens, one a row
    prompts: Prompts
    special_tokens: SpecialTokens
    model: ModelConfig
    layout: Layout
    config: RolloutConfig
    sampler: (
        Callable  # (scores [S, V], keys [S], position [S], temperature, top_p) as sampling.sample
    )

    @property
    def requests(self) -> int:
        """Rollouts, I = P * group."""
        return self.prompts.length.shape[0] * self.config.group

    @property
    def slots(self) -> int:
        """Batch slots, at most one for each request."""
        return min(self.config.slots or self.requests, self.requests)

    @property
    def prefilled_prompts(self) -> int:
        """Prompts that are prefilled together where there are fewer slots than requests."""
        return max(1, min(self.slots // self.config.group, self.config.prefill_rows))

    @property
    def cached_prompts(self) -> int:
        """Prompts that the prefix cache then holds: those that the slots work on when each takes
        the next request, the next ones, and a few that are kept for rollouts which take longer."""
        return min(-(-self.slots // self.config.group) + 2, self.slots) + self.prefilled_prompts

    def video(self, request: jax.Array) -> jax.Array:
        """The bank's row of each request's video."""
        return self.prompts.video[request // self.config.group]

    @property
    def own_length(self) -> int:
        """Positions behind its prompt that a row may have."""
        return self.layout.length - self.prompts.least

    def empty_cache(self, rows: int, length: int) -> Cache:
        """A cache of so many rows, each of `length` positions or some more."""
        length = cached_length(length, self.model)
        # With one array a layer, a decode step updates each in place, but each is compiled.
        few = self.model.text.num_hidden_layers <= _FEW_LAYERS
        return init_cache(self.model, rows, length, per_layer=few, dtype=self.config.kv_dtype)


class Prefilled(struct.PyTreeNode):
    """Where the rollouts of Q questions start, whose prompts are in the Q rows of the prefix
    cache."""

    hidden: jax.Array  # [Q, D] after the prompt's last token
    position: jax.Array  # [Q] the M-RoPE position that follows
    question: jax.Array  # [Q] in each row; -1: none


class State(struct.PyTreeNode):
    """The loop's carry: I requests, S batch slots, rows of L positions."""

    episode: Episode  # I rows
    cache: Cache | None  # S rows, with the prefix cache; None before a rollout's first prefill
    prefilled: Prefilled | None  # None where every request has a slot of its own
    request: jax.Array  # [S] that each slot works on, or worked on last
    hidden: jax.Array  # [S, D] after the last position, from which the next token is sampled
    length: jax.Array  # [S] filled positions
    position: jax.Array  # [S] next M-RoPE position
    phase: jax.Array  # [S] WRITING, WAITING or DONE
    turn: jax.Array  # [S] calls made so far
    turn_start: jax.Array  # [S] position in the row where the current turn began
    call_start: jax.Array  # [S] position after the turn's last <tool_call>; 0 if there is none
    admitted: jax.Array  # [] requests that were given a slot; they go in order
    decode_steps: jax.Array  # [] decode iterations so far
    decoded: jax.Array  # [] tokens that they produced
    observation_prefills: jax.Array  # [] times that observations were prefilled


def written_prompts(inputs: RolloutInputs) -> Episode:
    """The episode of all requests [I, L] that holds their prompts alone."""
    prompts, group, length = inputs.prompts, inputs.config.group, inputs.layout.length
    count, width = prompts.tokens.shape
    valid = jnp.arange(width) < prompts.length[:, None]
    zeros = jnp.zeros_like(prompts.length)
    positions, _ = mrope_positions(prompts.visual_index, valid, inputs.layout.grid, zeros)

    def rows(array, axis=0, fill=0):
        """[.., P, N] to [.., I, L]."""
        pads = [(0, 0)] * array.ndim
        pads[-1] = (0, length - width)
        return jnp.repeat(jnp.pad(array, pads, constant_values=fill), group, axis=axis)

    role = jnp.where(valid, int(Role.PROMPT), int(Role.PADDING))
    none = jnp.full((inputs.requests, inputs.layout.max_tool_turns), -1, jnp.int32)
    return Episode(
        tokens=rows(jnp.where(valid, prompts.tokens, 0)),
        visual_index=rows(jnp.where(valid, prompts.visual_index, -1), fill=-1),
        role=rows(role.astype(jnp.int32)),
        positions=rows(jnp.where(valid, positions, 0), axis=1),
        logprobs=jnp.zeros((inputs.requests, length), jnp.float32),
        calls=CallRecord(none * 0, none * 0.0, none * 0.0, none, none),
    )


def empty_batch(inputs: RolloutInputs) -> State:
    """The state in which no request is admitted."""
    none = jnp.zeros((inputs.slots,), jnp.int32)
    zero = jnp.int32(0)
    return State(
        episode=written_prompts(inputs),
        cache=None,
        prefilled=None,
        request=none,
        hidden=jnp.zeros((inputs.slots, inputs.model.text.hidden_size), inputs.model.dtype),
        length=none,
        position=none,
        phase=none + DONE,
        turn=none,
        turn_start=none,
        call_start=none,
        admitted=zero,
        decode_steps=zero,
        decoded=zero,
        observation_prefills=zero,
    )
