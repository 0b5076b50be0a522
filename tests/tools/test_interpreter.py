"""The device interpreter equals the host specification; no host stands in its program."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.tools import CallStatus, byte_table, interpret, token_bytes

FRAME = '{"name": "get_frame", "arguments": {"timestamp": 1, "x": %s}}'
CROP = '{"name": "crop_video", "arguments": {"start_time": %s, "end_time": %s}}'


def nested(depth, opening="[", closing="]"):
    return FRAME % (opening * (depth - 2) + closing * (depth - 2))


def test_examples_of_every_status(agree):
    calls = [CROP % (1, 2), "", '{"name": 1, "arguments": {}}', FRAME.replace("timestamp", "t") % 1]
    calls += [CROP % ("null", 2), CROP % (-1, 2), CROP % (60.5, 70), CROP % (3, 3)]
    host = agree([c.encode() for c in calls], [60.0] * len(calls), 64, 512)
    assert [call.status for call in host] == list(CallStatus)


def test_keys_count_at_their_own_place_only(agree):
    calls = [
        '[{"name": 1}, "get_frame", {"arguments": 1}, {"timestamp": 1}]',
        '{"x": [{"name": 1}, "get_frame"], "arguments": {"timestamp": 1}}',
        '{"x": {"name": "get_frame", "arguments": {"timestamp": 1}}}',
        '{"name": ["get_frame"], "arguments": {"timestamp": 1}}',
        '{"name": "get_frame", "arguments": [{"timestamp": 1}]}',
        '{"name": "get_frame", "arguments": {"x": [{"timestamp": 2}, 3], "timestamp": 1}}',
        '{"name": "get_frame", "arguments": {"timestamp": 1, "x": {"timestamp": 2}}}',
        '{"name": "get_frame", "arguments": {"timestamp": 1}, "timestamp": 2}',
        '{"name": "get_frame", "arguments": {"timestamp": 1}, "x": {"timestamp": 2}}',
        '{"arguments": {"timestamp": 1, "name": "crop_video"}, "name": "get_frame"}',
        '{"name": "get_frame", "arguments": {"timestamp": 1}, "arguments": []}',
        '{"name": "get_frame", "arguments": {"timestamp": 1}, "arguments": {"x": 1}}',
    ]
    agree([c.encode() for c in calls], [60.0] * len(calls), 64, 512)


def test_nesting_to_the_limit(agree):
    deep = '{"a":' * 62 + "1" + "}" * 62
    mixed = '[{"a":' * 31 + "1" + "}]" * 31
    calls = [nested(d) for d in (3, 33, 34, 35, 63, 64, 65, 66, 100)]
    calls += [FRAME % deep, FRAME % f"[{deep}]", FRAME % mixed, FRAME % f"[{mixed}]"]
    calls += [
        nested(64)[:-1],
        nested(64).replace("]", "}", 1),
        "[" * 400,
        FRAME % ("[" * 60 + "}" * 60),
    ]
    agree([c.encode() for c in calls], [60.0] * len(calls), 64, 512)


def test_utf8_in_strings(agree):
    samples = [
        "é",
        "€",
        "𝄞",
        "\u07ff",
        "\u0800",
        "\ud7ff",
        "\ue000",
        "\U0010ffff",
        "\x7f",
        "\u2028",
    ]
    raw = [s.encode() for s in samples]
    for lead in range(0x78, 0x100):
        raw += [bytes([lead]), bytes([lead, 0x80]), bytes([lead, 0xBF, 0x7F])]
        raw += [bytes([lead, second, 0x80, 0x80]) for second in (0x80, 0x8F, 0x90, 0x9F, 0xA0)]
        raw += [bytes([lead, second, 0xBF]) for second in (0x80, 0x9F, 0xA0, 0xBF)]
    raw += [bytes([c]) for c in range(0x20)]
    calls = [(FRAME % '"@"').encode().replace(b"@", r) for r in raw]
    calls += [
        b'{"@": 1, "name": "get_frame", "arguments": {"timestamp": 1}}'.replace(b"@", r)
        for r in raw
    ]
    calls += [r + (FRAME % 1).encode() for r in raw[:200]]
    agree(calls, [60.0] * len(calls), 512, 128)


def test_text_length_is_never_a_limit():
    """The longest pieces at every place: N tokens always fit."""
    pieces = [b'{"name":"get_frame",', b" " * 50, b'"arguments":{"timestamp":7}}']
    tokens = np.array([[0, *[1] * 30, 2]], np.int32)
    call = interpret(tokens, np.array([32]), np.array([9.0]), byte_table(pieces))
    assert (int(call.status[0]), float(call.start[0])) == (CallStatus.OK, 7.0)


def test_ids_lengths_and_empty_pieces():
    text = b'{"name":"get_frame","arguments":{"timestamp":7}}'
    table = byte_table([b"", text[:9], text[9:], b""])
    rows = [
        ([0, 1, 3, 0, 2, 0], 6, CallStatus.OK),
        ([1, 2, 1, 1, 1, 1], 2, CallStatus.OK),  # beyond the length: not read
        ([0, 0, 0, 0, 1, 2], 99, CallStatus.OK),  # a length beyond N is clipped
        ([1, 2, 3, 0, 0, 0], -1, CallStatus.NOT_JSON),
        ([1, 4, 2, 0, 0, 0], 3, CallStatus.NOT_JSON),  # no such id
        ([1, -1, 2, 0, 0, 0], 3, CallStatus.NOT_JSON),
        ([1, 2, 4, -1, 0, 0], 2, CallStatus.OK),
        ([0, 0, 0, 0, 0, 0], 6, CallStatus.NOT_JSON),
    ]
    tokens = np.array([row[0] for row in rows], np.int32)
    lengths = np.array([row[1] for row in rows], np.int32)
    call = interpret(tokens, lengths, np.full(len(rows), 9.0), table)
    assert list(map(int, call.status)) == [row[2] for row in rows]
    data, sizes = token_bytes(tokens, lengths, table)
    assert bytes(np.asarray(data[0, : int(sizes[0])], np.uint8)) == text
    assert set(map(int, data[0, int(sizes[0]) :])) == {ord(" ")}


def test_empty_vocabulary_is_refused():
    with pytest.raises(ValueError, match="no pieces"):
        byte_table([])
    call = interpret(np.zeros((1, 3), np.int32), np.array([3]), np.ones(1), byte_table([b""]))
    assert int(call.status[0]) == CallStatus.NOT_JSON


def test_rows_do_not_see_each_other(agree):
    """A row's result depends neither on its neighbours nor on how much padding it has."""
    calls = [(CROP % (1, 2)).encode(), b"{", (FRAME % ("[" * 30 + "]" * 30)).encode()]
    for order in ([0, 1, 2], [2, 0, 1], [1, 1, 0]):
        agree([calls[i] for i in order], [5.0] * 3, 3, 192)
    agree(calls, [5.0] * 3, 64, 512)


