"""Prepares the phantom suite in a workdir: recordings, frames and records.

    python -m tfds_builders.prepare --workdir DIR [--smoke]

DIR/suite/videos      the recordings (mp4) and procedures.json, their scripts
DIR/suite/tfds        phantom_frames and phantom_suite, ArrayRecord
DIR/suite/suite.json  the configuration that all of it belongs to
DIR/suite/done.json   written last; without it the suite is not used

A killed run is continued: whole recordings and whole datasets are kept, the rest is made again. One
process at a time prepares a workdir. That of a bucket is made in its copy here, see copies.py.
"""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from medscope_jax.arguments import Parser
from medscope_jax.copies import local_copy, place_of, publish
from medscope_jax.data.built import SEAL, file_hash, seal
from medscope_jax.data.phantom_reader import DONE, PROCEDURES, is_done, suite_dir
from medscope_jax.errors import UserError, run_main
from medscope_jax.files import check_folder, is_there, write_text, writing
from medscope_jax.locks import alone
from medscope_jax.parts import PARTS
from medscope_jax.paths import is_remote
from medscope_jax.phantom.procedure import Procedure, from_json, to_json
from medscope_jax.phantom.render import write_video
from medscope_jax.phantom.suite_config import (
    SuiteConfig,
    config_to_json,
    fingerprint,
    procedures,
    smoke_suite,
)
from medscope_jax.video.frames import VideoError
from medscope_jax.visible import shown
from medscope_jax.workers import Spread, workers
from tfds_builders.phantom_frames.phantom_frames import PhantomFrames
from tfds_builders.phantom_suite.phantom_suite import PhantomSuite


def prepare_suite(
    workdir: str | os.PathLike, config: SuiteConfig, progress: bool = True, processes: int = 2
) -> pathlib.Path:
    """Makes the suite in workdir/suite, or finds it made.

    Args:
      workdir: created if missing.
      config: the suite's.
      progress: show progress bars.
      processes: how many processes draw, encode and decode recordings; 1 uses none but this one.

    Returns:
      workdir/suite.

    Raises:
      UserError: the folder holds another configuration's suite, another process prepares it, or
        the disk is full.
    """
    if is_remote(workdir):
        return _prepare_in_bucket(suite_dir(workdir), config, progress, processes)
    folder = suite_dir(workdir)
    if not is_done(folder, config):
        folder.mkdir(parents=True, exist_ok=True)
        busy = f"{folder} is being prepared by another process{{by}}: wait for it"
        with alone(folder / ".lock", busy):
            _prepare(folder, config, progress, processes)
    return folder


def _prepare_in_bucket(
    folder: pathlib.Path, config: SuiteConfig, progress: bool, processes: int
) -> pathlib.Path:
    """Finds the suite made, or makes it in its copy on this machine and puts it there."""
    if is_there(folder / DONE):
        is_done(local_copy(folder), config)
        return folder
    here = place_of(folder)
    try:
        is_done(here, config)
    except UserError:  # of an earlier run at this address
        shutil.rmtree(here)
    prepare_suite(here.parent, config, progress, processes)
    publish(folder, last=(DONE, SEAL))
    return folder


def _prepare(folder: pathlib.Path, config: SuiteConfig, progress: bool, processes: int) -> None:
    if is_done(folder, config):  # by whoever had the lock before
        return
    stamp = {"fingerprint": fingerprint(config), "config": config_to_json(config)}
    write_text(folder / "suite.json", json.dumps(stamp))
    scripts = procedures(config)
    videos, data = folder / "videos", folder / "tfds"
    videos.mkdir(exist_ok=True)
    listing = {"config": config_to_json(config), "procedures": [to_json(p) for p in scripts]}
    write_text(videos / PROCEDURES, json.dumps(listing))
    # What a killed build left is under a name of its own; TFDS would never look at it again.
    for left in [*data.rglob("*incomplete*"), *videos.glob("*.partial.mp4")]:
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    with workers(processes) as spread:
        _draw(spread, scripts, videos, progress)
        with _quiet_tfds():
            _build(spread, videos, data, len(scripts), progress)
    sealed = {"fingerprint": stamp["fingerprint"], "procedures": file_hash(videos / PROCEDURES)}
    write_text(folder / DONE, json.dumps(sealed))


def _draw(spread: Spread, scripts: list[Procedure], videos: pathlib.Path, progress: bool) -> None:
    """Writes the recordings that are not there yet."""
    missing = [p for p in scripts if not (videos / f"{p.id}.mp4").exists()]
    # The longest first, so that no process idles at the end.
    missing.sort(key=lambda p: -p.duration)
    jobs = [(to_json(p), str(videos / f"{p.id}.mp4")) for p in missing]
    made = spread(_draw_one, jobs)
    for _ in tqdm(made, "drawing procedures", len(jobs), unit="video", disable=not progress):
        pass


def _draw_one(job: tuple[dict, str]) -> None:
    script, path = job
    try:
        write_video(from_json(script), path)
    except VideoError as error:
        raise UserError(str(error)) from error


def _build(
    spread: Spread, videos: pathlib.Path, data: pathlib.Path, num_videos: int, progress: bool
) -> None:
    """Builds every dataset that is not there yet; each appears only when it is whole."""
    download = tfds.download.DownloadConfig(manual_dir=videos)
    options: dict[str, Any] = {"data_dir": data, "file_format": "array_record"}
    bar = tqdm(total=num_videos + len(PARTS), desc="building datasets", disable=not progress)

    def counted(function: Callable, jobs: Iterable) -> Iterator:
        for result in spread(function, jobs):
            yield result
            bar.update()

    with bar:
        frames = PhantomFrames(map_videos=counted, **options)
        builders: list[Any] = [frames]
        builders += (PhantomSuite(config=part, **options) for part in PARTS)
        for builder in builders:
            builder.download_and_prepare(download_config=download)
            seal(pathlib.Path(builder.data_dir))
            bar.update(builder is not frames)


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Hides TFDS's own bars and its download notice: prepare_suite shows one bar for all."""
    tfds.disable_progress_bar()
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        yield


def main(arguments: list[str]) -> None:
    """Prepares the default suite, or the smoke one."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", required=True, help="where to put the suite")
    parser.add_argument("--smoke", action="store_true", help="the tiny suite")
    flags = parser.parse_args(arguments)
    check_folder(flags.workdir, "--workdir")
    with writing(flags.workdir):
        folder = prepare_suite(flags.workdir, smoke_suite() if flags.smoke else SuiteConfig())
    print(shown(folder))


if __name__ == "__main__":
    run_main(main)
