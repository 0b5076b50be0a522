"""The host specification, rule by rule, on hand-written calls."""

import warnings

import numpy as np
import pytest

from medscope_jax.tools import CallStatus as S
from medscope_jax.tools import Tool, error_text, parse_call

DURATION = 100.0


def crop(start="1.0", end="2.0"):
    return f'{{"name": "crop_video", "arguments": {{"start_time": {start}, "end_time": {end}}}}}'


def frame(timestamp="1.0"):
    return f'{{"name": "get_frame", "arguments": {{"timestamp": {timestamp}}}}}'


def nested(depth):
    """A valid call whose deepest container stands at `depth`."""
    inner = "[" * (depth - 2) + "]" * (depth - 2)
    return f'{{"name": "get_frame", "arguments": {{"timestamp": 1, "x": {inner}}}}}'


GOOD = [
    (crop("87.0", "90.0"), Tool.CROP_VIDEO, 87.0, 90.0),
    (frame("12.5"), Tool.GET_FRAME, 12.5, 12.5),
    (crop("0", "1E1"), Tool.CROP_VIDEO, 0.0, 10.0),
    (crop("-0", "1"), Tool.CROP_VIDEO, 0.0, 1.0),
    (crop("-0.0", "250e-2"), Tool.CROP_VIDEO, 0.0, 2.5),
    (crop("0e999999999999", "3"), Tool.CROP_VIDEO, 0.0, 3.0),
    (crop("-1e-400", "3"), Tool.CROP_VIDEO, 0.0, 3.0),  # float64 reads -0.0
    (crop("99", "100.5"), Tool.CROP_VIDEO, 99.0, 100.0),  # clamped
    (crop("99", "1e300"), Tool.CROP_VIDEO, 99.0, 100.0),  # beyond float32, not beyond float64
    (crop("1", "1" * 300), Tool.CROP_VIDEO, 1.0, 100.0),
    ('\t\r\n {"arguments":{"timestamp":1},"name":"get_frame"} \n', Tool.GET_FRAME, 1.0, 1.0),
    ('{"name":"get_frame","arguments":{"timestamp":NaN,"timestamp":2}}', Tool.GET_FRAME, 2.0, 2.0),
    ('{"name":7,"name":"get_frame","arguments":{"timestamp":2}}', Tool.GET_FRAME, 2.0, 2.0),
    (
        '{"arguments":[],"arguments":{"timestamp":2},"name":"get_frame"}',
        Tool.GET_FRAME,
        2.0,
        2.0,
    ),
    (
        r'{"n\u0061me":"get\u005fframe","arguments":{"timest\u0061mp":2,"x":"\ud800"}}',
        Tool.GET_FRAME,
        2.0,
        2.0,
    ),
    # Other keys are ignored, whatever they hold; also a tool's name deeper down.
    (
        '{"x":{"name":"crop_video"},"y":[NaN,-Infinity,1e999,"\\n"],"name":"get_frame",'
        '"arguments":{"timestamp":2,"start_time":null,"z":{"timestamp":9}}}',
        Tool.GET_FRAME,
        2.0,
        2.0,
    ),
    (
        '{"x":%s,"name":"get_frame","arguments":{"timestamp":2}}' % ("9" * 9000),
        Tool.GET_FRAME,
        2.0,
        2.0,
    ),
    (nested(64), Tool.GET_FRAME, 1.0, 1.0),
]

