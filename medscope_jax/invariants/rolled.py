"""Rollouts of the tiny model on the mesh, and what one device makes of the same episodes."""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.bank import FrameBank, flat_index, make_bank
from medscope_jax.dialogue import Episode, Role, stamp_ids
from medscope_jax.distributed import (
    bank_shardings,
    batch_shardings,
    on_mesh,
    param_shardings,
)
from medscope_jax.distributed.multihost import gather, put, replicate
from medscope_jax.invariants.tiny import Tiny, scripted
from medscope_jax.rollout import (
    RolloutConfig,
    find_special_tokens,
    make_prompts,
    make_rollout,
    prompt_width,
    row_keys,
)
from medscope_jax.training.logprobs import find_targets, token_logprobs
from medscope_jax.training.make_steps import make_encode

_BATCH_FRAMES = 48  # of one call of the tower while the bank is made


class Found(NamedTuple):
    """What a check measured."""

    figure: float
    bound: float  # the most that it may be
    what: str  # the figure is


class Skipped(NamedTuple):
    """Why a check has nothing to look at here."""

    why: str


class Rolled:
    """The tiny model's frame bank and its scripted rollouts, on the mesh; made when asked for."""

    def __init__(self, tiny: Tiny, scratch: Path | None = None):
        """Nothing is computed yet. scratch: a folder that all processes see, see scratch_folder."""
        self.tiny, self.scratch = tiny, scratch

    @functools.cached_property
    def bank(self) -> FrameBank:
        """All videos, on the host."""
        tiny, vision = self.tiny, {"vision": self.tiny.params["vision"]}
        encode = on_mesh(tiny.mesh, make_encode(tiny.model))
        vision = put(vision, param_shardings(vision, tiny.mesh))
        return make_bank(
            lambda frames: gather(encode(vision, frames)),
            tiny.videos,
            functools.partial(stamp_ids, tiny.tokenizer, tiny.layout),
            _BATCH_FRAMES,
        ).padded()

    @functools.cached_property
    def episode(self) -> Episode:
        """Two rollouts a video, on the host."""
        tiny, mesh, count = self.tiny, self.tiny.mesh, len(self.tiny.videos)
        questions, times = [tiny.record] * count, [video.times for video in tiny.videos]
        keys = row_keys(jax.random.key(0), jnp.arange(2 * count))
        width = prompt_width(questions, times, tiny.tokenizer, tiny.layout, True)
        rest = keys.reshape(count, 2), width, tiny.tokenizer, tiny.layout, True
        prompts = make_prompts(questions, range(count), times, *rest)
        config = RolloutConfig(
            group=2, turn_tokens=64, call_tokens=48, prefill_rows=3, temperature=1.0, top_p=1.0
        )
        sampler = scripted(tiny.written(), keys)
        program = make_rollout(mesh, tiny.model, tiny.layout, config, sampler)
        found, _ = program(
            put(tiny.params, param_shardings(tiny.params, mesh)),
            put(self.bank, bank_shardings(self.bank, mesh)),
            put(prompts, batch_shardings(prompts, mesh)),
            replicate(find_special_tokens(tiny.tokenizer, tiny.layout), mesh),
        )
        return gather(found)

    def gap(self, tokens: np.ndarray) -> float:
        """Largest distance of the rollouts' log-probabilities from those of one forward pass over
        the finished episodes on one device, with visual tokens [V * T * S, D]."""
        tiny, episode = self.tiny, self.episode
        # What was looked at shows that the scripts' calls were executed, and what they showed.
        if (episode.tokens * (episode.role != Role.PADDING) != tiny.written()).any():
            return float("inf")
        count = int((episode.role == Role.GENERATED).sum(axis=1).max())
        targets = find_targets(jnp.asarray(episode.role), count)
        video = jnp.arange(len(episode.role)) // 2
        index = flat_index(video, episode.visual_index, len(tokens) // len(tiny.videos))

        @jax.jit
        def score(params, tokens):
            text, role = jnp.asarray(episode.tokens), jnp.asarray(episode.role)
            rest = targets, tiny.layout.grid
            return token_logprobs(params, tiny.model, text, index, role, tokens, *rest)[0]

        recorded = jnp.asarray(episode.logprobs)
        wanted = jnp.take_along_axis(recorded, targets.positions, axis=1)
        gap = jnp.abs(score(tiny.params, tokens) - wanted)
        return float(jnp.max(jnp.where(targets.mask, gap, 0.0)))
