"""SVU-31K's judged qualities of stored predictions, kept beside them.

    OUT/qualities.jsonl     a line an answer that was judged, in sealed_lines.py's form

What was killed goes on; an answer that has changed, or another judge, is asked anew.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medscope_jax.dialogue import question_text
from medscope_jax.errors import UserError
from medscope_jax.evaluation.predictions import key_of
from medscope_jax.evaluation.rescore import stored_lines
from medscope_jax.evaluation.sealed_lines import SealedFile, read_sealed
from medscope_jax.locks import alone
from medscope_jax.metrics.protocols.qualities import QUALITIES, judge_qualities
from medscope_jax.rl import judge_note
from medscope_jax.rl.chat_config import EndpointConfig
from medscope_jax.stored import Either, at_least

_NAME, _FORMAT = "qualities.jsonl", 1
_BATCH = 64  # answers that are judged at once, and then on the disk
_FIRST = {"format": int}
_LINE: dict[str, Any] = {
    **{"model": str, "decoding": str, "number": at_least(0), "sample": at_least(0)},
    **{"of": str, "judge": {...: object}},
    **dict.fromkeys(QUALITIES, Either(float, None)),
}


def judge_stored_qualities(folder: Path, section: Mapping[str, Any]) -> None:
    """Has an endpoint judge the answers in words of a folder's predictions that it has not judged.

    Args:
      section: of a config, who judges.

    Raises:
      UserError: there are no predictions, or the judge gives too few scores; what it has judged is
        kept.
    """
    config = EndpointConfig(
        section["url"],
        section["model"],
        timeout_s=section["timeout"],
        workers=section["concurrency"],
    )
    note, path = judge_note(section), folder / _NAME
    busy = f"{path} is in use by an evaluation{{by}}: wait for its end"
    with alone(folder / f".{_NAME}.lock", busy), SealedFile(path) as file:
        reading = file.read(_FIRST, _LINE)
        done = {key_of(line): (line["of"], line["judge"]) for line in _checked(path, reading)}
        file.cut(reading)
        if not reading.end:
            file.append([{"format": _FORMAT}])
        left = (
            line
            for line in stored_lines(folder)
            if line["task"] != "grounding" and done.get(key_of(line)) != (_digest(line), note)
        )
        while batch := list(itertools.islice(left, _BATCH)):
            asked = [(question_text(one), one["answer"], one["reference"]) for one in batch]
            found = judge_qualities(config, asked, section["temperature"], section["max_failed"])
            file.append(
                {
                    **{name: one[name] for name in ("model", "decoding", "number", "sample")},
                    **{"of": _digest(one), "judge": note},
                    **{name: None if math.isnan(x) else x for name, x in values.items()},
                }
                for one, values in zip(batch, found, strict=True)
            )


def read_qualities(folder: Path) -> dict[tuple, tuple[str, dict[str, float]]]:
    """By prediction (key_of) what it is of and its qualities, NaN where there is none; {} where
    nothing was judged."""
    path = folder / _NAME
    if not path.exists():
        return {}
    return {
        key_of(line): (
            line["of"],
            {name: math.nan if line[name] is None else line[name] for name in QUALITIES},
        )
        for line in _checked(path, read_sealed(path, _FIRST, _LINE))
    }


def qualities_of(
    line: Mapping[str, Any], found: Mapping[tuple, tuple[str, dict[str, float]]]
) -> dict[str, float]:
    """The qualities of a prediction's line; {} if this answer was not judged."""
    of, values = found.get(key_of(line), ("", {}))
    return values if of == _digest(line) else {}


def _checked(path: Path, reading: Any) -> list[dict[str, Any]]:
    """The lines behind the first one, which must be of this version."""
    lines = []
    for number, line in reading:
        if number > 1:
            lines.append(line)
        elif line["format"] != _FORMAT:
            raise UserError(f"{path} has format {line['format']}, not {_FORMAT}: delete it")
    if 1 in reading.faults.damaged:
        raise UserError(f"{path} is damaged: delete it, and judge again")
    return lines


def _digest(line: Mapping[str, Any]) -> str:
    """Of what a judge is shown."""
    shown = [line[name] for name in ("question", "options", "answer", "reference")]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()
