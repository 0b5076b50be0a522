"""Evaluates the models of a run: python -m medscope_jax.evaluate --workdir DIR --split SPLIT

Rolls out every question of the split greedily and, beside it, several times with sampling; prints
the table and writes DIR/evaluation_SPLIT.json. Several processes evaluate one run together as they
train one, see medscope_jax.train.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from medscope_jax.bank import FrameBank, take_videos
from medscope_jax.config import ConfigError, parse_arguments, run_main
from medscope_jax.dialogue import Layout, Tokenizer, question_text
from medscope_jax.distributed import batch_shardings, use_huge_pages
from medscope_jax.distributed.multihost import (
    broadcast,
    first_process_first,
    gather,
    is_first,
    join_processes,
    leaving_at_once,
    put,
    replicate,
)
from medscope_jax.metrics import Scored, print_results, result_rows, write_results
from medscope_jax.metrics.scoring import score_questions
from medscope_jax.report import Trace
from medscope_jax.report.make_trace import make_trace
from medscope_jax.rl import Judge, RewardConfig, make_judge
from medscope_jax.rollout import (
    SpecialTokens,
    Trajectory,
    make_prompts,
    prompt_width,
    read_trajectories,
    row_keys,
)
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.from_config import MODELS
from medscope_jax.training.groups import judge_all, reward_all
from medscope_jax.training.metrics_log import Progress
from medscope_jax.training.run import (
    Run,
    VideoSplit,
    load_records,
    load_split,
    make_run,
    model_key,
    rollout_program,
    run_mesh,
)
from medscope_jax.training.split_bank import split_bank
from medscope_jax.training.stage import finished_params
from medscope_jax.training.workdir import Workdir, read_workdir
from medscope_jax.visible import shown

SPLITS = ("validation", "test")


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
    special_tokens: SpecialTokens,
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
            keys,
            width,
            tokenizer,
            layout,
            tools,
        )
        episode, _ = program(params, part, place_batch(prompts), special_tokens)
        found = read_trajectories(gather(episode), tokenizer, layout)
        yield [found[i * group : (i + 1) * group] for i in range(len(real))]


def make_programs(run: Run) -> dict[str, Callable]:
    """The rollout programs of evaluation: greedy, and sampled several times a question."""
    groups = {"greedy": 1, "sampled": run.config.evaluation.samples}
    return {name: rollout_program(run, group, name == "greedy") for name, group in groups.items()}


def evaluate_model(
    run: Run,
    model: str,
    params: dict,
    records: Sequence[dict],
    split: VideoSplit,
    programs: Mapping[str, Callable],
) -> tuple[list[Scored], list[Trajectory]]:
    """Scores of one model on all records, greedy and sampled, and its greedy trajectories.

    programs: from make_programs; shared by all models, so that each compiles once.
    """
    section = run.config.evaluation
    can_look = model != "passive"
    bank = split_bank(run, params, split, f"evaluate {model}")
    judge = judge_of(run)
    # One width for all models and decodings, as wide as the widest prompt: one program for all.
    times = [video.times for video in split.videos]
    width = prompt_width(
        records,
        [times[split.rows[record["video"]]] for record in records],
        run.tokenizer,
        run.layout,
        tools=True,
    )
    scores, greedy = [], []
    # Sampling several times costs as many rollouts: it is done where the answer is an interval.
    intervals = [record for record in records if record["task"] == "grounding"]
    for decoding, group, asked in (("greedy", 1, records), ("sampled", section.samples, intervals)):
        if not asked:
            continue
        batch_size = max(1, section.rollouts // group)
        batches = -(-len(asked) // batch_size)
        progress = Progress(batches, f"evaluating {model}, {decoding}", unit="batches")
        found = []
        for batch in run_questions(
            params,
            programs[decoding],
            asked,
            [split.rows[record["video"]] for record in asked],
            times,
            bank,
            model_key(run.config, "evaluate"),
            width=width,
            group=group,
            batch_size=batch_size,
            tools=can_look,
            tokenizer=run.tokenizer,
            special_tokens=replicate(run.special_tokens, run.mesh),
            layout=run.layout,
            place_batch=functools.partial(_place, run),
        ):
            found.extend(batch)
            progress.update()
        progress.close()
        scores += score_questions(
            model,
            asked,
            found,
            judge,
            decoding=decoding,
            can_look=can_look,
            seed=run.config.seed,
            frame_window=run.config.reward.frame_window,
        )
        if decoding == "greedy":
            greedy = [group[0] for group in found]
    return scores, greedy


def judge_of(run: Run) -> Judge:
    """The config's judge: process 0 asks it, and all processes hear what it says."""
    judge = make_judge(run.config.judge)

    def ask(questions, answers):
        scores = judge(questions, answers) if is_first() else [0.0] * len(answers)
        return broadcast(np.array(scores, np.float32)).tolist()

    return ask


