"""MedVidQA: health questions whose answer is a part of an instructional video.

Layout: train.json, val.json or test.json, each one list; times in whole seconds:

    [{"sample_id": 12, "question": "How to relieve pain in the gums?", "answer_start": "00:14",
      "answer_end": "00:23", "answer_start_second": 14, "answer_end_second": 23,
      "video_length": 120, "video_id": "abc123"}]

A row becomes a grounding question, "When does the video show the answer to: How to relieve pain in
the gums?", about the video abc123.mp4; the answer is [14.0, 23.0]. The split is the one that the
file's name ends in. An answer that ends more than a second after video_length is refused, and so is
a sample_id that comes twice.

Obtaining: annotations at https://doi.org/10.17605/OSF.IO/PC594 (2,710 / 145 / 155 questions), by
the US National Library of Medicine; the videos are YouTube's and under their makers' rights.
"""

from collections.abc import Iterator
from pathlib import Path

from tfds_builders.readers._fields import (
    asked,
    first_of,
    has,
    mapping,
    part_option,
    seconds,
    span,
    split_of_file,
    video_names,
    words,
)
from tfds_builders.readers._files import Unusable, annotate, json_rows, refuse_twice, require_file
from tfds_builders.record import Annotation, BadRow


def read(path: Path, *, part: str = "", extension: str = ".mp4") -> Iterator[Annotation | BadRow]:
    """Grounding questions of one file.

    Args:
      path: the .json file.
      part: "", rl or eval, as in the package's docstring.
      extension: of the video files.

    Raises:
      UserError: no such file, or another part.
    """
    part = part_option(part, ("rl", "eval"))
    split = split_of_file(path.stem)
    name_of = video_names()
    once = refuse_twice()

    def make(place: str, value: object) -> Annotation:
        row = mapping(value)
        text = words(first_of(row, "question"), "the question")
        ends = first_of(row, "answer_start_second"), first_of(row, "answer_end_second")
        evidence = span(*ends, "the answer")
        if has(row, "video_length"):
            length = seconds(row["video_length"], "video_length")
            if evidence[1] > length + 1:
                raise Unusable("the answer ends after the video")
        video = first_of(row, "video_id")
        if not isinstance(video, str):
            raise Unusable("video_id is no text")
        made = asked(
            place,
            name_of(video + extension),
            part,
            f"When does the video show the answer to: {text}",
            None,
            evidence=(evidence,),
            task="grounding",
            split=split,
        )
        if has(row, "sample_id"):
            once(str(row["sample_id"]), "sample_id")
        return made

    return annotate(path, json_rows(require_file(path)), make)
