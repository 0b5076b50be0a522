"""SurgVidLM (SVU-31K) as MedScope's authors prepare it: questions about long surgical videos.

Layout: JSON Lines (or one list in a .json file), one question a row:

    {"clip_id": "c1", "video_name": "v.mp4", "video_path": "/data/v.mp4",
     "clip_start_time": 400.0, "clip_end_time": 620.0, "qa_start_time": 435.0,
     "qa_end_time": 600.0, "question": "What is being avoided?", "answer": "Undue tension."}

All times are absolute seconds of the video. clip_id is optional, and several rows may share it; of
video_path and video_name one suffices. Evidence may also be frame_time, video_segment or spans;
where none of them is there, the clip itself is the evidence, as in the authors' conversion. A row
may have `options`, as plain.py has them.

A row becomes one question with that span as its evidence: grounding where the answer is an
interval, vqa where it is words. With part="qa" the record shows the clip, which must hold the
evidence.

Obtaining: SurgVidLM (arXiv 2506.17873) describes the data; ask its authors for the videos and read
their terms. This module ships and downloads nothing.
"""

from collections.abc import Iterator
from pathlib import Path

from tfds_builders.readers._fields import (
    EVIDENCE_FIELDS,
    asked_of_clip,
    ends_of,
    part_option,
    video_names,
)
from tfds_builders.readers._files import annotate, json_rows, require_file
from tfds_builders.readers._values import has, mapping, required
from tfds_builders.record import Annotation, BadRow, Unusable


def read(path: Path, *, part: str = "", video_root: str = "") -> Iterator[Annotation | BadRow]:
    """Questions of one file; options as in the package's docstring.

    Raises:
      UserError: no such file, or a part other than rl, eval and qa.
    """
    part = part_option(part)
    name_of = video_names(video_root)

    def make(place: str, value: object) -> Annotation:
        row = mapping(value)
        video = required(row, name_of, "video_path", "video_name")
        clip = ends_of(row, "clip_start_time", "clip_end_time", "the clip")
        if clip is None and not has(row, *EVIDENCE_FIELDS):
            raise Unusable("qa_start_time and clip_start_time are missing")
        return asked_of_clip(row, place, video, part, clip)

    return annotate(path, json_rows(require_file(path)), make)
