"""JSON that we wrote, damaged: what its schema says comes back, and nothing else ever."""

import json
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.errors import UserError
from medscope_jax.stored import Either, at_least, parse, read_json, read_lines

SCHEMA = {
    "name": str,
    "on": bool,
    "rows": [{"split": {"train", "test"}, "span": (float, float), "count?": at_least(1)}],
    "maybe": Either(None, float),
    ...: [int],
}
GOOD = {
    "name": "a\u00e4",
    "on": True,
    "rows": [{"split": "train", "span": [0, 1.5]}, {"split": "test", "span": [2, 3], "count": 4}],
    "maybe": None,
    "more": [1, -2],
}
ODD = [None, True, 0, -3, 1.5, 2**60, 10**400, "", "train", "\ud800", [], [1], {}, {"a": 1}]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


def is_good(value) -> bool:
    """SCHEMA once more, as plain code."""

    def whole(one):
        return type(one) is int and abs(one) <= 2**53

    def number(one):
        return whole(one) or (type(one) is float and math.isfinite(one))

    def text(one):
        return type(one) is str and not any("\ud800" <= c <= "\udfff" for c in one)

    def row(one):
        return (
            type(one) is dict
            and {"split", "span"} <= one.keys() <= {"split", "span", "count"}
            and type(one["split"]) is str
            and one["split"] in ("train", "test")
            and type(one["span"]) is list
            and len(one["span"]) == 2
            and all(map(number, one["span"]))
            and ("count" not in one or (whole(one["count"]) and one["count"] >= 1))
        )

    return (
        type(value) is dict
        and {"name", "on", "rows", "maybe"} <= value.keys()
        and text(value["name"])
        and type(value["on"]) is bool
        and type(value["rows"]) is list
        and all(map(row, value["rows"]))
        and (value["maybe"] is None or number(value["maybe"]))
        and all(
            type(one) is list and all(map(whole, one))
            for key, one in value.items()
            if key not in ("name", "on", "rows", "maybe")
        )
    )


def places(value, path=()):
    """The path of every value within a value."""
    yield path
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def put(value, path, new):
    """A copy of the value with another one at a path."""
    copy = json.loads(json.dumps(value))
    if not path:
        return new
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return copy


def outcome(data: bytes):
    """What parse gives, or the fault as text."""
    try:
        return parse(data, SCHEMA)
    except ValueError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 200
        return str(error)


def test_every_odd_value_at_every_place():
    assert is_good(GOOD) and parse(json.dumps(GOOD).encode(), SCHEMA) == GOOD
    for path in places(GOOD):
        for odd in ODD:
            changed = put(GOOD, path, odd)
            found = outcome(json.dumps(changed).encode())
            assert found == changed if is_good(changed) else isinstance(found, str), (path, odd)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(places(GOOD))), VALUES)
def test_any_value_at_any_place(path, new):
    changed = put(GOOD, path, new)
    found = outcome(json.dumps(changed).encode())
    assert found == changed if is_good(changed) else isinstance(found, str)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.binary(max_size=3), st.integers(0, 4))
def test_damaged_bytes(at, new, length):
    """What json.loads makes of them, if that is good; else a fault."""
    data = json.dumps(GOOD).encode()
    at %= len(data) + 1
    damaged = data[:at] + new + data[at + length :]
    try:
        expected = json.loads(damaged)
    except ValueError:
        expected = None
    found = outcome(damaged)
    if isinstance(found, str):
        # Only a key twice is a fault that json.loads does not see.
        assert not is_good(expected) or "twice" in found
    else:
        assert is_good(found) and found == expected


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "no JSON: Expecting value, character 0"),
        ("{", "no JSON"),
        ("[" * 10**6, "nested too deeply"),
        ("[" * 101 + "]" * 101, "nested too deeply"),
        ("[" * 100 + "]" * 100, "must be an object"),
        ('{"a":' * 101 + "1" + "}" * 101, "nested too deeply"),
        ('{"a":' * 10**6, "nested too deeply"),
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ("NaN", "no number"),
        ("-Infinity", "no number"),
        ("1e999", "out of range"),
        ("1" * 5000, "out of range"),
        ('{"name": ["\\ud800"]}', "surrogates not allowed"),
        ('["\\ud83d\\ude00", "\\ude00"]', "surrogates not allowed"),
        ('"\\ud83d\\ude00"', "must be an object"),
        ('{"name": "x"}', "lacks on"),
        (json.dumps(GOOD | {"rows": [{"split": "dev", "span": [0, 1]}]}), ".rows[0].split must be"),
        (json.dumps(GOOD | {"rows": [{"split": "test", "span": [0]}]}), "must be a list of 2"),
        (json.dumps(GOOD | {"Mustermann": 3}), "[5] must be a list"),
    ],
)
def test_what_is_said(text, said):
    assert said in outcome(text.encode())


def test_no_utf8():
    assert "no UTF-8 at byte 2" in outcome(b'{"\xff": 1}')
    assert "no UTF-8" in outcome("{}".encode("utf-16"))


def test_files(tmp_path):
    path = tmp_path / "a.json"
    for make, said in (
        (lambda: None, r"a\.json can't be read .*: delete it"),
        (path.mkdir, r"a\.json can't be read .*: delete it"),
        (lambda: (path.rmdir(), os.mkfifo(path)), r"a\.json can't be read .*: delete it"),
        (lambda: (path.unlink(), path.write_bytes(b"3")), r"edited \(.*must be .*\): delete it"),
    ):
        make()
        with pytest.raises(UserError, match=said):
            read_json(path, {}, "delete it")
        with pytest.raises(UserError, match=said):
            list(read_lines(path, {}, "delete it"))
    path.write_text('{"a": 1}\n{"a": 2}\n[]\n')
    lines = read_lines(path, {"a": int}, "delete it")
    assert [next(lines), next(lines)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(UserError, match=r"\(line 3: must be an object\)"):
        next(lines)
    path.write_text('"' + "x" * 2**25 + '"')
    with pytest.raises(UserError, match="over 32 MiB"):
        read_json(path, str, "delete it")
