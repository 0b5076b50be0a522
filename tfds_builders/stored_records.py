"""Records as clinvideo_suite stores them: annotations joined with their videos, and checked."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from medscope_jax.data.listing import ListedVideo, read_times, times_of
from medscope_jax.dialogue import question_text
from medscope_jax.dialogue.sanitize import check_turns
from medscope_jax.errors import UserError
from tfds_builders.cut import cut_to
from tfds_builders.messages import conversation
from tfds_builders.record import Annotation, Unusable, make_record, record_fields
from tfds_builders.shard import Rejected


@dataclasses.dataclass(frozen=True)
class PlacedRow:
    """An annotation and where it belongs.

    Attributes:
      annotation: of a reader, of the record's part.
      name: the record's id.
      source, split: the record's.
      video: the video's id.
      listed: the video in clinvideo_frames.
      path: the video's path relative to the manual folder, for the quarantine.
    """

    annotation: Annotation
    name: str
    source: str
    split: str
    video: str
    listed: ListedVideo
    path: str


def record_features() -> tfds.features.FeaturesDict:
    """The features of clinvideo_suite: those of phantom_suite, and messages."""
    return tfds.features.FeaturesDict({**record_fields(), "messages": tfds.features.Text()})


def make_records(
    rows: tuple[PlacedRow, ...], frames: pathlib.Path
) -> Iterator[dict[str, Any] | Rejected]:
    """The records of rows, each after what was changed of it.

    Args:
      rows: of one split, in order.
      frames: the folder of clinvideo_frames, for the times of its videos.
    """
    seconds = read_times(frames)
    for row in rows:
        times = times_of(row.listed, seconds)
        try:
            annotation, note = cut_to(row.annotation, row.listed.duration)
            record = _record(dataclasses.replace(row, annotation=annotation), times)
        except (UserError, Unusable) as error:
            yield Rejected(row.source, row.annotation.place, str(error), row.path)
            continue
        if note:
            yield Rejected(row.source, row.annotation.place, note, row.path, kept=True)
        yield record


def _record(row: PlacedRow, times: np.ndarray) -> dict[str, Any]:
    """The record of a row; UserError, which quotes no content, where it can't be one."""
    question_text(vars(row.annotation))
    check_turns(row.annotation.turns, "the row")
    record = make_record(
        row.annotation, row.name, row.source, row.split, row.video, times, row.listed.duration
    )
    messages = conversation(record, times)
    return record | {"messages": json.dumps(messages, ensure_ascii=False) if messages else ""}
