"""SVU-31K's own test files: questions about surgical videos and clips of them, answered in words.

Layout: JSON Lines or one list in a .json file, one question a row:

    {"id": "7", "videos": ["/data/v.mp4"], "tag": "Visual Temporal Reasoning",
     "timecodes": [435, 600],
     "messages": [{"role": "user", "content": "<video>Why is the duct clipped?"},
                  {"role": "assistant", "content": "To stop the bile."}]}

The split is the one that the file's name ends in, or test. timecodes are the seconds of the clip
that the question is about, which the benchmark shows its models; [0, -1], or none, is the whole
video. They become the evidence, so that `evaluate --modes oracle` shows their frames. A row becomes
a question of the eval part, or of the one that the option names. The tag is the task, in lower case
and without "visual" and "video".

Words that the user's text sets before the question ("You are given a video segment ...") stay: they
are part of what the benchmark asks. A row about several videos is refused, and so is a clip that
ends at -1 but does not begin at 0, since this file does not say where its video ends.

Obtaining: https://github.com/gkw0010/SurgVidLM has the benchmark's scripts; ask its authors for the
videos and read their terms. surgvidlm.py reads the form that MedScope's authors make of them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medscope_jax.rl.intervals import Span
from tfds_builders.readers._fields import QUESTION_PARTS, asked, part_option, split_of, video_names
from tfds_builders.readers._files import annotate, json_rows, refuse_twice, require_file
from tfds_builders.readers._values import (
    has,
    identifier,
    listing,
    mapping,
    optional,
    plain_text,
    required,
    split_of_file,
    words,
)
from tfds_builders.record import Annotation, BadRow, Unusable
from tfds_builders.times import span

_VIDEO = "<video>"


def read(path: Path, *, part: str = "eval", video_root: str = "") -> Iterator[Annotation | BadRow]:
    """Questions of one file.

    Args:
      path: .json or .jsonl.
      part: eval, rl or qa.
      video_root: as in the package's docstring.

    Raises:
      UserError: no such file, or another part.
    """
    part = part_option(part, QUESTION_PARTS)
    split = split_of_file(path.stem) or "test"
    name_of = video_names(video_root)
    once = refuse_twice()

    def make(place: str, value: object) -> Annotation:
        row = mapping(value)
        videos = required(row, listing, "videos")
        if len(videos) != 1:
            raise Unusable("the question is not about one video")
        question, answer = _said(required(row, listing, "messages"))
        clip = _clip(row)
        if part == "qa" and clip is None:
            raise Unusable("timecodes, the clip to be shown, are missing")
        number = optional(row, identifier, "id")
        made = asked(
            place,
            name_of(videos[0]),
            part,
            question,
            answer,
            evidence=() if clip is None else (clip,),
            task=_task(required(row, words, "tag")),
            split=split_of(row) or split,
            window=clip,
        )
        if number is not None:
            once(number, "id")
        return made

    return annotate(path, json_rows(require_file(path)), make)


def _said(messages: list) -> tuple[str, str]:
    """The question and the answer of a user's and an assistant's message."""
    rows = [mapping(message, "a message") for message in messages]
    if [optional(row, plain_text, "role", "") for row in rows] != ["user", "assistant"]:
        raise Unusable("messages are not one of the user and one of the assistant")
    question, answer = (required(row, plain_text, "content") for row in rows)
    return question.replace(_VIDEO, ""), answer


def _clip(row: dict[str, Any]) -> Span | None:
    """The clip that a row is about; None for the whole video."""
    if not has(row, "timecodes"):
        return None
    ends = required(row, listing, "timecodes")
    if len(ends) != 2:
        raise Unusable("timecodes are not a start and an end")
    if str(ends[1]).strip() in ("-1", "-1.0"):
        if str(ends[0]).strip() in ("0", "0.0"):
            return None
        raise Unusable("the clip ends at -1, the video's end, which is not known here")
    return span(*ends, "the clip")


def _task(tag: str) -> str:
    """Visual Temporal Reasoning -> temporal reasoning."""
    kept = [word for word in tag.lower().split() if word not in ("visual", "video")]
    if not kept:
        raise Unusable("the tag names no task")
    return " ".join(kept)
