"""The suite that a run learns from: phantom procedures, or what tfds_builders.build made of yours.

Phantom procedures are drawn into the run's folder. config.suite.data_dir names a data folder with
clinvideo_frames and clinvideo_suite instead; both hold the same records and videos in form.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from medscope_jax.data import clinvideo_reader as clinvideo
from medscope_jax.data import phantom_reader as read
from medscope_jax.data.listing import read_listing, read_times
from medscope_jax.errors import UserError
from medscope_jax.phantom.suite_config import SuiteConfig, suite_config
from medscope_jax.video import Video

# What a run needs of a data folder: of each line one part at least, in that split.
_NEEDED = (
    ("train", ("cap", "qa")),
    ("train", ("vcot", "cot")),
    ("train", ("rl",)),
    ("test", ("eval",)),
)


def suite_of(config: ConfigDict) -> SuiteConfig:
    """The phantom suite of a run's config: its suite section and what other sections decide."""
    section = {key: value for key, value in config.suite.items() if key != "data_dir"}
    shared = {
        "bank_fps": config.video.fps,
        "frame_height": config.video.height,
        "frame_width": config.video.width,
        "preview_frames": config.dialogue.preview_frames,
        "window_frames": config.dialogue.window_frames,
    }
    return suite_config({**section, **shared})


def suite_records(config: ConfigDict, folder: Path, part: str, split: str) -> Sequence[dict]:
    """The records of a part and split by row, see phantom_suite.records; folder: the run's."""
    if config.suite.data_dir:
        return clinvideo.load_part(config.suite.data_dir, part, split)
    return read.load_part(folder, part, split)


def suite_videos(config: ConfigDict, folder: Path, split: str) -> Iterator[Video]:
    """The videos of a split in order; a data folder's frames stay JPEG until they are asked for."""
    if config.suite.data_dir:
        examples = clinvideo.load_frames(config.suite.data_dir, split, lazy=True)
    else:
        examples = read.load_frames(folder, split)
    for example in examples:
        notes = tuple(example.get("notes", ()))
        yield Video(example["frames"], example["times"], example["duration"], notes=notes)


def suite_rows(config: ConfigDict, folder: Path, split: str) -> dict[str, int]:
    """The place of each video id in suite_videos."""
    if config.suite.data_dir:
        return clinvideo.video_rows(config.suite.data_dir, split)
    return read.video_rows(folder, split)


def suite_texts(config: ConfigDict) -> Iterator[str]:
    """Texts of training records for a tokenizer; the phantom suite's need not be drawn."""
    if config.suite.data_dir:
        return clinvideo.suite_texts(config.suite.data_dir)
    return read.suite_corpus(suite_of(config), max_procedures=40)


def has_part(config: ConfigDict, part: str, split: str = "train") -> bool:
    """Whether there are such records; the phantom suite has all, a data folder what was built."""
    data_dir = config.suite.data_dir
    return not data_dir or split in clinvideo.splits_of(data_dir, part)


def check_data_dir(config: ConfigDict) -> None:
    """Refuses a data folder that the run can't be made of, before it claims its own folder.

    Raises:
      UserError: a part or split is not built, its frame rate, size or fewest frames are not
        config.video's, or a video has more bank frames than it allows.
    """
    data_dir, video = config.suite.data_dir, config.video
    for split, parts in _NEEDED:
        if not any(has_part(config, part, split) for part in parts):
            raise UserError(
                f"config.suite.data_dir {data_dir} has no split {split} of {' or '.join(parts)}, "
                "which a run needs: add a source of it to suite.json and build again"
            )
    built = clinvideo.video_settings(data_dir)
    for key in ("fps", "height", "width", "min_frames"):
        if getattr(built, key) != video[key]:
            raise UserError(
                f"config.video.{key} is {video[key]}, but {data_dir} was built with "
                f"{getattr(built, key)}: set --config.video.{key}={getattr(built, key)}"
            )
    share = 2 if video.native_pairs else 1
    listing = read_listing(clinvideo.built_folder(data_dir, "clinvideo_frames"))
    longest = -(-max(found.num_frames for found in listing.values()) // share)
    if longest > video.max_frames:
        raise UserError(
            f"config.video.max_frames is {video.max_frames}, but {data_dir} has a video of "
            f"{longest} bank frames"
        )


def times_only(config: ConfigDict, split: str) -> dict[str, Video]:
    """The videos of a data folder's split by id, without pixels: what laying out records needs."""
    folder = clinvideo.built_folder(config.suite.data_dir, "clinvideo_frames")
    return {
        name: unseen(read_times(folder, found), found.duration)
        for name, found in read_listing(folder).items()
        if found.split == split
    }


def unseen(times: np.ndarray, duration: float) -> Video:
    """A video without pixels: how many tokens it takes depends on its times [T] alone."""
    return Video(np.zeros((len(times), 0, 0, 3), np.uint8), times, duration)