def _place(run: Run, tree):
    return put(tree, batch_shardings(tree, run.mesh))


def telling_traces(
    run: Run, model: str, records: Sequence[dict], found: Sequence[Trajectory], split: VideoSplit
) -> list[Trace]:
    """Traces of a few questions: the first of each task and source in turn."""
    kinds: dict[tuple, list[int]] = {}
    for i, record in enumerate(records):
        kinds.setdefault((record["task"], record["source"]), []).append(i)
    order = [i for row in zip(*_padded(list(kinds.values())), strict=True) for i in row]
    chosen = [i for i in order if i is not None][: run.config.evaluation.traces]
    asked, told = [records[i] for i in chosen], [found[i] for i in chosen]
    scores = judge_all(told, asked, judge_of(run))
    rewards = reward_all(told, asked, scores, RewardConfig(**run.config.reward))
    return [
        make_trace(
            question_text(record),
            trajectory,
            split.videos[split.rows[record["video"]]],
            run.layout.preview_frames,
            record,
            reward,
            model,
        )
        for record, trajectory, reward in zip(asked, told, rewards, strict=True)
    ]


def _padded(lists: list[list]) -> list[list]:
    longest = max(map(len, lists))
    return [items + [None] * (longest - len(items)) for items in lists]


def main(argv: Sequence[str]) -> None:
    """Evaluates every finished model of a workdir."""
    flags = parse_arguments(
        __doc__,
        argv,
        {
            "--workdir": {"required": True, "metavar": "DIR", "help": "folder of a training run"},
            "--split": {"default": "test", "metavar": "SPLIT", "help": "validation or test"},
            "--distributed": {"action": "store_true", "help": "one of a cluster's processes"},
        },
    )
    if flags.split not in SPLITS:
        raise ConfigError(f"unknown split {flags.split!r}; choose one of {', '.join(SPLITS)}")
    workdir, config = read_workdir(flags.workdir)
    join_processes(flags.distributed)
    with leaving_at_once():
        evaluate_all(workdir, config, flags.split)


def evaluate_all(workdir: Workdir, config: ConfigDict, name: str) -> None:
    """Evaluates every finished model of a workdir on the split of this name."""
    run = make_run(config, workdir, run_mesh(config))
    records, split = load_records(run, "eval", name), load_split(run, name)
    scores: list[Scored] = []
    programs = make_programs(run)
    with Checkpoints(workdir.checkpoints, read_only=True) as checkpoints:
        for model, stage in MODELS.items():
            params = finished_params(run, checkpoints, stage)
            if params is None:
                if is_first():
                    print(f"{model}: stage {stage} has not finished yet, so it is left out")
                continue
            scores += evaluate_model(run, model, params, records, split, programs)[0]
    if not scores:
        raise ConfigError(f"{workdir.path} holds no finished model yet; go on training it first")
    with first_process_first("evaluation"):
        if not is_first():
            return
        rows = result_rows(scores)
        target = workdir.path / f"evaluation_{name}.json"
        print_results(rows)  # first: minutes of work that a full disk must not take along
        write_results(target, rows)
        print(shown(f"written to {target}"))


if __name__ == "__main__":
    use_huge_pages()
    run_main(main)
