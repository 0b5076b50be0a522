"""JSON that we wrote and read again: what its schema says, or one line that says what is not.

A file may have been damaged by a disk or edited by hand since. A schema is written as the value
that it describes:

    str  bool  int  float    of this type; a whole number, which is at most 2**53, is a float, too
    None                     null
    {"a": int, "b?": str}    an object of these keys; "b" may be left out
    {"a": int, ...: float}   an object of "a" and any other keys
    [int]                    a list of any length
    (str, int)               a list of these two
    {"train", "test"}        one of these values (a set)
    Either(float, None)      one of these schemas
    object                   anything
    a function               of the value: what is wrong with it, "" if nothing
"""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from medscope_jax.errors import UserError, one_line
from medscope_jax.files import open_regular
from medscope_jax.strict_json import parse_json

_MOST_WHOLE = 2**53  # beyond, a float64 does not tell whole numbers apart
# Bytes of a file or line; the worst JSON takes thirty times as much memory, and seconds.
_MOST_BYTES = 32 * 2**20
_NAMES = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


class Either(tuple):
    """Either(a, b): a value that fits one of these schemas."""

    def __new__(cls, *schemas: Any):
        return super().__new__(cls, schemas)


def at_least(least: float, kind: type = int) -> Callable[[Any], str]:
    """A schema: a number of this kind, `least` or more."""

    def fault(value: Any) -> str:
        return _fault(value, kind) or ("" if value >= least else f" must be at least {least}")

    return fault


def read_json(path: str | os.PathLike, schema: Any, remedy: str) -> Any:
    """The value of a JSON file.

    Args:
      path: the file.
      schema: see the module's words.
      remedy: what to do if it can't be used, as an error ends: "delete it, it is made again".

    Raises:
      UserError: it can't be read, is no JSON, or does not fit: names the file and the place in it.
    """
    try:
        with open_regular(path) as file:
            return parse(file.read(_MOST_BYTES + 1), schema)
    except OSError as error:
        raise UserError(f"{path} can't be read ({_reason(error)}): {remedy}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged or edited ({error}): {remedy}") from error


def read_lines(path: str | os.PathLike, schema: Any, remedy: str) -> Iterator[Any]:
    """The values of a file of a JSON value a line, one after the other; see read_json.

    Raises:
      UserError: as read_json; names the line, too.
    """
    try:
        with open_regular(path) as file:
            number = 0
            while line := file.readline(_MOST_BYTES + 1):
                number += 1
                try:
                    yield parse(line, schema)
                except ValueError as error:
                    raise UserError(
                        f"{path} is damaged or edited (line {number}: {error}): {remedy}"
                    ) from error
    except OSError as error:
        raise UserError(f"{path} can't be read ({_reason(error)}): {remedy}") from error


def parse(data: bytes, schema: Any) -> Any:
    """The value that a text of JSON, as UTF-8, stands for.

    Raises:
      ValueError: it is no JSON or does not fit the schema; a short text that quotes no value.
    """
    if len(data) > _MOST_BYTES:
        raise ValueError(f"over {_MOST_BYTES // 2**20} MiB")
    try:
        value = parse_json(data)
        fault = _fault(value, schema)
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error.msg}, character {error.pos}") from None
    if fault:
        raise ValueError(fault.lstrip())
    return value


def _reason(error: OSError) -> str:
    return error.strerror or one_line(error)


def _fault(value: Any, schema: Any) -> str:
    """What is wrong with a value, after its place, ".key[3] must be a text"; "" if nothing is."""
    if schema is object:
        return ""
    if schema is None:
        return "" if value is None else " must be null"
    if isinstance(schema, type):
        return _type_fault(value, schema)
    if isinstance(schema, Either):
        faults = [_fault(value, one) for one in schema]
        return "" if "" in faults else faults[0]
    if isinstance(schema, (set, frozenset)):
        fits = isinstance(value, (str, int, float)) and value in schema
        return "" if fits else f" must be one of {', '.join(sorted(map(str, schema)))}"
    if isinstance(schema, dict):
        return _object_fault(value, schema)
    if isinstance(schema, (list, tuple)):
        return _list_fault(value, schema)
    return schema(value)


def _type_fault(value: Any, kind: type) -> str:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    fits = is_whole or isinstance(value, float) if kind is float else isinstance(value, kind)
    if not fits or (kind is int and not is_whole):
        return f" must be {_NAMES[kind]}"
    if is_whole and abs(value) > _MOST_WHOLE:
        return f" must be a number of at most {_MOST_WHOLE}"
    return ""


def _object_fault(value: Any, schema: dict) -> str:
    if not isinstance(value, dict):
        return " must be an object"
    known = {key.removesuffix("?"): one for key, one in schema.items() if key is not ...}
    if missing := [key for key in schema if key not in value and key in known]:
        return f" lacks {missing[0]}"
    for place, (key, one) in enumerate(value.items()):
        if key not in known and ... not in schema:
            return f" has a key that is none of {', '.join(known)}"
        if fault := _fault(one, known.get(key, schema.get(...))):
            return (f".{key}" if key in known else f"[{place}]") + fault
    return ""


def _list_fault(value: Any, schema: list | tuple) -> str:
    if not isinstance(value, list):
        return " must be a list"
    if isinstance(schema, tuple) and len(value) != len(schema):
        return f" must be a list of {len(schema)}"
    kinds = schema if isinstance(schema, tuple) else schema * len(value)
    for place, (one, kind) in enumerate(zip(value, kinds, strict=True)):
        if fault := _fault(one, kind):
            return f"[{place}]{fault}"
    return ""
