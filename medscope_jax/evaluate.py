"""Evaluates models on a split of a suite, and prints the table.

    python -m medscope_jax.evaluate --workdir DIR [--split SPLIT]
    python -m medscope_jax.evaluate --workdir DIR --out OUT
    python -m medscope_jax.evaluate --checkpoint CKPT --data_dir DATA --out OUT [--mesh tensor=4]
    python -m medscope_jax.evaluate --endpoint URL --endpoint.model NAME --data_dir DATA --out OUT
    python -m medscope_jax.evaluate --rescore --out OUT [--judge.url URL --judge.model NAME]

DIR is a training run: every question is rolled out greedily by each of its finished models and,
where the answer is an interval, several times with sampling beside it. CKPT is a weights folder of
medscope_jax.convert, URL the address of an OpenAI-compatible endpoint whose model is shown the same
frames and tools (its key: OPENAI_API_KEY), with DATA a data folder of tfds_builders.build or a run
whose suite is taken.
With --out, OUT/predictions.jsonl has every rollout as soon as it is made: what was killed goes on
when it is started again, and --rescore scores what is there without a model. Without --out, the
table is written to DIR/evaluation_SPLIT.json, and several processes may evaluate one run together
as they train one, see medscope_jax.train.
"""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from medscope_jax.config import ConfigError, parse_arguments, run_main
from medscope_jax.data.open_suite import open_suite
from medscope_jax.dialogue import question_text
from medscope_jax.distributed import use_huge_pages
from medscope_jax.distributed.multihost import (
    broadcast,
    first_process_first,
    is_first,
    join_processes,
    leaving_at_once,
)
from medscope_jax.evaluate_flags import OUT_FLAGS, read_out_flags
from medscope_jax.evaluate_out import (
    predict_checkpoint,
    predict_elsewhere,
    predict_run,
    score_again,
)
from medscope_jax.inference import MedScope, model_of_run
from medscope_jax.metrics import Scored, print_results, result_rows, write_results
from medscope_jax.metrics.scoring import score_questions
from medscope_jax.report import Trace
from medscope_jax.report.make_trace import make_trace
from medscope_jax.rl import Judge, RewardConfig, make_judge
from medscope_jax.rollout import Trajectory
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.compiled import compiling_into
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
    rollout_engine,
    run_mesh,
    video_questions,
)
from medscope_jax.training.split_bank import split_bank
from medscope_jax.training.stage import finished_params
from medscope_jax.training.workdir import Workdir, read_workdir
from medscope_jax.visible import shown

SPLITS = ("validation", "test")


def evaluate_model(
    medscope: MedScope, records: Sequence[dict], split: VideoSplit
) -> tuple[list[Scored], list[Trajectory]]:
    """Scores of a model on all records, greedy and sampled, and its greedy trajectories.

    Args:
        medscope: the model; one of the name passive is not offered the tools.
        split: the videos of the records.
    """
    run = medscope.run_for(split.videos[0].frames.shape[-3:-1])
    model, _, params = medscope.weights
    section = run.config.evaluation
    can_look = model != "passive"
    bank = split_bank(run, params, split, f"evaluate {model}")
    judge = judge_of(run)
    # One width for all models and decodings, as wide as the widest prompt: one program for all.
    width = rollout_engine(run, 1, greedy=True).prompt_width(video_questions(records, split))
    scores, greedy = [], []
    # Sampling several times costs as many rollouts: it is done where the answer is an interval.
    intervals = [record for record in records if record["task"] == "grounding"]
    for decoding, group, asked in (("greedy", 1, records), ("sampled", section.samples, intervals)):
        if not asked:
            continue
        engine = rollout_engine(run, group, greedy=decoding == "greedy")
        batch_size = max(1, section.rollouts // group)
        batches = -(-len(asked) // batch_size)
        progress = Progress(batches, f"evaluating {model}, {decoding}", unit="batches")
        found = []
        for batch in engine.roll_out(
            params,
            bank,
            video_questions(asked, split),
            model_key(run.config, "evaluate"),
            width=width,
            batch_size=batch_size,
            tools=can_look,
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
    """Evaluates the models that a command line names, or scores stored predictions."""
    flags = parse_arguments(
        __doc__,
        argv,
        {
            "--workdir": {"metavar": "DIR", "help": "folder of a training run"},
            "--split": {"default": "test", "metavar": "SPLIT", "help": "validation or test"},
            **OUT_FLAGS,
            "--distributed": {"action": "store_true", "help": "one of a cluster's processes"},
        },
    )
    if flags.split not in SPLITS:
        raise ConfigError(f"unknown split {flags.split!r}; choose one of {', '.join(SPLITS)}")
    asked = read_out_flags(flags)
    if flags.rescore:
        score_again(asked)
        return
    if flags.checkpoint:
        predict_checkpoint(asked, flags.split)
        return
    if flags.endpoint:
        predict_elsewhere(asked, flags.split)
        return
    workdir, config = read_workdir(flags.workdir)
    if asked.out is None:
        join_processes(flags.distributed)
    with leaving_at_once(), compiling_into(workdir.compiled):
        if asked.out is None:
            evaluate_all(workdir, config, flags.split)
        else:
            predict_run(asked, workdir, config, flags.split)


def evaluate_all(workdir: Workdir, config: ConfigDict, name: str) -> None:
    """Evaluates every finished model of a workdir on the split of this name."""
    run = make_run(config, workdir, run_mesh(config), open_suite(config, workdir.path))
    records, split = list(load_records(run, "eval", name)), load_split(run, name)
    scores: list[Scored] = []
    with Checkpoints(workdir.checkpoints, read_only=True) as checkpoints:
        for model, stage in MODELS.items():
            params = finished_params(run, checkpoints, stage)
            if params is None:
                if is_first():
                    print(f"{model}: stage {stage} has not finished yet, so it is left out")
                continue
            scores += evaluate_model(model_of_run(run, model, params), records, split)[0]
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
