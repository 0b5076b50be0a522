"""Rolling out a batch of questions and judging it: the host judges while the device works.

    device   roll out part 1 | roll out part 2 | ...            | update
    judge                      part 1            part 2 ...

Parts are of one batch, under one policy: training stays exactly on-policy. A row's random key goes
by its place in the whole batch, so that its tokens do not depend on the parts. With rl.lag the
device rolls the next batch out while this one is judged, see lag.py.
"""

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.bank import HostBank
from medscope_jax.dialogue import Role
from medscope_jax.distributed.multihost import broadcast, is_first
from medscope_jax.errors import UserError
from medscope_jax.rl import Judge, RewardConfig, overlong_penalty
from medscope_jax.rollout import (
    FinishedRollouts,
    RunningRollouts,
    Trajectory,
    VideoQuestion,
    rollout_mesh,
    rollout_model,
)
from medscope_jax.training.asked import Questions, deciding
from medscope_jax.training.from_config import require_split, with_vocabulary
from medscope_jax.training.groups import (
    Groups,
    join_groups,
    judge_all,
    replace_groups,
    reward_all,
)
from medscope_jax.training.run import Run, VideoSplit, rollout_engine
from medscope_jax.video.lazy_frames import Series


class RolloutBatch(NamedTuple):
    """A batch of questions, rolled out and judged."""

    groups: Groups
    work: dict[str, Any]  # what the rollout program counts
    seconds: dict[str, float]  # seconds_rollout, and seconds_judge beyond it
    unscored: int = 0  # rollouts that the judge gave no score


class DynamicBatch(NamedTuple):
    """A batch to learn from."""

    groups: Groups
    replaced: int  # groups that took the place of one without signal
    batches: list[RolloutBatch]  # all that were rolled out for it


class StartedBatch(NamedTuple):
    """A batch of questions whose first part is under way on the device."""

    weights: dict  # as rollouts read them
    rows: np.ndarray  # [P] its questions, as numbers of records
    questions: list[VideoQuestion]
    key: jax.Array
    running: RunningRollouts


class Roller(NamedTuple):
    """How batches are rolled out and judged."""

    # (parameters, questions as numbers of records [P], random key, number of the first question):
    # of its rollouts' own keys, see rollout.VideoQuestion.
    start: Callable[[dict, np.ndarray, jax.Array, int], StartedBatch]
    # (batch, what to do while its last part is judged, on the device too)
    finish: Callable[[StartedBatch, Callable[[], None]], RolloutBatch]
    width: int  # positions that hold every prompt


def roll(
    roller: Roller, params: dict, rows: np.ndarray, key: jax.Array, first: int
) -> RolloutBatch:
    """Rolls a batch out and judges it; arguments as those of Roller.start."""
    return roller.finish(roller.start(params, rows, key, first), lambda: None)