def test_no_host_in_the_program():
    table = byte_table([bytes([i]) for i in range(256)])
    args = jnp.zeros((4, 16), jnp.int32), jnp.zeros(4, jnp.int32), jnp.ones(4)
    jaxpr = jax.make_jaxpr(interpret)(*args, table)
    text = str(jaxpr)
    assert "while" in text
    assert "callback" not in text
    assert "f64" not in text
    run = jax.jit(lambda t, n, d, b: interpret(t, n, d, b).status)  # nested, as in the rollout
    run(*args, table)
    with jax.transfer_guard("disallow"):
        jax.block_until_ready(run(*args, table))


numbers = st.one_of(
    st.integers(-3, 70).map(str),
    st.floats(allow_nan=True, allow_infinity=True).map(json.dumps),
    st.floats(0, 64, width=32).map(json.dumps),
    st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,30})?([eE][-+]?[0-9]{1,3})?", fullmatch=True),
    st.from_regex(r"[-+]?[0-9]{0,3}\.?[0-9]{0,3}([eE][-+]?[0-9]{0,2})?", fullmatch=True),
)
leaves = st.one_of(
    numbers,
    st.sampled_from(["true", "false", "null", "NaN", "Infinity", "-Infinity", "{}", "[]"]),
    st.text(max_size=6).map(json.dumps),
    st.text(max_size=6).map(lambda text: json.dumps(text, ensure_ascii=False)),
)
space = st.text(alphabet=" \t\n\r", max_size=2)
keys = st.sampled_from(
    ["name", "arguments", "start_time", "end_time", "timestamp", "video_path", "", "names", "start"]
)


@st.composite
def objects(draw, values):
    items = draw(st.lists(st.tuples(keys, values), max_size=5))
    pad = draw(space)
    body = f"{pad},".join(f"{pad}{json.dumps(key)}:{pad}{value}" for key, value in items)
    return f"{{{body}{pad}}}"


values = st.recursive(
    leaves,
    lambda inner: objects(inner) | st.lists(inner, max_size=3).map(lambda v: f"[{','.join(v)}]"),
    max_leaves=6,
)


@st.composite
def calls(draw):
    """Calls that are near to valid ones: the right keys, with anything as their values."""
    name = draw(st.sampled_from(['"crop_video"', '"get_frame"', '"get_frame"', '"zoom"', "3"]))
    used = ["timestamp"] if "frame" in name else ["start_time", "end_time"]
    arguments = [f'"{key}":{draw(numbers)}' for key in used]
    arguments += [
        f"{json.dumps(draw(keys))}: {draw(values)}" for _ in range(draw(st.integers(0, 2)))
    ]
    arguments = draw(st.permutations(arguments))
    members = [f'"name":{name}', f'"arguments":{{{",".join(arguments)}}}']
    members += [f"{json.dumps(draw(keys))}: {draw(values)}" for _ in range(draw(st.integers(0, 2)))]
    pad = draw(space)
    return f"{pad}{{{f'{pad},'.join(draw(st.permutations(members)))}}}"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(calls(), values, objects(values)), min_size=8, max_size=24), st.data())
def test_property_agreement(agree, texts, data):
    encoded = [text.encode("utf-8", "surrogatepass")[:512] for text in texts]
    durations = data.draw(
        st.lists(st.floats(0, 1e6, width=32), min_size=len(texts), max_size=len(texts))
    )
    agree(encoded, durations, 64, 512)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=24))
def test_property_any_bytes(agree, raw):
    agree(raw, [10.0] * len(raw), 64, 512)
    whole = [(FRAME % '"@"').encode().replace(b"@", piece) for piece in raw]
    agree(whole, [10.0] * len(raw), 64, 512)
