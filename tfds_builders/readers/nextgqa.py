"""NExT-GQA: five-option questions with the spans of time that justify the answer.

Layout: val.csv or test.csv, a header and one question a line, and beside it gsub_val.json or
gsub_test.json with the spans in seconds, often several a question:

    video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4
    4010069381,369,640,480,how do the two man play,strum the guitar,6,CH,roll dice,...

    {"4010069381": {"duration": 34, "location": {"6": [[1.2, 5.8], [20.0, 23.5]]}, "fps": 29.97}}

A row becomes a vqa question with its options and all its spans; the answer may be written as the
option's text or as its number. A question without spans is refused: its evidence is not known. The
split is the one that the CSV file's name ends in. train.csv has no spans.

Not clinical: it serves to test evidence of several spans against what others report.

Obtaining: https://github.com/doc-doc/NExT-GQA, under its terms; the videos are those of NExT-QA.
With its map_vid_vidorID.json the videos may keep the folders of VidOR (option video_map).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medscope_jax.errors import UserError
from tfds_builders.readers._csv import csv_rows
from tfds_builders.readers._fields import asked, part_option, video_names
from tfds_builders.readers._files import annotate, json_document, refuse_twice, require_file
from tfds_builders.readers._values import (
    anything,
    identifier,
    required,
    signs,
    split_of_file,
)
from tfds_builders.record import Annotation, BadRow, Unusable
from tfds_builders.times import spans

_OPTIONS = ("a0", "a1", "a2", "a3", "a4")
_COLUMNS = ("video_id", "question", "answer", "qid", *_OPTIONS)


def read(
    path: Path,
    *,
    part: str = "",
    spans_file: str = "",
    video_map: str = "",
    extension: str = ".mp4",
) -> Iterator[Annotation | BadRow]:
    """Questions of one CSV file.

    Args:
      path: the CSV file.
      part: "", rl or eval, as in the package's docstring.
      spans_file: the JSON file of spans, relative to the CSV file's folder; "" for gsub_, the CSV
        file's name, .json.
      video_map: a JSON file, found in the same way, that gives each video_id its path without the
        extension; "" where the videos are called by their ids.
      extension: of the video files.

    Raises:
      UserError: a file that is not there, or not below the CSV file's folder, or another part.
    """
    part = part_option(part, ("rl", "eval"))
    options = {"spans_file": spans_file, "video_map": video_map}
    for key, name in options.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"option {key} must be a path below the folder of the CSV file")
    _, spans_path, *map_path = map(require_file, files(path, options))
    return _read(path, part, spans_path, map_path[0] if map_path else None, extension)


def files(path: Path, options: Mapping[str, Any]) -> list[Path]:
    """The CSV file, that of the spans, and the map of videos, if there is one."""
    beside = [options.get("spans_file") or f"gsub_{path.stem}.json", options.get("video_map")]
    return [path, *(path.parent / name for name in beside if name)]


def _read(
    path: Path, part: str, spans_path: Path, map_path: Path | None, extension: str
) -> Iterator[Annotation | BadRow]:
    located, bad = _object(spans_path)
    yield from bad
    paths, bad = _object(map_path)
    yield from bad
    split = split_of_file(path.stem)
    name_of = video_names()
    once = refuse_twice()

    def make(place: str, row: dict[str, str]) -> Annotation:
        options = {name[1:]: signs(row[name], f"option {name}") for name in _OPTIONS}
        video, question = (required(row, identifier, key) for key in ("video_id", "qid"))
        evidence = _evidence(located, video, question)
        name = video if map_path is None else paths.get(video)
        if not isinstance(name, str):
            raise Unusable("the video map does not name the row's video")
        made = asked(
            place,
            name_of(name + extension),
            part,
            *(required(row, anything, key) for key in ("question", "answer")),
            evidence=evidence,
            task="vqa",
            split=split,
            options=options,
        )
        once((video, question), "video_id and qid")
        return made

    yield from annotate(path, csv_rows(path, _COLUMNS), make)


def _object(path: Path | None) -> tuple[dict[str, Any], list[BadRow]]:
    """A JSON file's object; where it holds none, an empty one and what is wrong."""
    if path is None:
        return {}, []
    value = json_document(path)
    if isinstance(value, dict):
        return value, []
    reason = str(value) if isinstance(value, Unusable) else "the file is no JSON object"
    return {}, [BadRow(f"{path.name}:1", reason)]


def _evidence(located: dict, video: str, question: str) -> tuple[tuple[float, float], ...]:
    entry = located.get(video)
    places = entry.get("location") if isinstance(entry, dict) else None
    given = places.get(question) if isinstance(places, dict) else None
    if not given:
        raise Unusable("the spans file has no span for the question")
    return spans(given, "the evidence")