def check_parts(config: ConfigDict, mesh: Mesh) -> None:
    """UserError where stage 3's batches don't split into rl.parts, or into rl.micro_batch."""
    groups, size, most = config.ga_grpo.batch_size, config.rl.group_size, config.rl.micro_batch
    if groups % config.rl.parts:
        raise UserError(
            f"config.rl.parts is {config.rl.parts}; {groups} groups (ga_grpo.batch_size) do not "
            "split into so many equal parts"
        )
    tensor = config.rollout.tensor
    for each in (mesh, rollout_mesh(mesh, tensor)):
        require_split("ga_grpo.batch_size // rl.parts", groups // config.rl.parts, each)
    rollout_model(
        with_vocabulary(config.model, config.dialogue.vocab_size), rollout_mesh(mesh, tensor)
    )
    if groups % -(-groups // max(1, most // size)):
        raise UserError(
            f"config.rl.micro_batch is {most}; {groups} groups (ga_grpo.batch_size) of {size} "
            "rollouts do not split into equal parts of at most so many rollouts"
        )


def make_roller(
    run: Run, split: VideoSplit, records: Series[dict], bank: HostBank, judge: Judge
) -> Roller:
    """The Roller of stage 3's batches.

    Args:
        split: the videos of the training split.
        records: the questions, part rl of that split.
        bank: of the split's videos.
    """
    config, group = run.config, run.config.rl.group_size
    engine = rollout_engine(run, group, greedy=False, weights_dtype=config.rollout.weights_dtype)
    asked = Questions(records, split)
    width = engine.prompt_width([asked[n] for n in deciding(run, "rl", "train", len(records))])
    rewards = RewardConfig(**config.reward)

    def records_of(rows: np.ndarray) -> list[dict]:
        return [record for row in rows for record in [records[row]] * group]

    def judged(rows: np.ndarray, found: list[Trajectory]) -> list[float]:
        # Process 0 asks for all: a judge is paid by the question, and need not answer twice alike.
        return judge_all(found, records_of(rows), judge) if is_first() else [0.0] * len(found)

    def rewarded(rows: np.ndarray, done: FinishedRollouts, scores: np.ndarray) -> Groups:
        if config.judge.unscored == "zero":
            scores = np.nan_to_num(scores)
        found = done.trajectories
        scored = reward_all(found, records_of(rows), scores.tolist(), rewards)
        written = np.sum(done.episode.role == Role.GENERATED, axis=1).tolist()
        scored = [
            dataclasses.replace(one, total=one.total + overlong_penalty(tokens, rewards))
            for one, tokens in zip(scored, written, strict=True)
        ]
        videos = np.array([asked.place(records[row]) for row in rows], np.int32)
        return Groups(rows, videos, done.episode, found, scored)

    def parts_of(rows: np.ndarray) -> list[slice]:
        count = len(rows) // config.rl.parts
        return [slice(i, i + count) for i in range(0, len(rows), count)]

    def start_part(
        weights: dict, questions: list[VideoQuestion], key: jax.Array
    ) -> RunningRollouts:
        return engine.start(weights, engine.prepare(bank, questions, key, width=width))

    def start(params: dict, rows: np.ndarray, key: jax.Array, first: int) -> StartedBatch:
        questions = [asked[row]._replace(number=first + i) for i, row in enumerate(rows)]
        weights = engine.place(params)
        running = start_part(weights, questions[parts_of(rows)[0]], key)
        return StartedBatch(weights, rows, questions, key, running)

    def finish(started: StartedBatch, meanwhile: Callable[[], None]) -> RolloutBatch:
        begin = time.monotonic()
        weights, rows, questions, key, running = started
        parts, queue, done, judging = parts_of(rows), [running], [], []
        # One thread: parts are judged one after the other, each as concurrently as the judge is.
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            for part, following in zip(parts, [*parts[1:], None], strict=True):
                if following is not None:
                    queue.append(start_part(weights, questions[following], key))
                done.append(engine.wait(queue.pop(0)))
                judging.append(pool.submit(judged, rows[part], done[-1].trajectories))
            rolled = time.monotonic()
            meanwhile()
            scores = [broadcast(np.array(told.result(), np.float32)) for told in judging]
            groups = [
                rewarded(rows[part], each, told)
                for part, each, told in zip(parts, done, scores, strict=True)
            ]
        return RolloutBatch(
            join_groups(groups),
            jax.tree.map(lambda *counts: sum(counts), *(each.work for each in done)),
            {
                "seconds_rollout": rolled - begin,
                "seconds_judge": time.monotonic() - rolled,
            },
            int(np.sum(np.isnan(np.concatenate(scores)))),
        )

    return Roller(start, finish, width.most)


def dynamic_sampling(
    roll: Callable[[int, np.ndarray], RolloutBatch],
    first: np.ndarray,
    more: Callable[[], np.ndarray],
    resample: int,
) -> DynamicBatch:
    """A batch whose groups without signal are replaced by further questions' groups.

    DAPO's dynamic sampling (arXiv 2503.14476): a group whose rollouts are all rewarded alike has no
    advantage, so that the batch would be smaller than it seems.

    Args:
        roll: (which batch of this step, numbers of its questions) -> their rollouts.
        first: numbers of the first batch's questions; more: gives those of another batch.
        resample: most batches to draw beside the first; none are drawn that are not needed.
    """
    drawn = [roll(0, first)]
    groups, replaced = drawn[0].groups, 0
    while len(drawn) <= resample and not groups.signal.all():
        drawn.append(roll(len(drawn), more()))
        groups, count = replace_groups(groups, drawn[-1].groups)
        replaced += count
    return DynamicBatch(groups, replaced, drawn)
