"""CholecT50: what each instrument does to what, in 50 laparoscopic gallbladder removals.

Layout: labels/VID01.json and so on, beside videos/VID01/000000.png, one frame a second:

    {"video": 1, "fps": 1, "num_frames": 1733,
     "categories": {"instrument": {"0": "grasper", ...}, "verb": {"0": "grasp", ...},
                    "target": {"0": "gallbladder", ...}, "phase": {"0": "preparation", ...},
                    "triplet": {"0": "grasper,dissect,cystic_plate", ...}},
     "annotations": {"0": [[17, 0, 1, -1, -1, -1, -1, 1, 0, -1, -1, -1, -1, -1, 2]], "1": [], ...}}

A frame holds any number of instances of 15 values: 0 triplet; 1 instrument, 2 its score, 3-6 its
box; 7 verb; 8 target, 9 its score, 10-13 its box; 14 phase. -1 is null, and all instances of a
frame agree on the phase. `path` is the labels folder, the folder that holds it, or one file. The
video is the folder VID01 of frames (option extension: ".mp4" where the videos are files).

What becomes of a video (all spans are those of `_labels`, with frame / fps as a label's time):

- of each phase, "When does the gallbladder dissection phase take place?" (grounding);
- of each instrument, "When is the hook in view?" (grounding), unless that is in more than
  max_spans spans;
- of the longest stretches over which the instruments in view stay the same, "Which instruments are
  in view from 12.5 to 40.5 seconds?" (perception), answered "grasper, hook";
- of each triplet in at most max_spans spans, "When does the grasper retract the gallbladder?"
  (grounding), and, where one answer alone is right in this video, "Which instrument is used to clip
  the cystic duct?" and "What does the hook dissect?" (vqa);
- of the longest stretches in which an instrument does one thing, "What does the hook do from 60.5
  to 81.5 seconds?" (vqa), answered "dissect the gallbladder".

Triplets whose verb or target is null are no actions and are left out; their instrument counts as in
view. A frame without instances shows no instrument and has no phase. An instance that can't be read
is a BadRow, "VID01.json:frame 17", and the frame's other instances stand; the place of a question
is its file, for it comes from many frames.

The data name no split. 45 of the videos are Cholec80's of the same number: never train on the one
and test on the other.

Obtaining: https://github.com/CAMMA-public/cholect50 names the request form; CC BY-NC-SA 4.0; cite
Rendezvous (arXiv 2109.03223).
"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from medscope_jax.errors import UserError
from tfds_builders.readers._fields import part_option
from tfds_builders.readers._files import MAX_BAD, TOO_MANY_BAD, json_document, listed, require_file
from tfds_builders.readers._labels import (
    MAX_RATE,
    MIN_RATE,
    Grouping,
    LabelQuestion,
    ask,
    instrument_questions,
    phase_questions,
    triplet_questions,
)
from tfds_builders.record import Annotation, BadRow, Unusable
from tfds_builders.times import seconds

_KINDS = {"instrument": 1, "verb": 7, "target": 8, "phase": 14}  # and where an instance has them


class _Labels(NamedTuple):
    """A video's labels by time in seconds."""

    phases: dict[float, str]
    seen: dict[float, set[str]]
    done: dict[float, set[tuple[str, str, str]]]


def read(
    path: Path,
    *,
    part: str = "",
    extension: str = "",
    max_gap: float = 2.0,
    max_spans: int = 8,
    stretches: int = 20,
    min_stretch: float = 3.0,
) -> Iterator[Annotation | BadRow]:
    """Questions of all videos of a folder, or of one file.

    Args:
      path: see above.
      part: "", rl or eval, as in the package's docstring.
      extension: of the video files; "" for folders of frames.
      max_gap, max_spans, stretches, min_stretch: see `_labels.Grouping`; seconds and numbers.

    Raises:
      UserError: no such folder or file, no labels in it, or an option out of range.
    """
    part = part_option(part, ("rl", "eval"))
    grouping = Grouping(max_gap, max_spans, stretches, min_stretch)
    found = files(path, {})
    if not found:
        raise UserError(f"{path} holds no labels: neither *.json nor labels/*.json")
    for file in found:
        require_file(file)
    return _read(found, part, extension, grouping)


def files(path: Path, options: Mapping[str, Any]) -> list[Path]:
    """The annotation files, one a video."""
    if not path.is_dir():
        return [path]
    return sorted(listed(path, "*.json")) or sorted(listed(path / "labels", "*.json"))


