"""`evaluate --out`: predictions that are kept, of a run's models, of imported weights, or
of a model behind an endpoint."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from medscope_jax.config import ConfigError
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.data.open_suite import Suite, open_suite
from medscope_jax.evaluate_flags import Asked
from medscope_jax.evaluation.benchmark import BENCHMARKS, benchmark_results
from medscope_jax.evaluation.predict import (
    Predictions,
    Subject,
    chosen_records,
    header_of,
    open_predictions,
    predict,
)
from medscope_jax.evaluation.predict_endpoint import (
    EndpointSubject,
    endpoint_header,
    predict_endpoint,
)
from medscope_jax.evaluation.predictions import PredictionHeader, prediction_file
from medscope_jax.evaluation.rescore import judge_stored, results_to_compare, stored_results
from medscope_jax.evaluation.stored_qualities import judge_stored_qualities
from medscope_jax.evaluation.summary import LEGEND, TextTable, summarize, tables, to_markdown
from medscope_jax.files import check_outputs, is_there, make_folder, write_text
from medscope_jax.inference import open_checkpoint, workdir_inputs
from medscope_jax.metrics import print_results, write_results
from medscope_jax.report import render_tables
from medscope_jax.rl import RewardConfig
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.from_config import MODELS
from medscope_jax.training.run import VideoSplit, load_records, load_split, make_run, run_mesh
from medscope_jax.training.stage import finished_params
from medscope_jax.training.workdir import Workdir, read_workdir
from medscope_jax.visible import shown

RESULTS, INTERVALS, PAGE = "results.json", "intervals.json", "results.md"
# How an endpoint is asked for scores of an evaluation without a config, as configs have it.
_JUDGE = {
    **{"url": "", "model": "", "timeout": 30.0, "concurrency": 8, "temperature": 0.0},
    "max_failed": 0.25,
}


def score_again(asked: Asked) -> None:
    """Judges the predictions of a folder anew and writes their table."""
    assert asked.out is not None
    judge_stored(asked.out, _JUDGE | asked.judge if asked.judge else None)
    _write_tables(asked)


def _write_tables(asked: Asked) -> None:
    """write_table, and the figures of the benchmark that is asked for."""
    assert asked.out is not None
    told = write_table(asked.out, asked.against)
    if asked.benchmark == "svu31k" and asked.judge:
        judge_stored_qualities(asked.out, _JUDGE | asked.judge)
    if asked.benchmark:
        write_benchmark(asked.benchmark, asked.out, asked.against, told)


def write_benchmark(
    name: str, out: Path, against: Path | None = None, told: Sequence[str] = ()
) -> None:
    """Writes a benchmark's figures of a folder's predictions beside them, as JSON and Markdown.

    against: as for write_table. told: notes that need not be told again.
    """
    summary, notes = benchmark_results(name, out, against)
    for note in notes:
        if note not in told:
            print(note)
    path = out / f"benchmark_{name}.md"
    write_results(path.with_suffix(".json"), summary | {"notes": notes})
    _write_pages(path, tables(summary, BENCHMARKS[name].columns), notes, f"Evaluation: {name}")
    print(shown(f"{name}'s figures are written to {path}, as a page and as JSON beside it"))


def _write_pages(path: Path, found: Sequence[TextTable], notes: Sequence[str], title: str) -> None:
    """Writes tables as Markdown and as a page for people, PATH with .html in place of .md."""
    write_text(path, to_markdown(found, notes, title))
    write_text(path.with_suffix(".html"), render_tables(found, notes, title, LEGEND))


def write_table(out: Path, against: Path | None = None) -> list[str]:
    """Prints the table of all predictions in a folder, and writes it beside them: the rows, and
    with intervals as JSON and as Markdown. Returns its notes.

    against: of another evaluation, with whose models each of this folder's is compared.
    """
    found = stored_results(out)
    other = results_to_compare(against, found.header) if against else None
    print_results(found.rows)  # first: a full disk must not take it along
    notes = [*found.notes, *(other.notes if other else ())]
    for note in notes:
        print(note)
    summary = summarize(found.measured, other.measured if other else ())
    write_results(out / RESULTS, found.rows)
    write_results(out / INTERVALS, summary | {"notes": notes})
    _write_pages(out / PAGE, tables(summary), notes, "Evaluation")
    print(shown(f"written to {out / RESULTS}, with intervals to {INTERVALS} and {PAGE} beside it"))
    return notes


def predict_run(asked: Asked, workdir: Workdir, config: ConfigDict, split: str) -> None:
    """Predicts with every finished model of a run, and writes the table."""
    suite = open_suite(config, workdir.path)
    if asked.data_dir:
        suite = _suite(asked.data_dir)
        suite.check(config.video, [(split, ("eval",))])
    inputs = workdir_inputs(workdir.path)
    run = make_run(config, workdir, run_mesh(config), suite)
    records, videos = list(load_records(run, "eval", split)), load_split(run, split)
    judge = config.judge.to_dict() | asked.judge
    header = header_of(run, split, records)
    with _predicting(asked, header, len(records), judge, inputs) as (predictions, chosen):
        count = 0
        with Checkpoints(workdir.checkpoints, read_only=True) as checkpoints:
            for model, stage in MODELS.items():
                params = finished_params(run, checkpoints, stage)
                if params is None:
                    print(f"{model}: stage {stage} has not finished yet, so it is left out")
                    continue
                subject = Subject(model, run, params, "passive" if model == "passive" else "tools")
                predict(subject, records, videos, chosen, predictions)
                count += 1
        if not count:
            raise ConfigError(
                f"{workdir.path} holds no finished model yet; go on training it first"
            )


def predict_checkpoint(asked: Asked, split: str) -> None:
    """Predicts with imported weights in each of the modes, and writes the table."""
    assert asked.checkpoint is not None and asked.data_dir is not None
    medscope, suite = open_checkpoint(asked.checkpoint, asked.axes), _suite(asked.data_dir)
    size = suite.videos(split)[0].frames.shape[-3:-1]
    run = dataclasses.replace(medscope.run_for(size), suite=suite)
    longest = max(len(video.times) for video in suite.outlines(split).values())
    run.config.video.max_frames = max(run.config.video.max_frames, longest)
    records, videos = list(load_records(run, "eval", split)), load_split(run, split)
    inputs = medscope.inputs
    judge = _JUDGE | asked.judge
    header = header_of(run, split, records)
    with _predicting(asked, header, len(records), judge, inputs) as (predictions, chosen):
        name, _, params = medscope.weights
        for mode in asked.modes:
            called = name if mode == "tools" else f"{name}, {mode}"
            predict(Subject(called, run, params, mode), records, videos, chosen, predictions)


def predict_elsewhere(asked: Asked, name: str) -> None:
    """Predicts with a model behind an endpoint in each of the modes, and writes the table."""
    assert asked.endpoint is not None and asked.data_dir is not None
    suite = _suite(asked.data_dir)
    records = list(suite.records("eval", name))
    videos = VideoSplit(
        suite.videos(name), {video: row for row, video in enumerate(suite.outlines(name))}
    )
    subjects = [EndpointSubject(asked.endpoint, asked.temperature, mode) for mode in asked.modes]
    frame_window = RewardConfig().frame_window
    header = endpoint_header(
        subjects[0], suite.fingerprint("eval"), name, len(records), frame_window
    )
    judge = _JUDGE | asked.judge
    with _predicting(asked, header, len(records), judge, {}) as (predictions, chosen):
        for subject in subjects:
            predict_endpoint(subject, records, videos, chosen, predictions)


def _suite(data_dir: Path) -> Suite:
    """The suite of a data folder, or of a run's."""
    if is_there(Workdir(data_dir).config):
        workdir, config = read_workdir(data_dir)
        return open_suite(config, workdir.path)
    return ClinvideoReader(data_dir)


@contextlib.contextmanager
def _predicting(
    asked: Asked,
    header: PredictionHeader,
    count: int,
    judge: Mapping[str, Any],
    inputs: Mapping[str, Path],
) -> Iterator[tuple[Predictions, range]]:
    """(predictions, numbers of those of `count` records that are asked for); at the end the table
    is written."""
    assert asked.out is not None
    path = prediction_file(asked.out, asked.shard)
    chosen = chosen_records(count, asked.limit, asked.shard)
    check_outputs({"--out": path}, inputs)
    if asked.against:  # before hours of predicting
        results_to_compare(asked.against, header)
    make_folder(asked.out, private=True)
    with open_predictions(path, header, judge) as predictions:
        yield predictions, chosen
    _write_tables(asked)
