"""24,000 seeded calls, a third and more malformed: device and host must agree on each.

The default run tries 6,000 of them.
"""

import collections
import random

import numpy as np
import pytest

from medscope_jax.tools import CallStatus, Tool, byte_table

CALLS = [3_000, pytest.param(12_000, marks=pytest.mark.invariant)]  # of each tokenization
WIDTH = 640
# fmt: off
ODD_NUMBERS = [
    "0", "-0", "-0.0", "0.0",
    "00", "01", "1.", ".5",
    "-.5", "+1", "1e5", "1E5",
    "1e+5", "1e-5", "1e", "1e+",
    "1.e3", "0e400", "0E-9", "1e309",
    "-1e309", "1e308", "1e400", "1.7976931348623157e308",
    "1.7976931348623158e308", "1.7976931348623159e308", "1e39", "3.4028235e38",
    "3.4028236e38", "1e-45", "7e-46", "1e-400",
    "-1e-400", "-1e-46", "1e99999999999", "16777217",
    "16777217.0000001", "33554435", "1.00000005960464477539062500000001",
    "1.00000005960464477539062500000000", "0.1", "0.10000000149011612", "NaN", "Infinity",
    "-Infinity", "-NaN", "nan", "inf",
    "true", "false", "null", '"1"',
    '""', "[]", "{}", "[1]",
    '{"timestamp":1}', "0x1", "1_0", "12,5",
    "-", "e5", "1e05", "1e-05",
    "123456789012345678901234567890", "0.000000000000000000000000000001",
]
# fmt: on
TEXTS = ["v.mp4", "", "é", "日本", "𝄞 x", "a/b", 'q"q', "back\\", "\t", "\x7f", "name", "get_frame"]


