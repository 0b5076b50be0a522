"""Groups of rollouts on the host: judging, rewards, dynamic sampling's picks, and a summary."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np

from medscope_jax.dialogue import Episode, Role
from medscope_jax.rl import (
    Judge,
    Reward,
    RewardConfig,
    as_evidence,
    extract_answer,
    score_transcript,
)
from medscope_jax.rollout import Trajectory
from medscope_jax.tools import CallStatus


@dataclasses.dataclass(frozen=True)
class Groups:
    """The judged rollouts of P questions, G each: rows i * G to i * G + G - 1 are question i's."""

    rows: np.ndarray  # [P] int number of each question among the records
    places: np.ndarray  # [P] int32 video of each question, in the split's bank
    episode: Episode  # P * G rows
    found: list[Trajectory]  # P * G
    scored: list[Reward]  # P * G

    @property
    def totals(self) -> np.ndarray:
        """Rewards [P, G] float32.

        A rollout without a judge's score gets the mean of its group's others (0 without others), so
        that it has no advantage and the others' mean stays.
        """
        totals = np.array([reward.total for reward in self.scored], np.float32)
        totals = totals.reshape(len(self.rows), -1)
        known = ~np.isnan(totals)
        # In float64, so that the mean of equal rewards is that very reward.
        sums = np.sum(totals, axis=1, where=known, keepdims=True, dtype=np.float64)
        means = sums / np.maximum(np.sum(known, axis=1, keepdims=True), 1)
        return np.where(known, totals, means).astype(np.float32)

    @property
    def signal(self) -> np.ndarray:
        """[P] bool: whether a question's rewards differ; without a difference, no advantage."""
        return np.ptp(self.totals, axis=1) > 0


def pick_groups(sources: Sequence[Groups], picks: Sequence[tuple[int, int]]) -> Groups:
    """Groups in a new order: pick (s, i) is question i of source s.

    sources  A0 A1 | B0 B1      picks  (0, 0) (1, 0)      picked  A0 B0
    """
    group = len(sources[0].found) // len(sources[0].rows)
    first = np.cumsum([0, *(len(source.rows) for source in sources)])
    places = np.array([first[source] + number for source, number in picks])
    rows = (places[:, None] * group + np.arange(group)).ravel()

    def gather(axis: int, *arrays):
        return np.take(np.concatenate(arrays, axis), rows, axis)

    episodes = [source.episode for source in sources]
    episode = Episode(
        tokens=gather(0, *(episode.tokens for episode in episodes)),
        visual_index=gather(0, *(episode.visual_index for episode in episodes)),
        role=gather(0, *(episode.role for episode in episodes)),
        positions=gather(1, *(episode.positions for episode in episodes)),
        logprobs=gather(0, *(episode.logprobs for episode in episodes)),
        calls=jax.tree.map(lambda *x: gather(0, *x), *(episode.calls for episode in episodes)),
    )
    found = [trajectory for source in sources for trajectory in source.found]
    scored = [reward for source in sources for reward in source.scored]
    return Groups(
        rows=np.concatenate([source.rows for source in sources])[places],
        places=np.concatenate([source.places for source in sources])[places],
        episode=episode,
        found=[found[row] for row in rows],
        scored=[scored[row] for row in rows],
    )


def join_groups(sources: Sequence[Groups]) -> Groups:
    """All groups of all sources, one source after the other."""
    if len(sources) == 1:
        return sources[0]
    picks = [(s, i) for s, source in enumerate(sources) for i in range(len(source.rows))]
    return pick_groups(sources, picks)


def replace_groups(kept: Groups, fresh: Groups) -> tuple[Groups, int]:
    """`kept` with its groups without signal replaced, in order, by those of `fresh` that have one.

    Returns:
        (groups as many as before, how many of them were replaced).
    """
    empty, full = np.flatnonzero(~kept.signal), np.flatnonzero(fresh.signal)
    pairs = dict(zip(empty.tolist(), full.tolist(), strict=False))
    if not pairs:
        return kept, 0
    picks = [(1, pairs[i]) if i in pairs else (0, i) for i in range(len(kept.rows))]
    return pick_groups([kept, fresh], picks), len(pairs)


def judge_all(found: Sequence[Trajectory], asked: Sequence[dict], judge: Judge) -> list[float]:
    """The judge's score of each trajectory's answer to its question; NaN: it gave none."""
    return judge(asked, [extract_answer(t.text) or "" for t in found])


def reward_all(
    found: Sequence[Trajectory],
    asked: Sequence[dict],
    scores: Sequence[float],
    config: RewardConfig,
) -> list[Reward]:
    """The reward of each trajectory.

    Args:
        found: N trajectories.
        asked: N records, the question of each.
        scores: N of judge_all. Where one is NaN, so are accuracy and total, unless the trajectory
            has no usable answer: its accuracy is 0 whatever a judge says.
    """

    def reward(trajectory: Trajectory, question: dict, score: float) -> Reward:
        scored = score_transcript(
            trajectory.text,
            as_evidence(question["evidence"], question["evidence_time"]),
            1.0 if math.isnan(score) else score,
            config,
            duration=float(question["duration"]),
            calls=trajectory.calls,
        )
        if math.isnan(score) and scored.accuracy:
            return dataclasses.replace(scored, accuracy=math.nan, total=math.nan)
        return scored

    return [reward(*each) for each in zip(found, asked, scores, strict=True)]


def summarize(drawn: Sequence[Groups]) -> dict[str, float]:
    """What to log of all the rollouts of a step: rewards by part, tool use, errors, lengths.

    Rollouts that were replaced count too: a mean over the groups that were kept for their signal
    would be biased.
    """
    found = [trajectory for groups in drawn for trajectory in groups.found]
    scored = [reward for groups in drawn for reward in groups.scored]
    tokens = [np.sum(groups.episode.role == Role.GENERATED, axis=1) for groups in drawn]
    calls = [call for trajectory in found for call in trajectory.calls]
    looked = [r.iou for r in scored if r.grounded]
    judged = [r.accuracy for r in scored if not math.isnan(r.accuracy)]
    errors = {
        f"calls_{status.name.lower()}": sum(call[3] == status for call in calls)
        for status in CallStatus
        if status != CallStatus.OK
    }
    return {
        "reward": float(np.concatenate([groups.totals for groups in drawn]).mean()),
        "reward_accuracy": float(np.mean(judged)) if judged else 0.0,
        "reward_format": float(np.mean([r.format for r in scored])),
        "reward_crop": float(np.mean([r.crop for r in scored])),
        "reward_frame": float(np.mean([r.frame for r in scored])),
        "iou": float(np.mean(looked)) if looked else 0.0,
        "tool_rate": float(np.mean([any(c[3] == 0 for c in t.calls) for t in found])),
        "calls": len(calls) / len(found),
        "tokens": float(np.mean(np.concatenate(tokens))),
        "tokens_max": int(np.max(np.concatenate(tokens))),
        **errors,
    }
