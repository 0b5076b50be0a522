"""Scoring stored predictions: the table of what is there, and judging it anew; no model is read."""

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medscope_jax.errors import UserError
from medscope_jax.evaluation.measured import Measured, measure
from medscope_jax.evaluation.predictions import (
    HEADER,
    PREDICTION,
    PredictionHeader,
    in_order,
    judged_fields,
    key_of,
    prediction_files,
    read_header,
    record_of,
    scored_line,
)
from medscope_jax.evaluation.sealed_lines import SealedFile, SealedReading, read_sealed
from medscope_jax.files import put_file
from medscope_jax.locks import alone
from medscope_jax.manifest import file_checksum
from medscope_jax.metrics import Scored, result_rows
from medscope_jax.rl import TellingJudge, judge_note, make_telling_judge
from medscope_jax.visible import shown

_BATCH = 64  # lines that are judged at once, and then on the disk
_RULES = {"url": ""}  # the section of the built-in judge


@dataclasses.dataclass(frozen=True)
class StoredResults:
    """What a folder's predictions come to.

    Attributes:
      rows: of metrics.result_rows.
      measured: each prediction's values; scored: each one's scores, in the same order.
      notes: lines about what is missing or was left out, and about who judged.
      header: of its files.
    """

    rows: list[dict[str, Any]]
    measured: list[Measured]
    scored: list[Scored]
    notes: list[str]
    header: PredictionHeader


# What makes a prediction's values of its line, its scores and the header's frame_window.
ValuesOf = Callable[[Mapping[str, Any], Scored, float], Measured]


def stored_results(folder: Path, values_of: ValuesOf = measure) -> StoredResults:
    """The results of all predictions in a folder, of all its shards.

    Raises:
      UserError: there are none, they are of different evaluations or weights, or one question's
        prediction is there twice.
    """
    found, keys, notes = [], [], []
    seen: dict[tuple, Path] = {}
    weights: dict[str, int] = {}
    judges: dict[str, None] = {}
    first: PredictionHeader | None = None
    for path in prediction_files(folder):
        reading = read_sealed(path, HEADER, PREDICTION)
        opened = _opened(path, reading)
        if opened is None:
            notes.append(f"{shown(path)} holds nothing yet")
            continue
        header, lines = opened
        first = first or header
        first.check(header.line(), path)
        for line in lines:
            key, model = key_of(line), line["model"]
            if key in seen:
                raise UserError(
                    f"{path} and {seen[key]} both have question {key[2]} of {model}: keep one of "
                    "them in the folder"
                )
            if weights.setdefault(model, line["weights"]) != line["weights"]:
                raise UserError(f"{path} has predictions of other weights called {model}")
            seen[key] = path
            keys.append(key)
            scored = scored_line(line, first)
            found.append((scored, values_of(line, scored, first.frame_window)))
            judges[_judge_text(line["judge"])] = None
        if told := reading.faults.told():
            notes.append(f"{shown(path)}: {told}")
    if first is None or not found:
        raise UserError(f"{folder} holds no whole prediction yet: evaluate without --rescore")
    there = Counter(key[:2] for key in keys)
    for (model, decoding), count in there.items():
        if count < first.expected[decoding]:
            whole = f"{count} of {first.expected[decoding]} predictions"
            notes.append(f"{shown(model)}, {decoding}: {whole} are here; the table is of these")
    notes.append(f"judged by {', '.join(judges)}")
    ordered = in_order(found, keys)
    scores, measured = [scored for scored, _ in ordered], [values for _, values in ordered]
    return StoredResults(result_rows(scores), measured, scores, notes, first)


