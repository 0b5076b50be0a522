"""Trains MedScope: python -m medscope_jax.train --config tpu_configs/cpu.py --workdir DIR

Prepares the suite, trains the three stages and the passive baseline (or config.stages of them),
evaluates the models on the held out split, and writes DIR/metrics.jsonl, DIR/checkpoints/,
DIR/results.json and DIR/report.html. Run again in the same DIR, it goes on where it stopped, or
says that it is done; with more steps or epochs in its config it goes on from its end. Asked to
stop (SIGTERM, Ctrl-C), it saves the step under way and leaves with status 75.

Several processes train one run if all of them start the same command: with --distributed, as
started by a TPU pod, Slurm or Open MPI; or else with JAX_COORDINATOR_ADDRESS (host:port of process
0), JAX_NUM_PROCESSES and JAX_PROCESS_ID set. They share DIR, and config.device.count counts the
devices of all.
"""

import argparse
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence

from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.config import load_config, parse_arguments, run_main
from medscope_jax.data.open_suite import Suite, open_suite
from medscope_jax.dialogue import save_tokenizer
from medscope_jax.distributed import use_huge_pages
from medscope_jax.distributed.multihost import (
    first_process_first,
    is_first,
    join_processes,
    leaving_at_once,
)
from medscope_jax.errors import EXIT_STOPPED, UserError
from medscope_jax.evaluate import evaluate_model, telling_traces
from medscope_jax.files import is_there, write_text
from medscope_jax.inference import model_of_run
from medscope_jax.metrics import print_results, read_results, result_rows, write_results
from medscope_jax.paths import to_path
from medscope_jax.report import render_report
from medscope_jax.rl import judge_note, make_judge
from medscope_jax.training.asked import check_questions
from medscope_jax.training.checkpoint import Checkpoints, saved_metas
from medscope_jax.training.compiled import compiling_into
from medscope_jax.training.config_checks import check_config
from medscope_jax.training.duration import with_duration
from medscope_jax.training.from_config import MODELS, before, chosen_stages
from medscope_jax.training.ga_grpo import prepare_ga_grpo
from medscope_jax.training.going_on import check_lengths, is_finished
from medscope_jax.training.imported import keep_companions
from medscope_jax.training.metrics_log import MetricsWriter, read_metrics
from medscope_jax.training.origin import keep_origin_tokenizer, with_start_shapes
from medscope_jax.training.preemption import Stopped, StopSignals
from medscope_jax.training.run import (
    Run,
    load_records,
    load_split,
    make_run,
    run_mesh,
    suite_of,
    suite_tokenizer,
)
from medscope_jax.training.sft import prepare_clips, prepare_dialogues, rows_an_epoch
from medscope_jax.training.stage import (
    Batches,
    Update,
    finished_params,
    initial_params,
    run_stage,
)
from medscope_jax.training.validation import make_validation
from medscope_jax.training.workdir import Workdir, keep_config, open_workdir, set_results_aside
from medscope_jax.visible import shown
from tfds_builders.prepare import prepare_suite


def open_run(config: ConfigDict, suite: Suite, workdir: Workdir, mesh: Mesh) -> Run:
    """Prepares the suite and the tokenizer (or finds them) and builds the Run."""
    if suite.config is not None:
        prepare_suite(workdir.path, suite.config)
    if config.start_from:
        keep_origin_tokenizer(config, workdir)
    elif config.model.checkpoint:
        keep_companions(to_path(config.model.checkpoint), workdir)
    elif not workdir.tokenizer.exists():
        save_tokenizer(suite_tokenizer(config, suite), workdir.tokenizer)
    return make_run(config, workdir, mesh, suite)


def run_stages(config: ConfigDict, suite: Suite) -> list[str]:
    """The stages that the config asks for, less a baseline that the suite has no records of."""
    has_baseline = "train" in suite.splits("passive")
    return [stage for stage in chosen_stages(config) if has_baseline or stage != "passive"]


def train(run: Run, workdir: Workdir, stop: StopSignals) -> dict[str, dict]:
    """Runs the stages; returns the parameters of each trained model that the run then has."""
    stages = run_stages(run.config, suite_of(run))
    if "passive" in set(chosen_stages(run.config)) - set(stages):
        print("the suite has no part passive: no baseline that cannot look")
    check_questions(run)  # found now, not after two stages
    split, judge = load_split(run, "train"), make_judge(run.config.judge)
    prepare: dict[str, Callable[[Run, dict], tuple[Batches, Update]]] = {
        # Stage 1: the vision tower and the language model learn to see and to tell the time.
        "warm_up": lambda run, params: prepare_clips(run, split, params),
        # The baseline: the same start and data as stage 2, but it answers from the preview.
        "passive": lambda run, params: prepare_dialogues("passive", run, split, params),
        # Stage 2: tool trajectories of an imperfect teacher.
        "cold_start": lambda run, params: prepare_dialogues("cold_start", run, split, params),
        # Stage 3: the model's own trajectories, rewarded for answers and for evidence.
        "ga_grpo": lambda run, params: prepare_ga_grpo(run, split, judge, params),
    }
    ended: dict[str, dict] = {}
    with Checkpoints(workdir.checkpoints, asynchronous=True) as checkpoints:
        # As much of its log as the newest checkpoint knows; a stage cuts it to where it goes on.
        logged = max(checkpoints.metas(), key=lambda meta: meta["lines"], default={"lines": 0})
        log = workdir.metrics if is_first() else None
        writer = MetricsWriter(log, logged["lines"], logged.get("bytes"))

        def params_before(stage: str) -> dict:
            """What the nearest stage before it ended with, if the run has one; else its start."""
            for name in before(stage):
                params = ended.get(name) or finished_params(run, checkpoints, name)
                if params is not None:
                    return params
            return initial_params(run, stage)

        for name in stages:
            rows = rows_an_epoch(run, name)
            config = with_duration(run.config, name, rows, checkpoints.metas())
            sized = dataclasses.replace(run, config=config)
            start = functools.partial(params_before, name)
            ready = functools.partial(prepare[name], sized)
            ended[name] = run_stage(
                sized,
                name,
                start,
                ready,
                checkpoints,
                writer,
                stop=stop,
                rows=rows,
                validate=make_validation(sized, name),
            )
        found = {n: ended.get(s) or finished_params(run, checkpoints, s) for n, s in MODELS.items()}
        note_judge(run, workdir, writer)
        writer.close()
    return {name: params for name, params in found.items() if params is not None}


