"""Builds ClinvideoSuite from a manual folder: tfds build's flags, without TensorFlow.

    python -m tfds_builders.build clinvideo_frames --manual_dir MANUAL --data_dir DATA
    python -m tfds_builders.build clinvideo_suite --manual_dir MANUAL --data_dir DATA
        [--config vcot] [--num-processes N] [--beam_pipeline_options OPTIONS] [--overwrite]
        [--measure_for tpu_configs/v5e.py:7b [--checkpoint CKPT]]

clinvideo_suite builds clinvideo_frames first where DATA has none. Without --config it builds every
part that has a row. What is there already is kept if it was built from the same videos and
annotations; otherwise --overwrite builds it again, and the frames, too, where they must be. A data
set takes its name when it is whole, so a killed build leaves the one before. At the end it says how
many rows and videos could not be used, by source and reason; where each of them stands is in
MANUAL/quarantine.jsonl. One build at a time to a DATA; let no run read what is built again.

--num-processes spreads one build over processes of this machine (tfds build's flag of that name
builds several datasets side by side). --beam_pipeline_options spreads it over a runner of Apache
Beam (python -m pip install apache-beam), with OPTIONS like

    runner=DirectRunner,direct_num_workers=4,direct_running_mode=multi_processing

whose machines see MANUAL and DATA under the same paths.

--measure_for names the config that will train on a large suite, and --checkpoint the imported
weights it starts from, if it does: how long each record's row is, is then found here, over all
cores, instead of at the run's first start.

TFDS's own `tfds build` does the same builder by builder, with all of its flags:
tfds_builders/tfds.py starts it, without TensorFlow.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Callable

import tensorflow_datasets as tfds

from medscope_jax.arguments import Parser
from medscope_jax.copies import working_copy
from medscope_jax.data.built import SEAL, recover
from medscope_jax.errors import UserError, run_main
from medscope_jax.files import check_folder, check_local, writing
from medscope_jax.parts import PARTS
from medscope_jax.paths import is_remote, to_path
from medscope_jax.visible import shown
from medscope_jax.workers import Spread, available_processes, workers
from tfds_builders.beam import SHARED, beam_workers
from tfds_builders.clinvideo_frames.clinvideo_frames import ClinvideoFrames
from tfds_builders.clinvideo_suite.clinvideo_suite import ClinvideoSuite
from tfds_builders.manual import Manual, read_manual
from tfds_builders.measure import measure_rows
from tfds_builders.quarantine import NAME, Counts, print_counts
from tfds_builders.sharded_builder import (
    EmptyDatasetError,
    ShardedBuilder,
    changed,
    data_lock,
    quarantined,
    read_source,
    reports_folder,
)
from tfds_builders.video_plan import Read, make_plan

BUILDERS = (ClinvideoFrames.name, ClinvideoSuite.name)


def build(
    builder: str,
    manual_dir: str | os.PathLike,
    data_dir: str | os.PathLike,
    config: str | None = None,
    spread: Spread = map,
    overwrite: bool = False,
    read: Read | None = None,
    quiet: bool = False,
) -> dict[str, Counts]:
    """Builds one or all datasets and, unless quiet, prints what came out.

    Args:
      builder: clinvideo_frames or clinvideo_suite.
      manual_dir, data_dir: see the module's words.
      config: the part of clinvideo_suite; None for all of them.
      spread: the map over workers (see spread.py); the bytes do not depend on it.
      overwrite: build again what is there.
      read: gives rows, as readers.read_source, the default.

    Returns:
      what could not be used: stage -> counts of (source, reason).

    Raises:
      UserError: an unknown builder or part, a fault of suite.json, not one example, another build
        at work in data_dir, or what is there was built of something else or damaged.

    A data_dir in a bucket is built in its copy on this machine (see copies.py), and put there when
    it is whole.
    """
    if builder not in BUILDERS:
        raise UserError(f"unknown builder {builder!r}; there are {' and '.join(BUILDERS)}")
    if config is not None and (builder != ClinvideoSuite.name or config not in PARTS):
        raise UserError(
            f"{builder} has no config {config!r}; clinvideo_suite has {', '.join(PARTS)}"
        )
    if is_remote(data_dir):
        folder = to_path(data_dir, "--data_dir")
        with data_lock(folder), working_copy(folder, last=(SEAL,)) as here:
            return build(builder, manual_dir, here, config, spread, overwrite, read, quiet)
    manual, read = read_manual(manual_dir), read or read_source()
    reports = reports_folder(manual.folder, data_dir)
    say = (lambda *_: None) if quiet else print
    with data_lock(data_dir):
        for left in pathlib.Path(data_dir).glob(f"*{SHARED}"):
            shutil.rmtree(left)
        plan = make_plan(manual, read, spread, reports)
        options = {"data_dir": data_dir, "spread": spread, "read": read, "plan": plan}
        options |= {"locked": True}
        parts = () if builder == ClinvideoFrames.name else PARTS if config is None else (config,)
        frames = ClinvideoFrames(**options)
        suites = {part: ClinvideoSuite(config=part, **options) for part in parts}
        for made in (frames, *suites.values()):  # before any work
            recover(pathlib.Path(made.data_dir))
            fault = "" if overwrite else made.fault(plan)
            if fault and pathlib.Path(made.data_dir).exists():
                raise UserError(fault)
        again = overwrite and (not suites or bool(frames.fault(plan)))
        counts, empty = _prepare(frames, manual, again, say), []
        for part, made in suites.items():
            try:
                counts |= _prepare(made, manual, overwrite, say)
            except EmptyDatasetError as error:
                if config is not None:
                    raise
                counts |= error.counts
                empty.append(part)
        if empty:
            say(f"without one example: {', '.join(empty)}")
    counts |= {"annotations": plan.bad_rows}
    total = sum(sum(found.values()) for found in counts.values())
    if not quiet:
        print_counts(counts)
    if len(empty) == len(PARTS) and any(source.reader for source in manual.sources):
        raise EmptyDatasetError(builder, counts)
    where = f": see {reports / NAME}" if total else ""
    say(shown(f"{total} rows and videos quarantined{where}"))
    return counts


def _prepare(
    builder: ShardedBuilder, manual: Manual, overwrite: bool, say: Callable
) -> dict[str, Counts]:
    """Builds a dataset unless it is there; says how large it is. Returns what it left out."""
    there = pathlib.Path(builder.data_dir).exists() and not overwrite
    modes = tfds.GenerateMode
    # TFDS's notice of downloads is hidden: nothing is downloaded.
    download = tfds.download.DownloadConfig(
        manual_dir=manual.folder,
        try_download_gcs=False,
        download_mode=modes.REUSE_CACHE_IF_EXISTS if overwrite else modes.REUSE_DATASET_IF_EXISTS,
    )
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        builder.download_and_prepare(download_config=download)
    sizes = ", ".join(f"{name} {count}" for name, count in builder.sizes().items())
    say(f"{builder.info.full_name}: {sizes}" + (" (was there already)" if there else ""))
    if rows := changed(builder).total():
        say(f"  {rows} of them with times cut at the end of their video")
    return quarantined(builder)


def main(arguments: list[str]) -> None:
    """Builds what the command line asks for."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("builder", choices=BUILDERS)
    parser.add_argument("--config", choices=PARTS, help="part of clinvideo_suite; default: all")
    parser.add_argument("--manual_dir", required=True, help="folder with suite.json")
    parser.add_argument("--data_dir", required=True, help="folder to put the datasets into")
    parser.add_argument("--num-processes", "--num_processes", type=int, help="default: all")
    parser.add_argument("--beam_pipeline_options", help="comma-separated, without leading --")
    parser.add_argument("--overwrite", action="store_true", help="build again what is there")
    parser.add_argument("--measure_for", metavar="FILE[:ARG]", help="a run's config: see above")
    parser.add_argument("--checkpoint", metavar="CKPT", help="with it: imported weights")
    flags = parser.parse_args(arguments)
    if flags.checkpoint and not flags.measure_for:
        raise UserError("--checkpoint needs --measure_for, the config that starts from it")
    if flags.measure_for and (flags.builder != ClinvideoSuite.name or flags.config):
        raise UserError("--measure_for is for all of clinvideo_suite: leave --config out")
    check_local(flags.manual_dir, "--manual_dir")
    check_folder(flags.manual_dir, "--manual_dir")
    check_folder(flags.data_dir, "--data_dir")
    check_folder(flags.checkpoint or "", "--checkpoint")
    with (
        writing(flags.data_dir),
        _spread(flags.num_processes, flags.beam_pipeline_options, flags.data_dir) as spread,
    ):
        build(
            flags.builder, flags.manual_dir, flags.data_dir, flags.config, spread, flags.overwrite
        )
    if flags.measure_for:
        measure_rows(flags.measure_for, flags.checkpoint, flags.data_dir)


def _spread(
    processes: int | None, beam_options: str | None, data_dir: str
) -> contextlib.AbstractContextManager[Spread]:
    if beam_options is not None:
        check_local(data_dir, "with --beam_pipeline_options, --data_dir")
    if beam_options is None:
        return workers(available_processes() if processes is None else processes)
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise UserError("Beam is asked for: python -m pip install apache-beam") from None
    flags = [f"--{option}" for option in beam_options.split(",")]
    return contextlib.nullcontext(beam_workers(PipelineOptions(flags=flags), folder=data_dir))


if __name__ == "__main__":
    run_main(main)
