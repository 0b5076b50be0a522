"""SurgVidLM (SVU-31K) as MedScope's authors prepare it: questions about long surgical videos.

Layout: JSON Lines (or one list in a .json file), one question a row:

    {"clip_id": "c1", "video_name": "v.mp4", "video_path": "/data/v.mp4",
     "clip_start_time": 400.0, "clip_end_time": 620.0, "qa_start_time": 435.0,
     "qa_end_time": 600.0, "question": "What is being avoided?", "answer": "Undue tension."}

All times are absolute seconds of the video. clip_id is optional, and several rows may share it; of
video_path and video_name one suffices. Where qa_start_time and qa_end_time are absent, the clip
itself is the evidence, as in the authors' conversion.

A row becomes one question with that span as its evidence: grounding where the answer is an
interval, vqa where it is words. With part="qa" the record shows the clip, which must hold the
evidence.

Obtaining: SurgVidLM (arXiv 2506.17873) describes the data; ask its authors for the videos and read
their terms. This module ships and downloads nothing.
"""

from collections.abc import Iterator
from pathlib import Path

from tfds_builders.readers._fields import asked, ends_of, part_option, split_of, video_names
from tfds_builders.readers._files import annotate, json_rows, require_file
from tfds_builders.readers._values import anything, mapping, required
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
        question, answer = (required(row, anything, key) for key in ("question", "answer"))
        video = required(row, name_of, "video_path", "video_name")
        clip = ends_of(row, "clip_start_time", "clip_end_time", "the clip")
        evidence = ends_of(row, "qa_start_time", "qa_end_time", "the evidence") or clip
        if evidence is None:
            raise Unusable("qa_start_time and clip_start_time are missing")
        if part == "qa" and (clip is None or not clip[0] <= evidence[0] < evidence[1] <= clip[1]):
            raise Unusable("the clip does not hold the evidence")
        return asked(
            place,
            video,
            part,
            question,
            answer,
            evidence=(evidence,),
            window=clip,
            split=split_of(row),
        )

    return annotate(path, json_rows(require_file(path)), make)
