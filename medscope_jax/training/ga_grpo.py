"""Stage 3, GA-GRPO: roll out, reward, update."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.dialogue import Episode, Role
from medscope_jax.distributed import batch_shardings
from medscope_jax.rl import (
    AdvantageConfig,
    Judge,
    LossConfig,
    Reward,
    RewardConfig,
    as_evidence,
    extract_answer,
    fidelity,
    grounding_aware_advantages,
    score_transcript,
)
from medscope_jax.rollout import (
    Trajectory,
    make_prompts,
    prompt_width,
    read_trajectories,
    row_keys,
)
from medscope_jax.tools import CallStatus
from medscope_jax.training.bank import split_bank
from medscope_jax.training.data import make_batches
from medscope_jax.training.packing import measure_packing
from medscope_jax.training.run import Run, Split, load_records, rollout_program
from medscope_jax.training.stage import Batches, Update, optimizer_of
from medscope_jax.training.state import kl_reference
from medscope_jax.training.steps import ga_grpo_step
from medscope_jax.video import flat_tokens, take_videos


def prepare_ga_grpo(run: Run, split: Split, judge: Judge, params: dict) -> tuple[Batches, Update]:
    """Batches of questions, and the update: rollouts, rewards, advantages, policy step."""
    config = run.config
    records = load_records(run, "rl", "train")
    group = config.rl.group_size
    bank = split_bank(run, params, split)
    shown = [split.videos[split.rows[r["video"]]].times for r in records]
    width = prompt_width([r["question"] for r in records], shown, run.tokenizer, run.layout, True)
    program = rollout_program(run, group, greedy=False)
    rewards = RewardConfig(**config.reward)
    advantage = functools.partial(
        grounding_aware_advantages, config=AdvantageConfig(**config.advantage)
    )
    advantage = jax.jit(advantage)
    step = functools.partial(
        ga_grpo_step,
        model=run.model,
        optimizer=optimizer_of(run, "ga_grpo"),
        grid=run.layout.grid,
        loss=LossConfig(**config.loss),
        temperature=config.rollout.temperature,
        kl_coefficient=config.rl.kl_coefficient,
        micro_batch=config.rl.micro_batch,
    )
    compiled = jax.jit(step, static_argnames=("size", "targets"), donate_argnums=0)
    reference = jax.tree.map(jnp.copy, kl_reference(params, config.rl))

    def update(state, batch):
        questions = [records[i] for i in batch["row"]]
        places = np.array([split.rows[q["video"]] for q in questions], np.int32)
        part = take_videos(bank, jnp.asarray(places))
        part = jax.device_put(part, batch_shardings(part, run.mesh))
        count = len(questions)
        keys = row_keys(jax.random.fold_in(state.key, state.step), jnp.arange(count * group))
        times = [split.videos[p].times for p in places]
        prompts = make_prompts(
            questions,
            range(count),
            times,
            part,
            keys.reshape(count, group),
            width,
            run.tokenizer,
            run.layout,
            tools=True,
        )
        prompts = jax.device_put(prompts, batch_shardings(prompts, run.mesh))
        episode, work = program(state.params, part, prompts, run.words)
        host = jax.device_get(episode)
        found = read_trajectories(host, config.video.max_frames, run.tokenizer, run.layout)
        asked = [q for q in questions for _ in range(group)]
        scored = reward_all(found, asked, judge, rewards)
        totals = np.array([r.total for r in scored], np.float32).reshape(count, group)
        pairs = [fidelity(r, rewards) for r in scored]
        value = np.array([v for v, _ in pairs], np.float32).reshape(count, group)
        valid = np.array([v for _, v in pairs]).reshape(count, group)
        advantages = advantage(totals, value, valid).reshape(-1)
        sizes = {
            "size": measure_packing(host.role, group, width),
            "targets": most_generated(host.role),
        }
        flat = flat_tokens(part)
        for _ in range(config.rl.updates):
            state, metrics = compiled(state, episode, advantages, flat, reference, **sizes)
        summary = summarize(found, scored, totals, host)
        return state, {**metrics, **summary, **work}

    batches = make_batches(
        range(len(records)),
        lambda row: {"row": np.int32(row)},
        config.ga_grpo.batch_size,
        seed=config.seed,
    )
    return batches, update


def reward_all(
    found: list[Trajectory], asked: list[dict], judge: Judge, config: RewardConfig
) -> list[Reward]:
    """The reward of each trajectory of the question beside it."""
    scores = judge(asked, [extract_answer(t.text) or "" for t in found])
    return [
        score_transcript(
            trajectory.text,
            as_evidence(question["evidence"], question["evidence_frame"]),
            score,
            config,
            duration=float(question["duration"]),
            calls=trajectory.calls,
        )
        for trajectory, question, score in zip(found, asked, scores, strict=True)
    ]


def most_generated(role: np.ndarray, step: int = 16) -> int:
    """The most generated tokens that a row of roles [B, L] has, rounded up to `step`."""
    most = int(np.max(np.sum(role == Role.GENERATED, axis=1)))
    return min(-most // step * -step, role.shape[1])


def summarize(found: list[Trajectory], scored: list[Reward], totals: np.ndarray, host: Episode):
    """What to log of a batch of rollouts: rewards by part, tool use, errors, lengths."""
    calls = [call for trajectory in found for call in trajectory.calls]
    looked = [r.iou for r in scored if r.grounded]
    errors = {
        f"calls_{status.name.lower()}": sum(call[3] == status for call in calls)
        for status in CallStatus
        if status != CallStatus.OK
    }
    return {
        "reward": float(totals.mean()),
        "reward_accuracy": float(np.mean([r.accuracy for r in scored])),
        "reward_format": float(np.mean([r.format for r in scored])),
        "reward_crop": float(np.mean([r.crop for r in scored])),
        "reward_frame": float(np.mean([r.frame for r in scored])),
        "iou": float(np.mean(looked)) if looked else 0.0,
        "groups_without_signal": float(np.mean(np.ptp(totals, axis=1) == 0)),
        "tool_rate": float(np.mean([any(c[3] == 0 for c in t.calls) for t in found])),
        "calls": len(calls) / len(found),
        "tokens": float(np.mean(np.sum(host.role == Role.GENERATED, axis=1))),
        **errors,
    }
