"""Stage 3, GA-GRPO: roll out, reward, update."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.bank import flat_tokens, put_videos
from medscope_jax.data.batches import make_batches
from medscope_jax.dialogue import Role
from medscope_jax.distributed import bank_shardings, batch_shardings, on_mesh
from medscope_jax.distributed.multihost import addressable_copy, put
from medscope_jax.rl import (
    AdvantageConfig,
    Judge,
    RewardConfig,
    fidelity,
    grounding_aware_advantages,
    judge_note,
)
from medscope_jax.training.groups import Groups, summarize
from medscope_jax.training.guard import stop_if_not_finite
from medscope_jax.training.lag import Lookahead, make_lagging, step_key
from medscope_jax.training.make_steps import make_ga_grpo_step
from medscope_jax.training.packing import few_sizes, measure_packing
from medscope_jax.training.rollout_batch import (
    DynamicBatch,
    Roller,
    RolloutBatch,
    dynamic_sampling,
    make_roller,
    roll,
)
from medscope_jax.training.run import Run, VideoSplit, load_records
from medscope_jax.training.split_bank import split_bank
from medscope_jax.training.stage import Batches, Update
from medscope_jax.training.train_state import (
    TrainState,
    kl_reference,
    trained,
    updates_of,
)


def prepare_ga_grpo(
    run: Run, split: VideoSplit, judge: Judge, params: dict
) -> tuple[Batches, Update]:
    """Batches of questions, and the update: rollouts, rewards, advantages, policy step."""
    config = run.config
    records = load_records(run, "rl", "train")
    group = config.rl.group_size
    bank = split_bank(run, params, split, "ga_grpo")
    roller = make_roller(run, split, records, bank, judge)
    rewards = RewardConfig(**config.reward)
    modulation = AdvantageConfig(**config.advantage)

    @jax.jit
    def advantage(rewards, fidelity, valid, sources):
        return grounding_aware_advantages(rewards, fidelity, valid, modulation, sources)

    compiled = on_mesh(run.mesh, make_ga_grpo_step(config, run.model, run.mesh, run.layout))
    reference = jax.tree.map(jnp.copy, kl_reference(params, config.rl))
    batches: Batches = make_batches(
        range(len(records)),
        lambda row: {"row": np.int32(row)},
        config.ga_grpo.batch_size,
        seed=config.seed,
    )

    if config.rl.lag:
        batches = Lookahead(batches)
        draw = make_lagging(roller, batches, updates_of(config, "ga_grpo"), config.rl.updates)
    else:
        draw = _make_on_policy(roller, batches, config.rl.resample)

    def update(state, batch):
        drawn = draw(state, batch["row"])
        begin, groups = time.monotonic(), drawn.groups
        before = None
        if config.rl.lag:
            before = jax.tree.map(jnp.copy, trained(state.params, train_vision=False))
            state = state.replace(sampler=None)
        numbers = np.zeros(len(groups.rows), np.int32)
        if modulation.per_source:
            sources = [records[row]["source"] for row in groups.rows]
            numbers = np.unique(sources, return_inverse=True)[1].astype(np.int32)
        known = *fidelities(groups, rewards), numbers
        found = np.asarray(advantage(groups.totals, *known)).reshape(-1)
        advantages = put(found, batch_shardings(found, run.mesh))
        flat = flat_tokens(put_videos(bank, groups.places, run.mesh, bank_shardings))
        episode = put(groups.episode, batch_shardings(groups.episode, run.mesh))
        role = np.asarray(groups.episode.role)
        sizes = {
            "size": measure_packing(role, group, roller.width),
            "targets": most_generated(role),
        }
        gap: dict[str, jax.Array] = {}
        for _ in range(config.rl.updates):
            state, metrics = compiled(state, episode, advantages, flat, reference, **sizes)
            # Only before the first update does the trainer score with the sampler's weights.
            gap = gap or {name: metrics[name] for name in metrics if name.startswith("logprob_gap")}
        state = state.replace(sampler=before)
        stop_if_not_finite(state, "ga_grpo", run.folder, lambda: rollout_arrays(groups, found))
        seconds = {"seconds_update": time.monotonic() - begin}
        note = {"judge": judge_note(config.judge)}
        return state, {**metrics, **gap, **summary_of(drawn), **note, **seconds}

    return batches, update


def _make_on_policy(
    roller: Roller, batches: Batches, resample: int
) -> Callable[[TrainState, np.ndarray], DynamicBatch]:
    """The function that gives a step its rollouts, by the state's own parameters."""

    def more() -> np.ndarray:
        return next(batches)["row"]

    def draw(state: TrainState, rows: np.ndarray) -> DynamicBatch:
        key = step_key(state.key, int(addressable_copy(state.step)))

        def rolled(number: int, rows: np.ndarray) -> RolloutBatch:
            return roll(roller, state.params, rows, key, number * len(rows))

        return dynamic_sampling(rolled, rows, more, resample)

    return draw


def fidelities(groups: Groups, config: RewardConfig) -> tuple[np.ndarray, np.ndarray]:
    """Evidence fidelity of each rollout and whether it is known, both [P, G]."""
    pairs = [fidelity(reward, config) for reward in groups.scored]
    value = np.array([v for v, _ in pairs], np.float32).reshape(groups.totals.shape)
    valid = np.array([v for _, v in pairs]).reshape(groups.totals.shape)
    return value, valid


def most_generated(role: np.ndarray, step: int = 16) -> int:
    """The most generated tokens that a row of roles [B, L] has, rounded up (see few_sizes)."""
    most = int(np.max(np.sum(role == Role.GENERATED, axis=1)))
    return min(few_sizes(most, step), role.shape[1])


def summary_of(drawn: DynamicBatch) -> dict[str, float]:
    """What to log of a step's rollouts, of the batch that was made of them, and of the time."""
    batches = drawn.batches
    return {
        **summarize([rolled.groups for rolled in batches]),
        "groups_without_signal": float(np.mean(~drawn.groups.signal)),
        "groups_replaced": drawn.replaced,
        "batches_drawn": len(batches),
        "unscored": sum(rolled.unscored for rolled in batches),
        **{name: sum(r.work[name] for r in batches) for name in batches[0].work},
        **{name: sum(r.seconds[name] for r in batches) for name in batches[0].seconds},
    }


def rollout_arrays(groups: Groups, advantages: np.ndarray) -> dict[str, np.ndarray]:
    """A batch of rollouts as arrays, to look into: what was sampled, and how it was rewarded."""
    episode = groups.episode
    return {
        "row": groups.rows,
        "tokens": np.asarray(episode.tokens),
        "visual_index": np.asarray(episode.visual_index),
        "role": np.asarray(episode.role),
        "logprobs": np.asarray(episode.logprobs),
        "rewards": groups.totals,
        "advantages": advantages,
    }
