"""Cholec80: phases and instruments of 80 laparoscopic gallbladder removals.

Layout: a folder with, for each video, a text file of phases (every frame, 25 a second) and one of
instruments (every 25th frame); columns are separated by tabs, the first line is a header:

    phase_annotations/video01-phase.txt     tool_annotations/video01-tool.txt
    Frame  Phase                            Frame  Grasper  Bipolar  Hook  Scissors  Clipper ...
    0      Preparation                      0      1        0        0     0         0
    1      Preparation                      25     1        0        1     0         0

`path` is that folder, or a single -phase.txt or -tool.txt file. The video is video01.mp4. Times are
frame numbers divided by the option fps; copies with a line a second need fps=1 and tool_every=1.

What becomes of a video (all spans are those of `_labels`):

- of each phase, "When does the calot triangle dissection phase take place?" (grounding);
- of each instrument, "When is the hook in view?" (grounding), unless that is in more than
  max_spans spans;
- of the longest stretches over which the instruments in view stay the same, "Which instruments are
  in view from 12.5 to 40.5 seconds?" (perception), answered "grasper, hook".

A line that can't be read is a BadRow and its frame goes unlabelled; the place of a question is its
file, for it comes from many lines.

The data name no split; the first 40 videos are customarily for training. Videos of CholecT50 with
the same number are the same operations: never train on the one and test on the other.

Obtaining: ask CAMMA (https://camma.unistra.fr/datasets) for access and cite EndoNet (arXiv
1602.03012); non-commercial research only, their terms say.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medscope_jax.errors import UserError
from tfds_builders.readers._fields import part_option
from tfds_builders.readers._files import MAX_BAD, TOO_MANY_BAD, listed, require_file, text_rows
from tfds_builders.readers._labels import (
    MAX_RATE,
    MIN_RATE,
    Grouping,
    LabelQuestion,
    ask,
    instrument_questions,
    phase_questions,
)
from tfds_builders.record import Annotation, BadRow, Unusable
from tfds_builders.times import seconds

_MAX_COLUMNS = 256
_MAX_LABELS = 2**21  # of a file: 23 hours at 25 a second


def read(
    path: Path,
    *,
    part: str = "",
    fps: float = 25.0,
    tool_every: int = 25,
    extension: str = ".mp4",
    max_gap: float = 2.0,
    max_spans: int = 8,
    stretches: int = 20,
    min_stretch: float = 3.0,
) -> Iterator[Annotation | BadRow]:
    """Questions of all videos of a folder, or of one file.

    Args:
      path: see above.
      part: "", rl or eval, as in the package's docstring.
      fps: frames a second of the frame numbers.
      tool_every: frames from one line of a file of instruments to the next.
      extension: of the video files.
      max_gap, max_spans, stretches, min_stretch: see `_labels.Grouping`; seconds and numbers.

    Raises:
      UserError: no such folder or file, no annotations in it, or an option out of range.
    """
    part = part_option(part, ("rl", "eval"))
    if not MIN_RATE <= fps <= MAX_RATE or not 1 <= tool_every <= 1000:
        raise UserError(
            f"option fps must be from {MIN_RATE} to {MAX_RATE}, tool_every from 1 to 1000"
        )
    grouping = Grouping(max_gap, max_spans, stretches, min_stretch)
    steps = {"phase": 1 / fps, "tool": tool_every / fps}
    return _read(_files(path), part, fps, steps, extension, grouping)


def files(path: Path, options: Mapping[str, Any]) -> list[Path]:
    """The annotation files, a video's phases before its instruments."""
    if not path.is_dir():
        return [path]
    found = [
        *listed(path / "phase_annotations", "*-phase.txt"),
        *listed(path / "tool_annotations", "*-tool.txt"),
    ]
    return sorted(found, key=lambda file: file.name)


