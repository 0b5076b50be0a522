"""MedVideoCap-55K with questions about one frame, and its captions.

Layout: JSON Lines (or one list in a .json file). A question's evidence is a single moment:

    {"video_path": "/data/clip.mp4", "question": "What stands on the bench?",
     "answer": "Pipettes.", "anchor_frame_time": 4.5}

anchor_frame_time is in seconds of the clip's own file (clips are some 8 s long). The video may also
be named by `video` or `video_name`. A row that has `caption` and no question is a caption:

    {"video_path": "/data/clip.mp4", "caption": "Two hands hold a pipette over a rack."}

A question becomes a vqa record whose evidence is the frame time. Its answer can't be an interval.
It may have `options`, as plain.py has them. With part="qa" the record shows the whole clip. A
caption becomes a record of the cap part about the whole clip, without evidence.

Obtaining: clips and captions are those of MedGen (FreedomIntelligence/MedVideoCap-55K on Hugging
Face); read its terms, and those of the clips' own sources. The questions are MedScope's authors'.
"""

from collections.abc import Iterator
from pathlib import Path

from tfds_builders.readers._fields import (
    CAPTION_QUESTION,
    asked,
    options_in,
    part_option,
    split_of,
    video_names,
)
from tfds_builders.readers._files import annotate, json_rows, require_file
from tfds_builders.readers._values import anything, has, mapping, required
from tfds_builders.record import Annotation, BadRow
from tfds_builders.times import seconds


def read(path: Path, *, part: str = "", video_root: str = "") -> Iterator[Annotation | BadRow]:
    """Questions and captions of one file; options as in the package's docstring.

    Raises:
      UserError: no such file, or a part other than rl, eval and qa.
    """
    part = part_option(part)
    name_of = video_names(video_root)

    def make(place: str, value: object) -> Annotation:
        row = mapping(value)
        video = required(row, name_of, "video_path", "video", "video_name")
        if has(row, "caption") and not has(row, "question"):
            caption = required(row, anything, "caption")
            about = CAPTION_QUESTION, caption
            return asked(place, video, "cap", *about, task="caption", split=split_of(row))
        question, answer = (required(row, anything, key) for key in ("question", "answer"))
        moment = required(row, seconds, "anchor_frame_time")
        return asked(
            place,
            video,
            part,
            question,
            answer,
            frame_time=moment,
            split=split_of(row),
            options=options_in(row),
        )

    return annotate(path, json_rows(require_file(path)), make)
