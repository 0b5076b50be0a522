"""Stores visual tokens: every frame of a split through a frozen vision tower, once.

    python -m medscope_jax.encode --workdir RUN --split train [--dtype bfloat16|int8|float32]
    python -m medscope_jax.encode --checkpoint CKPT --data_dir DIR --split train --target FOLDER

RUN is a training run: the frames of its suite go through its newest model's tower, into
RUN/banks/DTYPE. CKPT is a weights folder of medscope_jax.convert, DIR a built TFDS data set of
frames: RUN/suite/tfds/phantom_frames/1.0.0, DATA/clinvideo_frames/1.0.0, or anybody's that has an
example a video (features id, times, duration, and frames as JPEG).

What comes out: an ArrayRecord file a video, and index.json with the rounding errors. Videos that
are there already are kept where video, preprocessing and weights are the same; others are made
again, and so are damaged ones, each named. A killed build is continued by the same command.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from medscope_jax.bank.bank_build import Built
from medscope_jax.bank.bank_codec import DTYPES, check_dtype
from medscope_jax.bank.bank_key import Preprocessing
from medscope_jax.bank.bank_store import FrameSource, source_of
from medscope_jax.config import ConfigError, parse_arguments
from medscope_jax.copies import local_copy
from medscope_jax.data.built import SEAL, check_seal, stored_row
from medscope_jax.data.clinvideo_reader import built_outlines, built_videos
from medscope_jax.data.jpeg_frames import JpegFrames
from medscope_jax.data.listing import LISTING
from medscope_jax.data.open_suite import Suite, open_suite
from medscope_jax.data.stored_rows import Mapped
from medscope_jax.distributed import abstract, make_mesh, param_shardings
from medscope_jax.errors import UserError, one_line, run_main
from medscope_jax.models import (
    ModelConfig,
    frame_grid,
    load_params,
    read_model,
    weight_shapes,
)
from medscope_jax.paths import to_path
from medscope_jax.training.run import make_run, run_mesh
from medscope_jax.training.split_bank import bank_folder, build_vision_bank, preprocessing
from medscope_jax.training.stage import newest_model
from medscope_jax.training.workdir import read_workdir
from medscope_jax.video import Video, pair_frames
from medscope_jax.video.lazy_frames import Series
from medscope_jax.visible import shown

_AGAIN = "build that data set again"
_FEATURES = {"id", "times", "duration", "frames"}


def suite_sources(suite: Suite, split: str, pairs: bool = False) -> Mapped[FrameSource]:
    """The videos of a suite's split, in its order.

    pairs: give them in pairs of frames.

    Raises:
      UserError: the suite has no such split, or is not as it was written.
    """
    videos: Series[Video] = suite.videos(split)
    if pairs:
        videos = Mapped(videos, pair_frames)
    return _sources(list(suite.outlines(split)), videos)


def _sources(names: Sequence[str], videos: Series[Video]) -> Mapped[FrameSource]:
    return Mapped(range(len(videos)), lambda row: source_of(names[row], videos[row]))


def frame_sources(data_dir: Path, split: str) -> Mapped[FrameSource]:
    """The videos of a TFDS data set of frames, in its order; JPEG is decoded as it is read.

    Raises:
      UserError: data_dir is no such data set, or has no such split.
    """
    if (data_dir / SEAL).exists():  # what we built; others have none
        check_seal(data_dir, _AGAIN, ("dataset_info.json", "features.json"))
        if (data_dir / LISTING).exists():
            return _sources(list(built_outlines(data_dir, split)), built_videos(data_dir, split))
    try:
        builder = tfds.builder_from_directory(data_dir)
    except Exception as error:  # TFDS has a kind of its own for each thing that is missing
        raise UserError(f"{data_dir} is no built TFDS data set: {one_line(error)}") from error
    missing = sorted(_FEATURES - set(builder.info.features))
    if missing:
        raise UserError(f"{data_dir} is no data set of frames: it has no {', '.join(missing)}")
    if split not in builder.info.splits:
        known = ", ".join(builder.info.splits)
        raise UserError(f"{data_dir} has no split {split!r}; it has {known}")
    rows = builder.as_data_source(split=split)

    def make(row: int) -> FrameSource:
        example = stored_row(rows, row, _AGAIN)
        frames: Any = JpegFrames(example["frames"])  # read as an array is
        times = np.asarray(example["times"], np.float64)
        video = Video(frames, times, float(example["duration"]))
        return source_of(example["id"].decode(), video)

    return Mapped(range(len(rows)), make)


def report(built: Built, dtype: str) -> list[str]:
    """What a build did, in lines for people."""
    lines = [f"{name}: made again, {reason}" for name, reason in built.remade.items()]
    lines.append(f"{built.made} videos encoded, {built.kept} were there")
    error = built.error
    if error.off:
        lines.append(
            f"{dtype} is off by {100 * error.relative_rms:.3f} % (relative, root mean square), the "
            f"worst token by {100 * error.worst:.3f} %: video {built.worst}, frame {error.frame}, "
            f"token {error.token}"
        )
    else:
        lines.append(f"{dtype} holds the tower's output to the bit")
    return lines


def main(argv: Sequence[str]) -> None:
    """Builds the bank that a command line asks for."""
    flags = parse_arguments(
        __doc__,
        argv,
        {
            "--workdir": {"metavar": "RUN", "help": "folder of a training run"},
            "--checkpoint": {"metavar": "CKPT", "help": "or a folder of imported weights"},
            "--data_dir": {
                "metavar": "DIR",
                "help": "with --checkpoint: a TFDS data set of frames",
            },
            "--target": {"metavar": "FOLDER", "help": "with --checkpoint: where the bank goes"},
            "--split": {"required": True, "metavar": "SPLIT", "help": "train, validation or test"},
            "--dtype": {"default": "bfloat16", "metavar": "DTYPE", "help": ", ".join(DTYPES)},
        },
    )
    check_dtype(flags.dtype)
    if bool(flags.workdir) == bool(flags.checkpoint):
        raise ConfigError(
            "name either --workdir, a training run, or --checkpoint, imported weights"
        )
    given = [flag for flag in (flags.data_dir, flags.target) if flag]
    if len(given) != (2 if flags.checkpoint else 0):
        raise ConfigError("--data_dir and --target go with --checkpoint, which needs both")
    opened = _of_workdir if flags.workdir else _of_checkpoint
    folder, build, sources = opened(flags)
    built = build(tqdm(sources, "storing tokens", unit="video"))
    for line in report(built, flags.dtype):
        print(shown(line))
    print(shown(f"written to {folder}"))


Opened = tuple[Path, Callable[[Iterable[FrameSource]], Built], Mapped[FrameSource]]


def _of_workdir(flags) -> Opened:
    workdir, config = read_workdir(flags.workdir)
    suite = open_suite(config, workdir.path)
    made_of = preprocessing(config.video)
    sources = suite_sources(suite, flags.split, made_of.pairs)
    run = make_run(config, workdir, run_mesh(config), suite)
    vision = newest_model(run, workdir)[1]["vision"]
    folder = bank_folder(workdir.path, flags.dtype)
    return folder, _builder(folder, run.model, vision, made_of, flags.dtype), sources


def _of_checkpoint(flags) -> Opened:
    sources = frame_sources(local_copy(to_path(flags.data_dir)), flags.split)
    if not len(sources):
        raise UserError(f"{flags.data_dir} has no video in {flags.split}")
    checkpoint, folder = local_copy(to_path(flags.checkpoint)), to_path(flags.target)
    model = read_model(checkpoint)
    height, width = sources[0].read(0, 1).shape[1:3]
    made_of = preprocessing({"height": height, "width": width})
    frame_grid(model, height, width)
    shapes = {"vision": weight_shapes(model)["vision"]}
    shardings = param_shardings(shapes, make_mesh({}, jax.devices()[:1]))
    vision = load_params(checkpoint, abstract(shapes, shardings))["vision"]
    return folder, _builder(folder, model, vision, made_of, flags.dtype), sources


def _builder(folder: Path, model: ModelConfig, vision: dict, made_of: Preprocessing, dtype: str):
    return lambda sources: build_vision_bank(folder, model, vision, sources, made_of, dtype)


if __name__ == "__main__":
    run_main(main)