BAD = [
    ("", S.NOT_JSON),
    ("   ", S.NOT_JSON),
    ("crop_video(1, 2)", S.NOT_JSON),
    ("[1]", S.NOT_JSON),
    ("null", S.NOT_JSON),
    ('"name"', S.NOT_JSON),
    (crop() + "x", S.NOT_JSON),
    (crop()[:-1], S.NOT_JSON),
    (crop("01"), S.NOT_JSON),
    (crop("+1"), S.NOT_JSON),
    (crop("1."), S.NOT_JSON),
    (crop(".5"), S.NOT_JSON),
    (crop("1e"), S.NOT_JSON),
    (crop("0x1"), S.NOT_JSON),
    (crop("1_0"), S.NOT_JSON),
    (crop("-"), S.NOT_JSON),
    (crop("nan"), S.NOT_JSON),
    (crop("True"), S.NOT_JSON),
    (crop("1,"), S.NOT_JSON),
    ("\ufeff" + crop(), S.NOT_JSON),
    ("\xa0" + crop(), S.NOT_JSON),
    ("\x0b" + crop(), S.NOT_JSON),
    (crop('"\n"'), S.NOT_JSON),
    (crop(r'"\x41"'), S.NOT_JSON),
    (crop(r'"\u00g0"'), S.NOT_JSON),
    ("{'name': 'get_frame', 'arguments': {}}", S.NOT_JSON),
    ('{"name":"get_frame"}', S.NOT_JSON),
    ('{"arguments":{"timestamp":1}}', S.NOT_JSON),
    ('{"name":"get_frame","arguments":[]}', S.NOT_JSON),
    ('{"name":"get_frame","arguments":"{}"}', S.NOT_JSON),
    ('{"name":"get_frame","arguments":{"timestamp":1},"arguments":1}', S.NOT_JSON),
    ('[{"name":"get_frame","arguments":{"timestamp":1}}]', S.NOT_JSON),
    (nested(65), S.NOT_JSON),
    ("[" * 100_000, S.NOT_JSON),
    ('{"a":' * 100_000, S.NOT_JSON),
    ('{"name":"zoom","arguments":{}}', S.UNKNOWN_TOOL),
    ('{"name":"Crop_video","arguments":{}}', S.UNKNOWN_TOOL),
    ('{"name":"none","arguments":{}}', S.UNKNOWN_TOOL),
    ('{"name":"","arguments":{}}', S.UNKNOWN_TOOL),
    ('{"name":null,"arguments":{}}', S.UNKNOWN_TOOL),
    ('{"name":["get_frame"],"arguments":{}}', S.UNKNOWN_TOOL),
    ('{"name":"get_frame","name":2,"arguments":{}}', S.UNKNOWN_TOOL),
    ('{"name":"get_frame","arguments":{}}', S.MISSING_ARGUMENT),
    ('{"name":"get_frame","arguments":{"start_time":1,"end_time":2}}', S.MISSING_ARGUMENT),
    ('{"name":"crop_video","arguments":{"start_time":"x"}}', S.MISSING_ARGUMENT),
    ('{"name":"get_frame","arguments":{"timestamp":1},"arguments":{}}', S.MISSING_ARGUMENT),
    ('{"name":"get_frame","arguments":{"x":{"timestamp":1}}}', S.MISSING_ARGUMENT),
    (frame('"1.0"'), S.NOT_A_NUMBER),
    (frame("true"), S.NOT_A_NUMBER),
    (frame("false"), S.NOT_A_NUMBER),
    (frame("null"), S.NOT_A_NUMBER),
    (frame("[1]"), S.NOT_A_NUMBER),
    (frame("{}"), S.NOT_A_NUMBER),
    (frame("NaN"), S.NOT_A_NUMBER),
    (frame("-Infinity"), S.NOT_A_NUMBER),
    (frame("1e309"), S.NOT_A_NUMBER),
    (frame("9" * 400), S.NOT_A_NUMBER),
    (frame("9" * 5000), S.NOT_A_NUMBER),
    (crop("-1", "Infinity"), S.NOT_A_NUMBER),
    (crop("-1", "-2"), S.NEGATIVE_TIME),
    (frame("-0.5"), S.NEGATIVE_TIME),
    (frame("-1e300"), S.NEGATIVE_TIME),
    (crop("100", "90"), S.BEYOND_DURATION),
    (frame("100"), S.BEYOND_DURATION),
    (frame("99.9999999"), S.BEYOND_DURATION),  # float32 reads 100
    (frame("1e300"), S.BEYOND_DURATION),
    (crop("5", "5"), S.EMPTY_WINDOW),
    (crop("5", "4"), S.EMPTY_WINDOW),
    (crop("5", "-4"), S.EMPTY_WINDOW),
]


@pytest.mark.parametrize(("text", "tool", "start", "end"), GOOD, ids=lambda value: repr(value)[:40])
def test_valid_calls(text, tool, start, end):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse_call(text, DURATION) == (tool, start, end, S.OK)


@pytest.mark.parametrize(("text", "status"), BAD, ids=lambda value: repr(value)[:40])
def test_first_applicable_error(text, status):
    call = parse_call(text, DURATION)
    assert call.status == status
    assert (call.start, call.end) == (0.0, 0.0)
    assert (call.tool == Tool.NONE) == (status <= S.UNKNOWN_TOOL)


def test_times_are_float32():
    call = parse_call(crop("0.1", "60.7"), 60.7)
    assert (call.start, call.end) == (float(np.float32(0.1)), float(np.float32(60.7)))
    assert parse_call(frame("60.7"), 60.7).status == S.BEYOND_DURATION


def test_negative_zero_is_zero():
    assert not np.signbit(parse_call(frame("-0.0"), 1.0).start)


def test_zero_duration_holds_no_time():
    assert parse_call(frame("0"), 0.0).status == S.BEYOND_DURATION


def test_every_error_has_one_line():
    texts = [error_text(status) for status in S if status != S.OK]
    assert len(set(texts)) == len(S) - 1
    assert all(t.startswith("Tool execution failed: ") and "\n" not in t for t in texts)
    assert error_text(S.OK) == ""


def test_tool_names():
    assert [str(tool) for tool in Tool] == ["none", "crop_video", "get_frame"]