def evaluate(run: Run, workdir: Workdir, models: dict[str, dict], seconds: float) -> None:
    """Evaluates the models on the test split and writes the results and the report."""
    records, split = list(load_records(run, "eval", "test")), load_split(run, "test")
    scores, traces = [], []
    for name, params in models.items():
        scored, found = evaluate_model(model_of_run(run, name, params), records, split)
        scores += scored
        if name == list(models)[-1]:  # rl, where the run has it
            traces = telling_traces(run, name, records, found, split)
    with first_process_first("results"):
        if not is_first():
            return
        rows = result_rows(scores)
        print_results(rows)  # first: minutes of work that a full disk must not take along
        minutes = f"this session took {seconds / 60:.1f} min up to evaluation"
        notes = [f"seed {run.config.seed}; {minutes}"]
        logged = read_metrics(workdir.metrics)
        notes += [f"{r['stage']}, step {r['step']}: {r['note']}" for r in logged if "note" in r]
        report = render_report(logged, rows, traces, notes=notes)
        write_text(workdir.report, report, private=True)  # it shows a recording's frames
        write_results(workdir.results, rows)  # last: its presence says that the run is done


def note_judge(run: Run, workdir: Workdir, writer: MetricsWriter) -> None:
    """Says in metrics.jsonl which judge the evaluation asks, if stage 3 has asked another one."""
    note = judge_note(run.config.judge)
    if is_first():
        writer.flush()
        logged = read_metrics(workdir.metrics)  # nothing where the file was deleted since
        told = [row["judge"] for row in logged if "judge" in row]
        if told[-1:] != [note]:
            writer.write("evaluation", 0, {"judge": note})


def main(argv: Sequence[str]) -> int:
    """Parses the command line, trains and evaluates; the exit status."""
    flags = parse_arguments(
        __doc__,
        argv,
        {
            "--config": {"required": True, "metavar": "FILE[:ARG]", "help": "a run's config"},
            "--workdir": {"required": True, "metavar": "DIR", "help": "folder of the run"},
            "--distributed": {"action": "store_true", "help": "one of a cluster's processes"},
        },
    )
    try:
        with leaving_at_once(), StopSignals() as stop:
            run_all(flags, stop)
    except Stopped as stopped:
        if str(stopped):
            print(stopped, flush=True)
        return EXIT_STOPPED
    return 0


def run_all(flags: argparse.Namespace, stop: StopSignals) -> None:
    """The whole run of a command line, or what is left of it."""
    begin = time.monotonic()
    config = with_start_shapes(load_config(flags.config, flags.overrides))
    join_processes(flags.distributed)
    # Before the workdir: a config that can't run claims no folder; one that has claimed it can.
    mesh = run_mesh(config)
    folder = to_path(flags.workdir, "--workdir")
    suite = open_suite(config, folder)
    if not is_there(Workdir(folder).config):
        check_config(config, mesh, suite)
    stages = run_stages(config, suite)
    if not stages:
        raise UserError(f"config.stages is {config.stages!r}, but the suite has no part passive")
    with contextlib.ExitStack() as stack:
        with first_process_first("workdir"):
            workdir = stack.enter_context(open_workdir(folder, config, is_first()))
        metas = saved_metas(workdir.checkpoints)
        check_lengths(config, metas, workdir.path)
        if is_first():
            keep_config(workdir, config)
        # Results alone count where the checkpoints were deleted to make room.
        finished = all(is_finished(config, name, metas) for name in stages) or not metas
        if finished and workdir.is_done():
            if is_first():
                print_results(read_results(workdir.results))
                print(shown(f"{workdir.path} is done; see {workdir.report}"))
            return
        if is_first() and not finished:
            set_results_aside(workdir)
        stack.enter_context(compiling_into(workdir.compiled))
        with first_process_first("suite"):
            run = open_run(config, suite, workdir, mesh)
        models = train(run, workdir, stop)
        if not models:
            if is_first():
                ended = ", ".join(stages)
                print(shown(f"done with {ended} in {workdir.path}; no model to evaluate yet"))
            return
        evaluate(run, workdir, models, time.monotonic() - begin)
        if is_first():
            minutes = (time.monotonic() - begin) / 60
            print(shown(f"done in {minutes:.1f} min; see {workdir.report}"))


if __name__ == "__main__":
    use_huge_pages()
    run_main(main)
