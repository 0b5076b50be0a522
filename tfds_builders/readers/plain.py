"""Our own form: CSV or JSON Lines that anybody can write by hand or by a script.

The file's ending decides: .csv or .tsv; .jsonl; or .json, one list of the same objects.

    field       CSV                      JSON                       needed
    id          text                     text                       no; no two rows may share one
    video       path below the videos    the same                   yes
    part        a part of the suite      the same                   no: rl, or eval where the split
                                                                    is validation or test
    task        grounding, vqa, ...      the same                   no: grounding where the answer
                                                                    is intervals, or is absent
                                                                    beside spans; caption in part
                                                                    cap, else vqa
    split       train, validation, test  the same                   no
    question    text                     text                       yes, but for captions
    answer      text                     text                       yes, but for grounding
    options     yes | no                 ["yes", "no"], or          no; the answer is one of them,
                                         {"A": "yes", "B": "no"}    or its letter
    spans       12.0-20.5; 40-55         [[12.0, 20.5], [40, 55]]   for grounding
    frame_time  4.5                      4.5                        no; not together with spans
    turns       a JSON list of texts     a list of texts            in parts cot, vcot and passive
    window      10-60                    [10, 60]                   no: the whole video; in parts
                                                                    cap and qa only
    note        anything                 anything                   no; is never read

Times are seconds. Parts are those of medscope_jax.parts.PARTS, tasks grounding, vqa, perception,
order, description and caption. A field that is empty or null is absent; one that is not in this
table makes its row (in a header: every row) a bad one, since it is most likely a slip of the pen
that would lose something. A CSV file has a header and double quotes; commas, semicolons (then
times may have decimal commas) or tabs part its cells; a row is one line.

Turns are the assistant's: each reads <think>...</think>, then <tool_call>{...}</tool_call> or, the
last one, <answer>...</answer>. Calls are crop_video with start_time and end_time or get_frame with
timestamp; they are written anew in the protocol's form, and must be executable. Part vcot has at
least one call, cot and passive have none.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medscope_jax.errors import UserError, closest
from medscope_jax.parts import PARTS
from medscope_jax.rl.intervals import Span
from tfds_builders.readers._csv import csv_rows, unknown_field
from tfds_builders.readers._fields import CAPTION_QUESTION, asked, options_in, video_names
from tfds_builders.readers._files import annotate, json_rows, refuse_twice, require_file
from tfds_builders.readers._turns import calls_in, own_turns
from tfds_builders.readers._values import (
    anything,
    identifier,
    mapping,
    optional,
    required,
    split_name,
    texts,
)
from tfds_builders.record import Annotation, BadRow, Unusable
from tfds_builders.times import seconds, spans

TASKS = ("grounding", "vqa", "perception", "order", "description", "caption")
FIELDS = (
    "id",
    "video",
    "part",
    "task",
    "split",
    "question",
    "answer",
    "options",
    "spans",
    "frame_time",
    "turns",
    "window",
    "note",
)
_TRAJECTORIES = ("cot", "vcot", "passive")
_TIMES = ("spans", "frame_time", "window")


def read(path: Path) -> Iterator[Annotation | BadRow]:
    """Records of one file.

    Raises:
      UserError: no such file, or one that ends otherwise than in .csv, .tsv, .jsonl and .json.
    """
    require_file(path)
    name_of = video_names()
    once = refuse_twice()
    ending = path.suffix.lower()
    if ending not in (".csv", ".tsv", ".jsonl", ".json"):
        raise UserError(f"{path} is neither .csv nor .tsv nor .jsonl nor .json")
    is_table = ending in (".csv", ".tsv")
    rows = csv_rows(path, ("video",), FIELDS, _TIMES) if is_table else json_rows(path)

    def make(place: str, value: Any) -> Annotation:
        row = mapping(value)
        for key in row:
            if key not in FIELDS:
                raise Unusable(f"the row has {unknown_field(key, FIELDS)}")
        name = optional(row, identifier, "id")
        made = _annotation(place, required(row, name_of, "video"), row)
        if name is not None:
            once(name, "id")
        return made

    return annotate(path, rows, make)


def _annotation(place: str, video: str, row: dict) -> Annotation:
    part, split = _choice(row, "part", PARTS), optional(row, split_name, "split", "")
    task = _choice(row, "task", TASKS) or ("caption" if part == "cap" else "")
    evidence = optional(row, spans, "spans", ())
    frame_time = optional(row, seconds, "frame_time")
    if evidence and frame_time is not None:
        raise Unusable("spans and frame_time are both there: evidence is one or the other")
    said = optional(row, texts, "turns", [])
    turns = own_turns(said) if said else ()
    if bool(turns) != (part in _TRAJECTORIES) and part not in ("cap", "qa"):
        raise Unusable("turns go with the parts cot, vcot and passive, and these with turns")
    if turns and bool(calls_in(turns)) != (part == "vcot"):
        raise Unusable("turns call a tool in part vcot, and in no other")
    window = optional(row, _window, "window")
    if window and part not in ("cap", "qa"):
        raise Unusable("window goes with the parts cap and qa")
    question = optional(row, anything, "question", CAPTION_QUESTION if part == "cap" else None)
    answer = optional(row, anything, "answer")
    if answer is None and evidence and part != "cap" and not turns:
        task = task or "grounding"  # what else could be asked is not said
    return asked(
        place,
        video,
        part,
        question,
        answer,
        evidence=evidence,
        frame_time=frame_time,
        task=task,
        split=split,
        options=options_in(row),
        turns=turns,
        window=window,
    )


def _choice(row: dict, key: str, known: tuple[str, ...]) -> str:
    """A field that is one of some words, in any case; "" where it is absent."""

    def of(value: Any, name: str) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word not in known:
            raise Unusable(f"{name} is none of {', '.join(known)}{closest(word[:40], known)}")
        return word

    return optional(row, of, key, "")


def _window(value: Any, name: str) -> Span:
    """The value as one (start, end) in seconds; Unusable where it holds none or several."""
    found = spans(value, name)
    if len(found) != 1:
        raise Unusable(f"{name} is not one span")
    return found[0]
