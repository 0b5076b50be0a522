"""Damaged and hostile safetensors files, made of whole ones by seeded changes (no PyTorch)."""

import json
import random
import struct
from collections.abc import Iterator

DTYPES = ("F32", "BF16", "F16", "F64", "I8", "U8", "BOOL", "I64", "F8_E4M3", "F4", "C64", "X9")
ODD = (0, 1, -1, 2, 7, 8, 2**31, 2**63, 2**64, 1.0, 0.5, True, None, "1", [], {}, [1], 10**400)
WORDS = (b"NaN", b"-0", b"1e999", b"1E1", b"null", b'"', b"[", b"]", b"{", b"}", b",", b"\\ud800")


def whole(draw: random.Random) -> tuple[dict, int]:
    """The header of a file that is whole, and the bytes of its tensors."""
    header, end = {}, 0
    if draw.random() < 0.5:
        header["__metadata__"] = {"format": "pt"}
    for number in range(draw.randint(0, 4)):
        shape = [draw.randint(0, 4) for _ in range(draw.randint(0, 3))]
        kind, width = draw.choice((("F32", 4), ("BF16", 2), ("F16", 2), ("U8", 1), ("F64", 8)))
        size = width
        for side in shape:
            size *= side
        entry = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        header[f"t{number}.weight"] = entry
        end += size
    return header, end


def files(seed: int, count: int) -> Iterator[bytes]:
    """`count` files: some whole, most with one to three changes in their values or bytes."""
    draw = random.Random(seed)
    for _ in range(count):
        header, size = whole(draw)
        for _ in range(draw.randint(0, 2)):
            _change_values(draw, header)
        text = json.dumps(header, separators=draw.choice(((",", ":"), (", ", ": ")))).encode()
        text += b" " * draw.choice((0, -len(text) % 8))
        data = bytearray(struct.pack("<Q", len(text)) + text + bytes(size))
        for _ in range(draw.choice((0, 0, 1, 2))):
            _change_bytes(draw, data)
        yield bytes(data)


def _change_values(draw: random.Random, header: dict) -> None:
    names = [name for name in header if name != "__metadata__"]
    kind = draw.randrange(8)
    if kind == 0:
        header["__metadata__"] = draw.choice((None, {}, {"a": 1}, {"a": "b"}, [], "x", {"a": None}))
    if kind == 1:
        header["extra"] = draw.choice((None, {}, [], 3, {"dtype": "U8", "shape": [0]}))
    if not names or kind < 2:
        return
    entry = header[draw.choice(names)]
    if not isinstance(entry, dict):
        return
    if kind == 2:
        entry["dtype"] = draw.choice((*DTYPES, *ODD))
    elif kind == 3:
        entry["shape"] = draw.choice(([], [0], [draw.choice(ODD)], [2, draw.choice(ODD)], *ODD))
    elif kind == 4:
        entry["data_offsets"] = draw.choice(([0, 4], [4, 0], [0], [0, 4, 8], *ODD))
    elif kind == 5:
        for place in (0, 1):
            if isinstance(entry.get("data_offsets"), list) and len(entry["data_offsets"]) == 2:
                step = draw.choice((-4, -1, 0, 1, 4))
                if isinstance(entry["data_offsets"][place], int):
                    entry["data_offsets"][place] += step
    elif kind == 6:
        entry.pop(draw.choice(("dtype", "shape", "data_offsets")), None)
    else:
        entry["note"] = draw.choice(ODD)


def _change_bytes(draw: random.Random, data: bytearray) -> None:
    place = draw.randrange(len(data) + 1)
    kind = draw.randrange(6)
    if kind == 0:
        data[place : place + 1] = bytes(
            byte ^ 1 << draw.randrange(8) for byte in data[place : place + 1]
        )
    elif kind == 1:
        del data[place:]
    elif kind == 2:
        data += bytes(draw.randint(1, 9))
    elif kind == 3:
        del data[place : place + draw.randint(1, 8)]
    elif kind == 4:
        word = draw.choice(WORDS)
        data[place : place + len(word)] = word
    else:
        data[:8] = struct.pack("<Q", draw.choice((0, 1, 2, 8, len(data), 2**32, 2**63, 2**64 - 1)))
