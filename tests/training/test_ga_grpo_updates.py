"""Several updates on one batch of rollouts: ratios go by what was recorded while sampling."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medscope_jax import models
from medscope_jax.dialogue import Role
from medscope_jax.rl import LossConfig
from medscope_jax.training.packing import Packing
from medscope_jax.training.steps import ga_grpo_step
from medscope_jax.training.train_state import init_state, kl_reference, stage_params
from tests.training import step_cases as cases

ROWS, TEMPERATURE, KL = 8, 0.7, 0.5
LORA = models.LoraConfig(rank=4, alpha=6.0, base="float32")
MODEL = dataclasses.replace(cases.MODEL, lora=LORA)
LOSS = LossConfig(clip_low=0.2, clip_high=0.28, dual_clip=3.0)


def logprobs_of(weights, batch, bank):
    """[B, L] from plain weights, without the step's packing."""
    zeros = np.zeros(batch["role"].shape, np.float32)
    return np.asarray(
        cases.pull_back(weights, cases.flat(batch), bank, zeros, TEMPERATURE)[0], np.float64
    )


def test_the_second_update_compares_with_the_sampler_and_with_the_base():
    """Of the policy after the first update, by NumPy: ratios, both clips, gaps; KL to the base.

    The recorded log-probabilities differ a little from the first policy's own, so that recomputed
    ones would show.
    """
    random = np.random.default_rng(3)
    begin = stage_params(
        jax.tree.map(jnp.asarray, cases.params()),
        MODEL,
        {"lora": True, "train_vision": False},
        jax.random.key(0),
    )
    base, adapters = models.split_lora(begin)
    grown = jax.tree.map(lambda x: jnp.asarray(random.normal(0, 0.2, x.shape), x.dtype), adapters)
    begin = models.join_params(begin, grown)
    reference = kl_reference(begin, {"kl_coefficient": KL, "kl_reference": "base"})
    assert reference == {}  # the model with its adapters off: no second copy

    batch, bank = cases.batch(ROWS), cases.bank(ROWS)
    generated = batch["role"] == Role.GENERATED
    first = logprobs_of(models.merge_lora(begin, MODEL), batch, bank)
    recorded = (first + random.normal(0, 0.02, first.shape)).astype(np.float32)
    advantages = random.normal(size=ROWS).astype(np.float32)
    step = functools.partial(
        ga_grpo_step,
        model=MODEL,
        optimizer=optax.sgd(0.3),
        grid=cases.GRID,
        size=Packing(group=1, prompt=16, rest=cases.LENGTH),
        targets=10,
        loss=LOSS,
        temperature=TEMPERATURE,
        kl_coefficient=KL,
        micro_batch=4,
    )
    step = jax.jit(step, compiler_options={"xla_llvm_disable_expensive_passes": True})
    state = init_state(begin, optax.sgd(0.3), jax.random.key(5), False)
    anchor = logprobs_of(base, batch, bank)[generated]
    weights = np.repeat(advantages, generated.sum(1)).astype(np.float64)
    seen = []
    for _ in range(2):
        now = logprobs_of(models.merge_lora(state.params, MODEL), batch, bank)[generated]
        state, metrics = step(state, cases.episode(batch, recorded), advantages, bank, reference)
        moved = now - recorded[generated]
        ratio = np.exp(moved)
        plain, clipped = -weights * ratio, -weights * np.clip(ratio, 0.8, 1.28)
        worst = np.maximum(plain, clipped)
        bound = np.where(weights < 0, -weights * 3.0, np.inf)
        kl = np.mean(np.expm1(anchor - now) - (anchor - now))
        wanted = {
            "policy_loss": np.minimum(worst, bound).mean() + KL * kl,
            "kl": kl,
            "ratio_mean": ratio.mean(),
            "ratio_max": ratio.max(),
            "clip_fraction": np.mean(clipped > plain),
            "dual_clip_fraction": np.mean(worst > bound),
            "approx_kl": -moved.mean(),
            "logprob_gap_mean": np.abs(moved).mean(),
            "logprob_gap_max": np.abs(moved).max(),
        }
        for name, value in wanted.items():
            np.testing.assert_allclose(metrics[name], value, rtol=2e-4, atol=1e-5, err_msg=name)
        seen.append(wanted)
    # The first update stays near what was sampled; the second has left it, and is clipped.
    assert seen[0]["logprob_gap_max"] < 0.1 and seen[0]["clip_fraction"] == 0
    assert seen[1]["logprob_gap_mean"] > 0.1 and seen[1]["clip_fraction"] > 0
    assert seen[1]["kl"] > 0.01
    np.testing.assert_array_equal(
        state.params["text"]["embed_tokens"], cases.params()["text"]["embed_tokens"]
    )