class Writer:
    """Writes calls at random: right and odd values, keys and spacing, all from one seed."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.odd = 0.0

    def maybe(self, chance):
        return self.rng.random() < chance

    def space(self):
        return (
            "".join(self.rng.choices(" \t\n\r", k=self.rng.randint(0, 2)))
            if self.maybe(0.3)
            else ""
        )

    def string(self, text):
        """A JSON string, some characters escaped."""
        out = []
        escape_chance = self.rng.choice([0, 0, 0.2, 1])
        short = dict(zip('"\\/\b\f\n\r\t', '"\\/bfnrt', strict=True))
        for char in text:
            if char in '"\\' or char < " " or self.rng.random() < escape_chance:
                if char in short and self.maybe(0.5):
                    out.append("\\" + short[char])
                else:
                    units = char.encode("utf-16-be").hex()
                    units = units.upper() if self.maybe(0.5) else units
                    out += ["\\u" + units[i : i + 4] for i in range(0, len(units), 4)]
            else:
                out.append(char)
        return f'"{"".join(out)}"'

    def number(self, duration):
        kind = self.rng.random()
        if kind < self.odd:
            return self.rng.choice(ODD_NUMBERS)
        if kind < 0.2:  # at the boundary
            near = np.float32(duration)
            near = self.rng.choice(
                [near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(1e9))]
            )
            return self.rng.choice([repr(float(near)), repr(duration), str(int(duration)), "0"])
        value = self.rng.uniform(-0.06, 1.02) * duration
        form = self.rng.choice(["{:.1f}", "{:.0f}", "{!r}", "{:.3e}", "{:.2E}", "{:.25f}"])
        return form.format(value)

    def value(self, depth=0):
        kind = self.rng.randint(0, 7 if depth < 3 else 4)
        if kind <= 1:
            return self.string(self.rng.choice(TEXTS))
        if kind <= 3:
            return self.number(9.0)
        if kind == 4:
            return self.rng.choice(
                ODD_NUMBERS[:3] + ["true", "null", "NaN", "-Infinity", "[]", "{}"]
            )
        if kind == 5:
            return f"[{','.join(self.value(depth + 1) for _ in range(self.rng.randint(0, 3)))}]"
        keys = self.rng.choices(["name", "arguments", "timestamp", "end_time", "é", ""], k=2)
        return self.object([(key, self.value(depth + 1)) for key in keys])

    def object(self, members):
        parts = [
            f"{self.space()}{self.string(key)}{self.space()}:{self.space()}{value}{self.space()}"
            for key, value in members
        ]
        return "{" + ",".join(parts) + "}"

    def extras(self, members, keys):
        while self.maybe(0.2 + self.odd):
            members.append((self.rng.choice(keys), self.value()))
        while self.maybe(self.odd / 2):
            members.append((self.rng.choice(members)[0], self.value()))
        if members and self.maybe(self.odd / 2):
            members.pop(self.rng.randrange(len(members)))
        if self.maybe(0.3):
            self.rng.shuffle(members)
        return members

    def arguments(self, names, duration):
        members = [(name, self.number(duration)) for name in names]
        keys = ["video_path", "video_path", "start_times", "end", "timestamp", "name"]
        return self.object(self.extras(members, keys))

    def call(self, duration):
        self.odd = self.rng.choice([0, 0, 0.1, 0.4])
        names = self.rng.choice([("start_time", "end_time"), ("timestamp",)])
        tool = str(Tool.CROP_VIDEO if len(names) == 2 else Tool.GET_FRAME)
        if self.maybe(self.odd / 4):
            tool = self.rng.choice(["", "zoom", "Crop_video", "crop_video ", "get_frames", "none"])
        name = self.value() if self.maybe(self.odd / 8) else self.string(tool)
        members = [("name", name), ("arguments", self.arguments(names, duration))]
        keys = ["id", "nam", "names", "argument", "timestamp", "start_time"]
        if self.maybe(self.odd / 2):
            members.append(("arguments", self.arguments(names, duration)))
        return self.space() + self.object(self.extras(members, keys)) + self.space()

    def mutate(self, data):
        """Break a call: bytes deleted, inserted, swapped, cut off, nested, repeated."""
        data = bytearray(data)
        for _ in range(self.rng.choice([1, 1, 1, 2, 4])):
            place = self.rng.randrange(len(data)) if data else 0
            kind = self.rng.randint(0, 7)
            if kind == 0:
                del data[place : place + self.rng.choice([1, 1, 3])]
            elif kind == 1:
                data[place:place] = bytes([self.rng.choice(b'{}[]":,\\u0129-+.eE tfnNI\t\x00\x1f')])
            elif kind == 2:
                data[place:place] = bytes([self.rng.randrange(256)])
            elif kind == 3 and data:
                other = self.rng.randrange(len(data))
                data[place], data[other] = data[other], data[place]
            elif kind == 4:
                del data[self.rng.randrange(len(data) + 1) :]
            elif kind == 5 and data:
                data[place] = self.rng.randrange(256)
            elif kind == 6:
                depth = self.rng.choice([1, 5, 61, 62, 63, 64, 65])
                opening, closing = self.rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
                data = bytearray(bytes(data).replace(b":", b":" + opening * depth, 1))
                if self.maybe(0.7):
                    data = bytearray(bytes(data).replace(b",", closing * depth + b",", 1))
            else:
                piece = data[place : place + self.rng.randint(1, 12)]
                data[place:place] = piece
        return bytes(data)


def generate(seed, count):
    writer = Writer(seed)
    calls, durations = [], []
    while len(calls) < count:
        duration = writer.rng.choice([60.0, 60.7, 0.1, 240.0, 1.0, 0.0, 3599.96, 1e-3])
        call = writer.call(duration).encode()
        call = writer.mutate(call) if writer.maybe(0.45) else call
        if len(call) <= WIDTH:
            calls.append(call)
            durations.append(duration)
    return calls, durations


def check_coverage(host):
    """A fuzz that never reaches a rule proves nothing about it."""
    status = collections.Counter(call.status for call in host)
    assert len(host) / 3 < status[CallStatus.NOT_JSON] < len(host) / 2
    assert all(status[code] > len(host) / 200 for code in CallStatus), status
    good = collections.Counter(call.tool for call in host if call.status == CallStatus.OK)
    assert min(good[Tool.CROP_VIDEO], good[Tool.GET_FRAME]) > len(host) / 20


@pytest.mark.parametrize("count", CALLS)
def test_byte_tokens(agree, count):
    calls, durations = generate(1, count)
    check_coverage(agree(calls, durations, 1024, WIDTH))


@pytest.fixture
def piece_tokens():
    """A vocabulary of random pieces, splits inside characters among them, and a random encoder."""
    rng = random.Random(3)
    pieces = {bytes([i]): i for i in range(256)}
    for call in generate(4, 300)[0]:
        for _ in range(8):
            begin = rng.randrange(len(call) + 1)
            pieces.setdefault(call[begin : begin + rng.randint(2, 9)], len(pieces))
    pieces.setdefault(b"", len(pieces))
    for whole in "é日本𝄞":
        raw = whole.encode()
        for cut in range(1, len(raw)):
            pieces.setdefault(b'"' + raw[:cut], len(pieces))
            pieces.setdefault(raw[cut:] + b'"', len(pieces))

    def encode(call):
        ids, place = [], 0
        while place < len(call):
            sizes = [s for s in range(1, 10) if call[place : place + s] in pieces]
            size = min(rng.choice(sizes), len(call) - place)
            ids.append(pieces[call[place : place + size]])
            place += size
            if rng.random() < 0.05:
                ids.append(pieces[b""])
        return ids

    return byte_table(list(pieces)), encode


@pytest.mark.parametrize("count", CALLS)
def test_piece_tokens(agree, piece_tokens, count):
    table, encode = piece_tokens
    calls, durations = generate(2, count)
    check_coverage(agree(calls, durations, 1024, WIDTH, table, encode))