def _read(
    found: list[Path], part: str, extension: str, grouping: Grouping
) -> Iterator[Annotation | BadRow]:
    for path in found:
        value = json_document(path)
        try:
            if isinstance(value, Unusable):
                raise value
            fps, names, frames = _document(value)
        except Unusable as error:
            yield BadRow(f"{path.name}:1", str(error))
            continue
        labels = _Labels({}, {}, {})
        faults = (
            (frame, error)
            for frame, instances in frames.items()
            for error in _read_frame(frame, instances, fps, names, labels)
        )
        bad = 0
        for frame, error in itertools.islice(faults, MAX_BAD):
            bad += 1
            # A frame's number is its place; a key that is no number is content, never told.
            number = frame if frame.isascii() and frame.isdecimal() else "?"
            yield BadRow(f"{path.name}:frame {number[:12]}", str(error))
        if bad == MAX_BAD:
            yield BadRow(path.name, TOO_MANY_BAD)
            continue
        if not frames:
            yield BadRow(f"{path.name}:1", "the file holds no rows")
        if labels.seen:
            questions = _questions(labels, names, 1 / fps, grouping)
            yield from ask(path.name, path.stem + extension, part, questions)


def _document(value: Any) -> tuple[float, dict[str, dict[str, str]], dict[str, Any]]:
    """(frames a second, names of each kind by their numbers, instances of each frame)."""
    if not isinstance(value, dict) or not isinstance(value.get("annotations"), dict):
        raise Unusable("the file has no annotations")
    fps = value.get("fps", 1)
    if not MIN_RATE <= seconds(fps, "fps") <= MAX_RATE:
        raise Unusable(f"fps is not from {MIN_RATE} to {MAX_RATE}")
    names = value.get("categories")
    for kind in _KINDS:
        known = names.get(kind) if isinstance(names, dict) else None
        if not isinstance(known, dict) or not all(isinstance(v, str) for v in known.values()):
            raise Unusable(f"the file names no categories of the kind {kind}")
    return seconds(fps, "fps"), names, value["annotations"]


def _read_frame(
    frame: str, instances: Any, fps: float, names: dict[str, dict[str, str]], labels: _Labels
) -> Iterator[Unusable]:
    """Adds a frame's instances to the labels; gives what is wrong with those that it can't."""
    try:
        if not (frame.isascii() and frame.isdecimal()) or len(frame) > 9:
            raise Unusable("the frame is no number of a frame")
        time = seconds(int(frame) / fps, "the frame's time")
        if time in labels.seen:
            raise Unusable("the frame is labelled twice")
        if not isinstance(instances, list):
            raise Unusable("the frame holds no list of instances")
    except Unusable as error:
        yield error
        return
    labels.seen[time], labels.done[time] = set(), set()
    for instance in instances:
        try:
            tool, verb, target, phase = (_name(instance, kind, names) for kind in _KINDS)
            if phase and labels.phases.setdefault(time, phase) != phase:
                raise Unusable("the frame's instances are of different phases")
        except Unusable as error:
            yield error
            continue
        if tool:
            labels.seen[time].add(tool)
            if _is_something(verb) and _is_something(target):
                labels.done[time].add((tool, verb, target))


def _name(instance: Any, kind: str, names: dict[str, dict[str, str]]) -> str:
    """The name of an instance's instrument, verb, target or phase; "" for null."""
    if not isinstance(instance, list) or len(instance) != 15:
        raise Unusable("an instance is no list of 15 values")
    number = instance[_KINDS[kind]]
    if isinstance(number, bool) or not isinstance(number, (int, float)) or number != number // 1:
        raise Unusable(f"an instance's {kind} is no whole number")
    if number == -1:
        return ""
    if str(int(number)) not in names[kind]:
        raise Unusable(f"an instance's {kind} is none of the file's categories")
    return names[kind][str(int(number))]


def _is_something(name: str) -> bool:
    return bool(name) and not name.startswith("null")


def _questions(
    labels: _Labels, names: dict[str, dict[str, str]], step: float, grouping: Grouping
) -> list[LabelQuestion]:
    instruments = list(dict.fromkeys(names["instrument"].values()))
    return [
        *phase_questions(labels.phases, step, grouping),
        *instrument_questions(labels.seen, instruments, step, grouping),
        *triplet_questions(labels.done, step, grouping),
    ]
