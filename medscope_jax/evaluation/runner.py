"""Evaluating a model: roll out every question, judge it, score it."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.dialogue import Layout, Tokenizer
from medscope_jax.distributed.processes import fetch
from medscope_jax.evaluation.scoring import Scored, score
from medscope_jax.rl import Judge, as_evidence, extract_answer
from medscope_jax.rollout import (
    Trajectory,
    Vocabulary,
    make_prompts,
    read_trajectories,
    row_keys,
)
from medscope_jax.video import FrameBank, take_videos


def run_questions(
    params: dict,
    program: Callable,
    records: Sequence[Mapping],
    places: Sequence[int],
    times: Sequence[np.ndarray],
    bank: FrameBank,
    key: jax.Array,
    *,
    width: int,
    group: int,
    batch_size: int,
    tools: bool,
    tokenizer: Tokenizer,
    words: Vocabulary,
    layout: Layout,
    place_batch: Callable = lambda tree: tree,
) -> Iterator[list[list[Trajectory]]]:
    """Rolls out questions batch by batch.

    Args:
        program: from rollout.make_rollout, for this group and layout.
        records: N questions; places [N]: each one's video in the bank; times: each video's frame
            times [T_v], seconds, by place.
        width: slots that hold every prompt, see rollout.prompt_width.
        key: question i's rollouts use row_keys(key, i * group ...), whatever the batches.
        batch_size: questions a batch; the last one is filled up with its first question.
        tools: whether the prompt offers tools.
        place_batch: puts a tree of arrays on the mesh.

    Yields:
        For each batch, a list of `group` trajectories for each of its (real) questions.
    """
    shown = [times[place] for place in places]
    num_frames = bank.tokens.shape[1]
    for first in range(0, len(records), batch_size):
        real = list(range(first, min(first + batch_size, len(records))))
        chosen = real + [first] * (batch_size - len(real))
        part = place_batch(take_videos(bank, np.array([places[i] for i in chosen], np.int32)))
        ids = np.asarray(chosen)[:, None] * group + np.arange(group)
        keys = row_keys(key, jnp.asarray(ids.reshape(-1))).reshape(ids.shape)
        prompts = make_prompts(
            [records[i] for i in chosen],
            range(batch_size),
            [shown[i] for i in chosen],
            part,
            keys,
            width,
            tokenizer,
            layout,
            tools,
        )
        episode, _ = program(params, part, place_batch(prompts), words)
        found = read_trajectories(fetch(episode), num_frames, tokenizer, layout)
        yield [found[i * group : (i + 1) * group] for i in range(len(real))]


def score_questions(
    model: str,
    records: Sequence[Mapping],
    trajectories: Sequence[Sequence[Trajectory]],
    judge: Judge,
    *,
    decoding: str,
    can_look: bool,
    seed: int,
    frame_window: float,
) -> list[Scored]:
    """Scores each question's trajectories; a record's source is the table's split.

    An answer that the judge gives no score has NaN in its place, and counts as unscored.
    """
    asked = [record for record, found in zip(records, trajectories, strict=True) for _ in found]
    found = [trajectory for group in trajectories for trajectory in group]
    judged = judge(asked, [extract_answer(t.text) or "" for t in found])
    return [
        score(
            model=model,
            split=record["source"],
            task=record["task"],
            text=trajectory.text,
            reference=record["answer"],
            evidence=as_evidence(record["evidence"], record["evidence_frame"]),
            judge_score=value,
            calls=trajectory.calls,
            can_look=can_look,
            decoding=decoding,
            seed=seed,
            frame_window=frame_window,
        )
        for record, trajectory, value in zip(asked, found, judged, strict=True)
    ]
