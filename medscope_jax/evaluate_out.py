"""`evaluate --out`: predictions that are kept, of a run's models or of imported weights."""

import argparse
import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from medscope_jax.config import ConfigError
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.data.open_suite import Suite, open_suite
from medscope_jax.errors import closest
from medscope_jax.evaluation.predict import (
    Predictions,
    Subject,
    chosen_records,
    header_of,
    open_predictions,
    predict,
)
from medscope_jax.evaluation.predictions import MODES, prediction_file
from medscope_jax.evaluation.rescore import judge_stored, stored_results
from medscope_jax.files import check_local, check_outputs, is_there, make_folder
from medscope_jax.inference import open_checkpoint, workdir_inputs
from medscope_jax.metrics import print_results, write_results
from medscope_jax.paths import to_path
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.from_config import MODELS
from medscope_jax.training.run import Run, load_records, load_split, make_run, run_mesh
from medscope_jax.training.stage import finished_params
from medscope_jax.training.workdir import Workdir, read_workdir
from medscope_jax.visible import shown

RESULTS = "results.json"
OUT_FLAGS: dict[str, dict[str, Any]] = {
    "--checkpoint": {"metavar": "CKPT", "help": "or a folder of imported weights, with --out"},
    "--data_dir": {
        "metavar": "DATA",
        "help": "with --out: a data folder, or a run's folder whose suite is taken",
    },
    "--mesh": {
        "metavar": "AXES",
        "help": "with --checkpoint: how all devices share it, such as data=2,tensor=4; without, "
        "it takes one device",
    },
    "--modes": {
        "metavar": "MODES",
        "help": "with --checkpoint: tools, passive (none are offered), oracle (the evidence is "
        "shown), or several, with commas",
    },
    "--out": {"metavar": "OUT", "help": "folder in which predictions are kept"},
    "--rescore": {"action": "store_true", "help": "with --out: score what is there, no model"},
    "--limit": {"type": int, "metavar": "N", "help": "with --out: the first N questions alone"},
    "--shard": {"metavar": "I/N", "help": "with --out: part I of N of the questions, from 1/N"},
    "--judge.url": {
        "metavar": "URL",
        "help": "with --out: an endpoint that judges (docs/judges.md)",
    },
    "--judge.model": {"metavar": "NAME", "help": "the model's name there"},
}
# How an endpoint is asked for scores of an evaluation without a config, as configs have it.
_JUDGE = {
    **{"url": "", "model": "", "timeout": 30.0, "concurrency": 8, "temperature": 0.0},
    "max_failed": 0.25,
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a command line asks for.

    Attributes:
      out: where predictions are kept; None where they are not.
      checkpoint, data_dir: folders, or None.
      axes: of a mesh for the checkpoint, or None.
      modes: of MODES.
      limit, shard: see chosen_records.
      judge: url and model, of a config's judge section; {} if no endpoint is named.
    """

    out: Path | None
    checkpoint: Path | None
    data_dir: Path | None
    axes: dict[str, int] | None
    modes: tuple[str, ...]
    limit: int | None
    shard: tuple[int, int]
    judge: dict[str, str]


def read_out_flags(flags: argparse.Namespace) -> Asked:
    """Checks the flags that go together.

    Raises:
      ConfigError: they do not, or one has no such value.
      UserError: --out is an address.
    """
    given = {
        name: getattr(flags, name.removeprefix("--"))
        for name in OUT_FLAGS
        if getattr(flags, name.removeprefix("--")) not in (None, False)
    }
    models = [name for name in ("--workdir", "--checkpoint") if getattr(flags, name[2:])]
    if flags.rescore and (models or given.keys() - {"--out", "--rescore", *_OF_JUDGE}):
        raise ConfigError("--rescore takes --out, --judge.url and --judge.model alone")
    if not flags.rescore and len(models) != 1:
        raise ConfigError(
            "name either --workdir, a training run, or --checkpoint, imported weights; or "
            "--rescore, to score what --out holds"
        )
    if not flags.out and given:
        raise ConfigError(f"{', '.join(given)} needs --out, a folder for the predictions")
    if flags.distributed and given:
        raise ConfigError("--out takes one process: leave --distributed out, or --out")
    if flags.checkpoint and not flags.data_dir:
        raise ConfigError("--checkpoint needs --data_dir, whose videos and questions it is shown")
    if not flags.checkpoint and (of_it := [n for n in ("--mesh", "--modes") if n in given]):
        raise ConfigError(f"{', '.join(of_it)} goes with --checkpoint: a run has its own")
    if len(given.keys() & set(_OF_JUDGE)) == 1:
        raise ConfigError("--judge.url and --judge.model go together")
    if flags.limit is not None and flags.limit < 1:
        raise ConfigError(f"--limit must be at least 1, got {flags.limit}")
    if flags.out:
        check_local(flags.out, "--out")
    judge = {name.removeprefix("--judge."): given[name] for name in _OF_JUDGE if name in given}
    return Asked(
        out=Path(flags.out) if flags.out else None,
        checkpoint=to_path(flags.checkpoint) if flags.checkpoint else None,
        data_dir=to_path(flags.data_dir) if flags.data_dir else None,
        axes=_axes(flags.mesh) if flags.mesh else None,
        modes=_modes(flags.modes or MODES[0]),
        limit=flags.limit,
        shard=_shard(flags.shard or "1/1"),
        judge=judge,
    )


_OF_JUDGE = ("--judge.url", "--judge.model")


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"--shard is {text!r}; use I/N, such as 1/4, with I from 1 to N")
    return int(found[1]), int(found[2])


def _axes(text: str) -> dict[str, int]:
    found = re.findall(r"([a-z]+)=(-1|\d{1,6})(?:,|$)", text)
    if ",".join(f"{name}={size}" for name, size in found) != text or len(dict(found)) < len(found):
        raise ConfigError(f"--mesh is {text!r}; use axes with sizes, such as data=2,tensor=4")
    return {name: int(size) for name, size in found}


def _modes(text: str) -> tuple[str, ...]:
    modes = text.split(",")
    for mode in modes:
        if mode not in MODES or modes.count(mode) > 1:
            raise ConfigError(
                f"unknown mode {mode!r}{closest(mode, MODES)}; --modes takes some of "
                f"{', '.join(MODES)}, each once, with commas between them"
            )
    return tuple(modes)


def score_again(asked: Asked) -> None:
    """Judges the predictions of a folder anew and writes their table."""
    assert asked.out is not None
    judge_stored(asked.out, _JUDGE | asked.judge if asked.judge else None)
    write_table(asked.out)


def write_table(out: Path) -> None:
    """Prints the table of all predictions in a folder, and writes it beside them."""
    found = stored_results(out)
    print_results(found.rows)  # first: a full disk must not take it along
    for note in found.notes:
        print(note)
    write_results(out / RESULTS, found.rows)
    print(shown(f"written to {out / RESULTS}"))


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
    with _predicting(asked, run, split, records, judge, inputs) as (predictions, chosen):
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
    with _predicting(asked, run, split, records, judge, inputs) as (predictions, chosen):
        name, _, params = medscope.weights
        for mode in asked.modes:
            called = name if mode == "tools" else f"{name}, {mode}"
            predict(Subject(called, run, params, mode), records, videos, chosen, predictions)


def _suite(data_dir: Path) -> Suite:
    """The suite of a data folder, or of a run's."""
    if is_there(Workdir(data_dir).config):
        workdir, config = read_workdir(data_dir)
        return open_suite(config, workdir.path)
    return ClinvideoReader(data_dir)


@contextlib.contextmanager
def _predicting(
    asked: Asked,
    run: Run,
    split: str,
    records: Sequence[Mapping],
    judge: Mapping[str, Any],
    inputs: Mapping[str, Path],
) -> Iterator[tuple[Predictions, range]]:
    """(predictions, numbers of the records that are asked for); at the end the table is written."""
    assert asked.out is not None
    path = prediction_file(asked.out, asked.shard)
    chosen = chosen_records(len(records), asked.limit, asked.shard)
    check_outputs({"--out": path}, inputs)
    make_folder(asked.out, private=True)
    with open_predictions(path, header_of(run, split, records), judge) as predictions:
        yield predictions, chosen
    write_table(asked.out)
