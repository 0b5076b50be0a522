"""Narrated clips, as OphVL has them: a recording is cut into clips, each with what is said of it.

Layout: JSON Lines (or one list in a .json file), one clip a row, with times in seconds of the whole
recording:

    {"video_path": "/data/v.mp4", "clip_start_time": 31.5, "clip_end_time": 58.0,
     "caption": "The surgeon completes the capsulorhexis with forceps."}

and, of the same file or another, questions about a clip (OphVL's evidence is often 2 s long):

    {"video_path": "/data/v.mp4", "clip_start_time": 372.639, "clip_end_time": 374.639,
     "question": "What is being inserted?", "answer": "A haptic."}

The layout is that of MedScope's other sources, not OphVL's own release, whose key names are not
known here: the options video_key, start_key, end_key and text_key say which keys hold the video,
the clip and its narration. Questions may have qa_start_time and qa_end_time, frame_time,
video_segment or spans, which then are the evidence, and `options`, as plain.py has them.

A narration becomes a record of the cap part that shows the clip, with the clip as its evidence. A
question becomes grounding where its answer is an interval, vqa where it is words.

Obtaining: OphVL comes with OphCLIP (arXiv 2411.15421), its videos from YouTube; read the terms of
both.
"""

from collections.abc import Iterator
from pathlib import Path

from tfds_builders.readers._fields import (
    CAPTION_QUESTION,
    asked,
    asked_of_clip,
    ends_of,
    part_option,
    split_of,
    video_names,
)
from tfds_builders.readers._files import annotate, json_rows, require_file
from tfds_builders.readers._values import anything, has, mapping, required
from tfds_builders.record import Annotation, BadRow, Unusable


def read(
    path: Path,
    *,
    part: str = "",
    video_root: str = "",
    video_key: str = "video_path",
    start_key: str = "clip_start_time",
    end_key: str = "clip_end_time",
    text_key: str = "caption",
) -> Iterator[Annotation | BadRow]:
    """Narrations and questions of one file.

    Args:
      path: the file.
      part, video_root: as in the package's docstring; `part` is that of questions.
      video_key, start_key, end_key, text_key: what the file calls video, clip and narration.

    Raises:
      UserError: no such file, or a part other than rl, eval and qa.
    """
    part = part_option(part)
    name_of = video_names(video_root)

    def make(place: str, value: object) -> Annotation:
        row = mapping(value)
        video = required(row, name_of, video_key)
        clip = ends_of(row, start_key, end_key, "the clip")
        if clip is None:
            raise Unusable("the clip's start and end are missing")
        if has(row, text_key) and not has(row, "question"):
            return asked(
                place,
                video,
                "cap",
                CAPTION_QUESTION,
                required(row, anything, text_key),
                task="caption",
                evidence=(clip,),
                window=clip,
                split=split_of(row),
            )
        return asked_of_clip(row, place, video, part, clip)

    return annotate(path, json_rows(require_file(path)), make)