def results_to_compare(
    folder: Path, header: PredictionHeader, values_of: ValuesOf = measure
) -> StoredResults:
    """The results of another evaluation of the questions that a header is of; its models' names say
    which folder they are from.

    Raises:
      UserError: as stored_results, or the questions are others.
    """
    found = stored_results(folder, values_of)
    for name in ("suite", "split", "frame_window"):
        if getattr(found.header, name) != getattr(header, name):
            raise UserError(
                f"{folder} holds an evaluation of another {name}, which can't be compared: name "
                "another folder as --against"
            )
    measured = [
        dataclasses.replace(one, model=f"{one.model} of {folder}") for one in found.measured
    ]
    notes = [f"compared with {shown(folder)}: {note}" for note in found.notes]
    return dataclasses.replace(found, measured=measured, notes=notes)


def stored_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of all predictions in a folder, file after file; damaged ones are left out.

    Raises:
      UserError: there are none, or a file is none of predictions.
    """
    for path in prediction_files(folder):
        if opened := _opened(path, read_sealed(path, HEADER, PREDICTION)):
            yield from opened[1]


def _judge_text(note: Any) -> str:
    if isinstance(note, str):
        return f"the {note} rules"
    return shown(f"{note.get('model')} at {note.get('url')}")


def _opened(
    path: Path, reading: SealedReading
) -> tuple[PredictionHeader, Iterator[dict[str, Any]]] | None:
    """A file's header and the values of its other lines; None where no line is whole yet."""
    values = iter(reading)
    number, line = next(values, (0, {}))
    if not reading.end:
        return None
    if number != 1:
        raise UserError(f"{path} is no file of predictions, or damaged: move it away")
    return read_header(line, path), (line for _, line in values)


def judge_stored(folder: Path, section: Mapping[str, Any] | None) -> None:
    """Judges all predictions of a folder anew; each file is replaced when all of it is judged.

    A judgement that a kill interrupts goes on where it was, if the same judge is asked again.

    Args:
      section: of a config: who judges. None: the built-in rules, of all that they had judged; what
        another judge said stays.

    Raises:
      UserError: as stored_results, or the judge can't be asked.
    """
    for path in prediction_files(folder):
        busy = f"{path} is in use by an evaluation{{by}}: wait for its end"
        with alone(path.with_name(f".{path.name}.lock"), busy):
            _judge_file(path, section)


def _judge_file(path: Path, section: Mapping[str, Any] | None) -> None:
    judge, note = make_telling_judge(section or _RULES), judge_note(section or _RULES)
    # Its name says what it is made of: what another judgement left is not gone on with.
    made_of = json.dumps([file_checksum(path), note])
    name = f".{path.name}.{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"
    for left in path.parent.glob(f".{path.name}.{'[0-9a-f]' * 16}"):
        if left.name != name:
            left.unlink()
    reading = read_sealed(path, HEADER, PREDICTION)
    opened = _opened(path, reading)
    if opened is None:
        return
    header, lines = opened
    with SealedFile(path.with_name(name)) as file:
        there = file.read(HEADER, PREDICTION)
        done = [number for number, _ in there]
        if done != list(range(1, len(done) + 1)) or there.faults.damaged:
            raise UserError(f"{file.path} is damaged: delete it, and judge again")
        file.cut(there)
        if not done:
            file.append([header.line()])
        rest = itertools.islice(lines, max(0, len(done) - 1), None)
        while batch := list(itertools.islice(rest, _BATCH)):
            file.append(_judged(batch, judge, note, section is None))
        if told := reading.faults.told():
            print(f"{shown(path)}: {told}")
    put_file(path.with_name(name), path)


def _judged(
    lines: Sequence[dict[str, Any]], judge: TellingJudge, note: Any, only_rules: bool
) -> list[dict[str, Any]]:
    """The lines with what the judge says now; with only_rules, those that the rules had judged."""
    asked = [i for i, line in enumerate(lines) if not only_rules or line["judge"] == note]
    records = [record_of(lines[i]) for i in asked]
    said = judge(records, [lines[i]["answer"] for i in asked])
    judged = list(lines)
    for i, verdict in zip(asked, said, strict=True):
        judged[i] = {**lines[i], **judged_fields(note, verdict)}
    return judged
