"""Many questions of a file: the weights are read once, and each recording once for its questions.

A file has a JSON object a line:

    {"question": "When is the clip placed?", "video": "a.mp4"}
    {"question": "What is it?", "video": "b.mp4", "id": 7, "fps": 25, "partial": true}

`video` may be left out where the command line names one. What is answered has a line each, too: the
number of the question's line, its id, and the trace or, in its place, the error. Recordings are not
named, since a file's name may name a patient.
"""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medscope_jax.dialogue.sanitize import clean_question
from medscope_jax.errors import UserError, one_line
from medscope_jax.files import open_regular
from medscope_jax.inference import MedScope
from medscope_jax.report.trace import trace_json
from medscope_jax.stored import Either, parse
from medscope_jax.video import Video

_TOGETHER = 8  # questions of a recording that are answered at the same time


def is_rate(value: Any) -> bool:
    """Whether a value is a number of pictures a second."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0


_SCHEMA = {
    "question": str,
    "video?": str,
    "id?": Either(str, int),
    "fps?": lambda fps: "" if is_rate(fps) else " must be a number above 0",
    "partial?": bool,
}


class AskedQuestion(NamedTuple):
    """A line of the file."""

    line: int  # from 1
    id: str | int | None
    question: str
    recording: tuple[str, float | None, bool]  # its file, and read_video's fps and partial


def read_questions(
    path: Path, video: str | None, fps: float | None, partial: bool
) -> list[AskedQuestion]:
    """The questions of a file.

    Args:
        video, fps, partial: of the lines that do not name their own.

    Raises:
        UserError: the file can't be read, is empty, or a line of it is no question about a
            recording; names the line.
    """
    found = []
    for line, values in _values(path):
        where = f"line {line} of {path}"
        name = values.get("video", video)
        if not name:
            raise UserError(f'{where} names no "video": give each its own, or --video for all')
        recording = name, values.get("fps", fps), values.get("partial", partial)
        question = clean_question(values["question"], where)
        found.append(AskedQuestion(line, values.get("id"), question, recording))
    if not found:
        raise UserError(f"{path} holds no questions")
    return found


def _values(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The numbers and values of a file's lines; empty ones are left out."""
    try:
        with open_regular(path) as file:
            for line, data in enumerate(file, 1):
                if data.strip():
                    yield line, parse(data, _SCHEMA)
    except OSError as error:
        raise UserError(f"{path} can't be read: {one_line(error)}") from error
    except ValueError as error:
        raise UserError(f"line {line} of {path} is no question: {error}") from error


def answer_file(
    medscope: MedScope,
    asked: list[AskedQuestion],
    remedies: Mapping[str, str],
    tell: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    """The answers of questions, recording by recording, as values of JSON.

    Args:
        remedies: how an error about a recording offers them, see MedScope.read_video.
        tell: is given a line about each recording before it is read.
    """
    recordings = list(dict.fromkeys(each.recording for each in asked))
    for number, recording in enumerate(recordings, 1):
        mine = [each for each in asked if each.recording == recording]
        tell(f"recording {number} of {len(recordings)}, {len(mine)} question(s)")
        path, fps, partial = recording
        try:
            video = medscope.read_video(path, fps=fps, partial=partial, remedies=remedies)
        except UserError as error:
            yield from (_failed(each, error) for each in mine)
            continue
        for first in range(0, len(mine), _TOGETHER):
            yield from _answers(medscope, video, mine[first : first + _TOGETHER])


def _answers(
    medscope: MedScope, video: Video, asked: list[AskedQuestion]
) -> Iterator[dict[str, Any]]:
    try:
        traces = medscope.ask(video, [each.question for each in asked])
    except UserError as error:
        if len(asked) == 1:
            yield _failed(asked[0], error)
            return
        for each in asked:  # to know which one it is, and to answer the others
            yield from _answers(medscope, video, [each])
        return
    for each, trace in zip(asked, traces, strict=True):
        yield _head(each) | trace_json(trace)


def _head(asked: AskedQuestion) -> dict[str, Any]:
    known = {} if asked.id is None else {"id": asked.id}
    return {"line": asked.line, **known}


def _failed(asked: AskedQuestion, error: UserError) -> dict[str, Any]:
    path = asked.recording[0]
    told = str(error)
    for name in (path, os.path.basename(path)):
        told = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "the recording", told)
    return {**_head(asked), "question": asked.question, "error": told}
