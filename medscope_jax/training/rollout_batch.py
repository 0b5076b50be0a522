"""Rolling out a batch of questions and judging it: the host judges while the device works.

    device   roll out part 1 | roll out part 2 | ...            | update
    judge                      part 1            part 2 ...

Parts are of one batch, under one policy: training stays exactly on-policy. A row's random key goes
by its place in the whole batch, so that its tokens do not depend on the parts.
"""

import concurrent.futures
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.bank import FrameBank
from medscope_jax.dialogue import Episode
from medscope_jax.distributed import batch_shardings
from medscope_jax.distributed.multihost import broadcast, gather, is_first, put, replicate
from medscope_jax.errors import UserError
from medscope_jax.rl import Judge, RewardConfig
from medscope_jax.rollout import (
    Trajectory,
    make_prompts,
    prompt_width,
    read_trajectories,
)
from medscope_jax.training.from_config import require_split
from medscope_jax.training.groups import (
    Groups,
    join_groups,
    judge_all,
    replace_groups,
    reward_all,
)
from medscope_jax.training.run import Run, VideoSplit, rollout_program
from medscope_jax.training.split_bank import put_videos


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


# (parameters, numbers of the questions [P], a random key for each of their rollouts [P, G])
Roll = Callable[[dict, np.ndarray, jax.Array], RolloutBatch]


def check_parts(config: ConfigDict, mesh: Mesh) -> None:
    """UserError where stage 3's batches don't split into rl.parts, or into rl.micro_batch."""
    groups, size, most = config.ga_grpo.batch_size, config.rl.group_size, config.rl.micro_batch
    if groups % config.rl.parts:
        raise UserError(
            f"config.rl.parts is {config.rl.parts}; {groups} groups (ga_grpo.batch_size) do not "
            "split into so many equal parts"
        )
    require_split("ga_grpo.batch_size // rl.parts", groups // config.rl.parts, mesh)
    if groups % -(-groups // max(1, most // size)):
        raise UserError(
            f"config.rl.micro_batch is {most}; {groups} groups (ga_grpo.batch_size) of {size} "
            "rollouts do not split into equal parts of at most so many rollouts"
        )


def make_roll(
    run: Run, split: VideoSplit, records: Sequence[dict], bank: FrameBank, judge: Judge
) -> tuple[Roll, int]:
    """The function that rolls out questions of a batch, and the slots that hold every prompt.

    bank: of the split's videos.
    """
    config, group = run.config, run.config.rl.group_size
    shown = [split.videos[split.rows[r["video"]]].times for r in records]
    width = prompt_width(records, shown, run.tokenizer, run.layout, True)
    program = rollout_program(run, group, greedy=False)
    special_tokens = replicate(run.special_tokens, run.mesh)
    rewards = RewardConfig(**config.reward)

    def places_of(rows: np.ndarray) -> np.ndarray:
        return np.array([split.rows[records[row]["video"]] for row in rows], np.int32)

    def start(params: dict, rows: np.ndarray, keys: jax.Array) -> tuple[Episode, dict]:
        """Gives the device the rollouts of some questions; does not wait for them."""
        places = places_of(rows)
        part = put_videos(bank, places, run.mesh, batch_shardings)
        prompts = make_prompts(
            [records[row] for row in rows],
            range(len(rows)),
            [split.videos[place].times for place in places],
            keys,
            width,
            run.tokenizer,
            run.layout,
            tools=True,
        )
        prompts = put(prompts, batch_shardings(prompts, run.mesh))
        return program(params, part, prompts, special_tokens)

    def read(episode: Episode) -> tuple[Episode, list[Trajectory]]:
        host = gather(episode)
        return host, read_trajectories(host, run.tokenizer, run.layout)

    def asked_of(rows: np.ndarray) -> list[dict]:
        return [records[row] for row in rows for _ in range(group)]

    def judged_of(rows: np.ndarray, found: list[Trajectory]) -> list[float]:
        # Process 0 asks for all: a judge is paid by the question, and need not answer twice alike.
        return judge_all(found, asked_of(rows), judge) if is_first() else [0.0] * len(found)

    def groups_of(
        rows: np.ndarray, host: Episode, found: list[Trajectory], scores: np.ndarray
    ) -> Groups:
        if config.judge.unscored == "zero":
            scores = np.nan_to_num(scores)
        scored = reward_all(found, asked_of(rows), scores.tolist(), rewards)
        return Groups(rows, places_of(rows), host, found, scored)

    def roll(params: dict, rows: np.ndarray, keys: jax.Array) -> RolloutBatch:
        begin = time.monotonic()
        count = len(rows) // config.rl.parts
        parts = [slice(i, i + count) for i in range(0, len(rows), count)]
        queue = [start(params, rows[parts[0]], keys[parts[0]])]
        done, work = [], []
        # One thread: parts are judged one after the other, each as concurrently as the judge is.
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            for part, following in zip(parts, [*parts[1:], None], strict=True):
                if following is not None:
                    queue.append(start(params, rows[following], keys[following]))
                episode, counts = queue.pop(0)
                host, found = read(episode)
                scored = pool.submit(judged_of, rows[part], found)
                done.append((part, host, found, scored))
                work.append(counts)
            rolled = time.monotonic()
            scores = [broadcast(np.array(scored.result(), np.float32)) for *_, scored in done]
            judged = [
                groups_of(rows[part], host, found, told)
                for (part, host, found, _), told in zip(done, scores, strict=True)
            ]
        return RolloutBatch(
            join_groups(judged),
            jax.tree.map(lambda *counts: sum(counts), *jax.device_get(work)),
            {
                "seconds_rollout": rolled - begin,
                "seconds_judge": time.monotonic() - rolled,
            },
            int(np.sum(np.isnan(np.concatenate(scores)))),
        )

    return roll, width


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
