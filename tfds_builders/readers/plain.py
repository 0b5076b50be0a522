"""Our own form: CSV or JSON Lines that anybody can write by hand or by a script.

The file's ending decides: .csv; .jsonl; or .json, one list of the same objects.

    field       CSV                      JSON                       needed
    id          text                     text                       no; no two rows may share one
    video       path below the videos    the same                   yes
    part        a part of the suite      the same                   no: rl, or eval where the split
                                                                    is validation or test
    task        grounding, vqa, ...      the same                   no: grounding where the answer
                                                                    is intervals, caption in part
                                                                    cap, else vqa
    split       train, validation, test  the same                   no
    question    text                     text                       yes, but for captions
    answer      text                     text                       yes, but for grounding
    options     yes | no                 ["yes", "no"]              no; one is the answer
    spans       12.0-20.5; 40-55         [[12.0, 20.5], [40, 55]]   for grounding
    frame_time  4.5                      4.5                        no; not together with spans
    turns       a JSON list of texts     a list of texts            in parts cot, vcot and passive
    window      10-60                    [10, 60]                   no: the whole video; in parts
                                                                    cap and qa only
    note        anything                 anything                   no; is never read

Times are seconds. Parts are those of tfds_builders.suite.PARTS, tasks grounding, vqa, perception,
order, description and caption. A field that is empty or null is absent; one that is not in this
table makes its row (in a header: every row) a bad one, since it is most likely a slip of the pen
that would lose something. A CSV file has a header, commas and double quotes; a row is one line.

Turns are the assistant's: each reads <think>...</think>, then <tool_call>{...}</tool_call> or, the
last one, <answer>...</answer>. Calls are crop_video with start_time and end_time or get_frame with
timestamp; they are written anew in the protocol's form, and must be executable. Part vcot has at
least one call, cot and passive have none.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medscope_jax.errors import UserError, closest
from tfds_builders.readers._fields import (
    CAPTION_QUESTION,
    Span,
    asked,
    first_of,
    has,
    mapping,
    seconds,
    spans,
    split_name,
    video_names,
    words,
)
from tfds_builders.readers._files import (
    Unusable,
    annotate,
    csv_rows,
    json_rows,
    refuse_twice,
    require_file,
)
from tfds_builders.readers._turns import calls_in, own_turns
from tfds_builders.record import Annotation, BadRow
from tfds_builders.suite import PARTS

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
_RANGE = re.compile(r"\s*([0-9.eE+]+)\s*-\s*([0-9.eE+]+)\s*")


def read(path: Path) -> Iterator[Annotation | BadRow]:
    """Records of one file.

    Raises:
      UserError: no such file, or one that ends otherwise than in .csv, .jsonl and .json.
    """
    require_file(path)
    name_of = video_names()
    once = refuse_twice()
    ending = path.suffix.lower()
    if ending not in (".csv", ".jsonl", ".json"):
        raise UserError(f"{path} is neither .csv nor .jsonl nor .json")
    rows = csv_rows(path, ("video",), FIELDS) if ending == ".csv" else json_rows(path)

    def make(place: str, value: Any) -> Annotation:
        row = mapping(value)
        for key in row:
            if key not in FIELDS:
                raise Unusable(f"the row has a field that nobody knows{closest(key[:40], FIELDS)}")
        if ending == ".csv":
            row = _from_cells(row)
        made = _annotation(place, name_of(first_of(row, "video")), row)
        if has(row, "id"):
            once(str(row["id"]), "id")
        return made

    return annotate(path, rows, make)


def _annotation(place: str, video: str, row: dict) -> Annotation:
    part, split = _choice(row, "part", PARTS), split_name(row.get("split"))
    task = _choice(row, "task", TASKS) or ("caption" if part == "cap" else "")
    evidence = spans(row["spans"], "spans") if has(row, "spans") else ()
    frame_time = seconds(row["frame_time"], "frame_time") if has(row, "frame_time") else None
    if evidence and frame_time is not None:
        raise Unusable("spans and frame_time are both there: evidence is one or the other")
    options = _texts(row, "options")
    turns = own_turns(row["turns"]) if _texts(row, "turns") else ()
    if bool(turns) != (part in _TRAJECTORIES) and part not in ("cap", "qa"):
        raise Unusable("turns go with the parts cot, vcot and passive, and these with turns")
    if turns and bool(calls_in(turns)) != (part == "vcot"):
        raise Unusable("turns call a tool in part vcot, and in no other")
    window = None
    if has(row, "window"):
        (window,) = _one(spans(row["window"], "window"))
        if part not in ("cap", "qa"):
            raise Unusable("window goes with the parts cap and qa")
    question = row["question"] if has(row, "question") else None
    if question is None and part == "cap":
        question = CAPTION_QUESTION
    made = asked(
        place,
        video,
        part,
        question,
        row.get("answer"),
        evidence=evidence,
        frame_time=frame_time,
        task=task,
        split=split,
        options=tuple(words(option, "an option") for option in options),
        turns=turns,
        window=window,
    )
    if made.options and made.answer not in made.options:
        raise Unusable("the answer is none of the options")
    return made


def _from_cells(row: dict[str, str]) -> dict[str, Any]:
    """A CSV row with the values that the same row of JSON has."""
    row = {key: cell.strip() for key, cell in row.items()}
    parsed: dict[str, Any] = dict(row)
    for key in ("spans", "window"):
        if row.get(key):
            parsed[key] = _ranges(row[key], key)
    if row.get("options"):
        parsed["options"] = row["options"].split("|")
    if row.get("turns"):
        try:
            parsed["turns"] = json.loads(row["turns"])
        except (ValueError, RecursionError):
            raise Unusable("turns is no JSON list of texts") from None
    return parsed


def _ranges(text: str, name: str) -> list[Span]:
    """ "12.0-20.5; 40-55" as [[12.0, 20.5], [40, 55]]; the numbers are still texts."""
    found = [_RANGE.fullmatch(piece) for piece in text.split(";")]
    if None in found:
        raise Unusable(f"{name} does not read start-end; start-end")
    return [match.groups() for match in found]


def _choice(row: dict, key: str, known: tuple[str, ...]) -> str:
    if not has(row, key):
        return ""
    if row[key] not in known:
        near = closest(row[key][:40], known) if isinstance(row[key], str) else ""
        raise Unusable(f"{key} is none of {', '.join(known)}{near}")
    return row[key]


def _texts(row: dict, key: str) -> list[str]:
    """A list of texts; [] where the field is absent."""
    if not has(row, key):
        return []
    if not isinstance(row[key], list) or not all(isinstance(item, str) for item in row[key]):
        raise Unusable(f"{key} is no list of texts")
    return row[key]


def _one(found: tuple[Span, ...]) -> tuple[Span, ...]:
    if len(found) != 1:
        raise Unusable("window is not one span")
    return found
