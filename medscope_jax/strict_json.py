"""JSON from outside, read without guessing: what two readers would read differently is refused."""

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from medscope_jax.errors import UserError, one_line
from medscope_jax.files import open_regular

_MOST = 2**24  # bytes of a file
_DEEPEST = 100  # levels: whoever walks the values may call a function a level
_TOO_DEEP = "it is nested too deeply"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # in UTF-8 only an escape can be one


def parse_json(data: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    -0 is a float, as in most parsers; Python's own makes the integer 0 of it.

    Raises:
      ValueError: no JSON; NaN, Infinity or a number beyond float64; a name that is twice in one
        object; half a surrogate pair; more than 100 objects and lists within one another.
    """
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_constant=_no_number,
            parse_int=_whole,
            parse_float=_finite,
        )
        _check_depth(value)
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError, a ValueError
        return value
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def read_json_object(file: Path, most: int = _MOST) -> dict[str, Any]:
    """The values of a file that holds a JSON object of at most `most` bytes.

    Raises:
      UserError: one line: no such file, no regular one, too long, or not what parse_json reads.
    """
    try:
        with open_regular(file) as stream:
            data = stream.read(most + 1)
        if len(data) > most:
            raise UserError(f"{file} is longer than {most:,} bytes, so it is not what it is named")
        values = parse_json(data)
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is not JSON: {one_line(error)[:200]}") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} holds {_kind(values)} where a JSON object is expected")
    return values


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"the value {str(value)[:40]!r}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the name {name[:80]!r} is there twice")
            seen.add(name)
    return values


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _whole(digits: str) -> int | float:
    _finite(digits)
    return -0.0 if digits == "-0" else int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]} is out of range")
    return value