def _files(path: Path) -> list[Path]:
    found = files(path, {})
    if not found:
        raise UserError(f"{path} holds no phase_annotations and no tool_annotations")
    if found == [path] and not path.stem.endswith(("-phase", "-tool")):
        raise UserError(f"{path} is called neither ...-phase.txt nor ...-tool.txt")
    return [require_file(file) for file in found]


def _read(
    files: list[Path],
    part: str,
    fps: float,
    steps: dict[str, float],
    extension: str,
    grouping: Grouping,
) -> Iterator[Annotation | BadRow]:
    for path in files:
        stem, _, kind = path.stem.rpartition("-")
        labels: dict[float, tuple[str, ...]] = {}
        known: dict[tuple[str, ...], tuple[str, ...]] = {}  # the same labels take memory once
        names = ["Phase"] if kind == "phase" else []
        empty, bad = True, 0
        for number, line in text_rows(path):
            if bad == MAX_BAD:
                break
            try:
                if isinstance(line, Unusable):
                    raise line
                fields = [field.strip() for field in line.split("\t" if "\t" in line else None)]
                if empty and fields and fields[0].lower() == "frame":
                    names = _header(fields, kind)
                else:
                    frame, values = _label(fields, names, kind)
                    time = seconds(frame / fps, "the frame's time")
                    if time in labels:
                        raise Unusable("the frame is labelled twice")
                    if len(labels) == _MAX_LABELS:
                        raise Unusable(f"a file has more than {_MAX_LABELS:,} labelled frames")
                    labels[time] = known.setdefault(values, values)
            except Unusable as error:
                bad += 1
                yield BadRow(f"{path.name}:{number}", str(error))
            empty = False
        if bad == MAX_BAD:
            yield BadRow(path.name, TOO_MANY_BAD)
            continue
        if not (labels or bad):
            yield BadRow(f"{path.name}:1", "the file holds no rows")
        if labels:
            questions = _questions(labels, names, kind, steps[kind], grouping)
            yield from ask(path.name, stem + extension, part, questions)


def _header(fields: list[str], kind: str) -> list[str]:
    """The columns' names after the first; of a file of phases there is one."""
    if len(fields) < 2 or "" in fields or len(set(fields)) != len(fields):
        raise Unusable("the header does not name each column once")
    if len(fields) > _MAX_COLUMNS:
        raise Unusable(f"the header names more than {_MAX_COLUMNS} columns")
    if kind == "phase" and len(fields) > 2:
        raise Unusable("the header of a file of phases names more than a frame and its phase")
    return fields[1:]


def _label(fields: list[str], names: list[str], kind: str) -> tuple[int, tuple[str, ...]]:
    """A line's frame number and the values after it."""
    if not names:
        raise Unusable("no header above the line names its columns")
    if len(fields) != len(names) + 1:
        raise Unusable(f"the line has {len(fields)} columns, not {len(names) + 1}")
    frame, *values = fields
    if not (frame.isascii() and frame.isdecimal()) or len(frame) > 9:
        raise Unusable("the frame is no number of a frame")
    if kind == "tool" and not set(values) <= {"0", "1"}:
        raise Unusable("an instrument's value is neither 0 nor 1")
    if not all(any(map(str.isalnum, value)) for value in values):
        raise Unusable("the frame has no label")
    if kind == "phase" and any(map(str.isdecimal, values)):
        raise Unusable("the frame's phase is a number, not a name")
    return int(frame), tuple(values)


def _questions(
    labels: dict[float, tuple[str, ...]],
    names: list[str],
    kind: str,
    step: float,
    grouping: Grouping,
) -> list[LabelQuestion]:
    if kind == "phase":
        phases = {time: values[0] for time, values in labels.items()}
        return phase_questions(phases, step, grouping)
    seen = {
        time: {name for name, value in zip(names, values, strict=True) if value == "1"}
        for time, values in labels.items()
    }
    return instrument_questions(seen, names, step, grouping)
