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

from tfds_builders.readers._fields import asked, ends_of, part_option, split_of, video_names
from tfds_builders.readers._files import annotate, json_rows, refuse_twice, require_file
from tfds_builders.readers._values import (
    anything,
    identifier,
    mapping,
    optional,
    required,
    split_of_file,
    words,
)
from tfds_builders.record import Annotation, BadRow, Unusable
from tfds_builders.times import seconds


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
        text = words(required(row, anything, "question"), "the question")
        evidence = ends_of(row, "answer_start_second", "answer_end_second", "the answer")
        if evidence is None:
            raise Unusable("answer_start_second and answer_end_second are missing")
        length = optional(row, seconds, "video_length")
        if length is not None and evidence[1] > length + 1:
            raise Unusable("the answer ends after the video")
        video = required(row, identifier, "video_id")
        sample = optional(row, identifier, "sample_id")
        made = asked(
            place,
            name_of(video + extension),
            part,
            f"When does the video show the answer to: {text}",
            None,
            evidence=(evidence,),
            task="grounding",
            split=split_of(row) or split,
        )
        if sample is not None:
            once(sample, "sample_id")
        return made

    return annotate(path, json_rows(require_file(path)), make)
