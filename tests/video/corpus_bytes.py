"""Surgery on recordings: what recorders, cut transfers and copying tools leave behind."""

import struct
from pathlib import Path

TS_PACKET = 188


def joined(path: Path, *parts: Path) -> Path:
    """One file of several, as `cat` makes it."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def appended(path: Path, data: bytes) -> Path:
    """Bytes after the recording's last one."""
    path.write_bytes(path.read_bytes() + data)
    return path


def changed(path: Path, old: bytes, new: bytes, count: int = -1) -> Path:
    """All (or the first `count`) places of `old` overwritten by `new`; at least one."""
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new, count))
    return path


def patched(path: Path, at: int, data: bytes) -> Path:
    """Bytes at one place overwritten."""
    whole = bytearray(path.read_bytes())
    whole[at : at + len(data)] = data
    path.write_bytes(whole)
    return path


def with_check_bytes(path: Path) -> Path:
    """A TS of packets of 204 bytes: 16 after each, as receivers store them."""
    data = path.read_bytes()
    packets = [data[at : at + TS_PACKET] for at in range(0, len(data), TS_PACKET)]
    path.write_bytes(b"".join(packet + bytes(16) for packet in packets))
    return path


def with_null_packets(path: Path) -> Path:
    """A TS of constant rate: an empty packet after each."""
    data = path.read_bytes()
    packets = [data[at : at + TS_PACKET] for at in range(0, len(data), TS_PACKET)]
    null = b"\x47\x1f\xff\x10" + b"\xff" * (TS_PACKET - 4)
    path.write_bytes(b"".join(packet + null for packet in packets))
    return path


def cut_head(path: Path, share: float, step: int = TS_PACKET) -> Path:
    """The recording without a share of its head, cut at a multiple of `step` bytes."""
    data = path.read_bytes()
    path.write_bytes(data[int(len(data) * share) // step * step :])
    return path


def cut_head_at(path: Path, mark: bytes, number: int) -> Path:
    """The recording from the place number `number` of `mark` on."""
    data, at = path.read_bytes(), -1
    for _ in range(number + 1):
        at = data.index(mark, at + 1)
    path.write_bytes(data[at:])
    return path


def riff_size(path: Path, off: int) -> Path:
    """An AVI whose outermost size is `off` bytes too large."""
    size = struct.unpack_from("<I", path.read_bytes(), 4)[0]
    return patched(path, 4, struct.pack("<I", size + off))


def movi_size(path: Path, off: int) -> Path:
    """An AVI whose list of chunks says it is `off` bytes longer than it is."""
    data = path.read_bytes()
    at = data.index(b"movi") - 4
    return patched(path, at, struct.pack("<I", struct.unpack_from("<I", data, at)[0] + off))


def avi_counts(path: Path, factor: float) -> Path:
    """An AVI whose headers state another number of pictures."""
    data = path.read_bytes()
    main, stream = data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32
    count = struct.unpack_from("<I", data, stream)[0]
    number = struct.pack("<I", round(count * factor))
    patched(path, main, number)
    return patched(path, stream, number)


def avi_rateless(path: Path) -> Path:
    """An AVI whose headers state no rate."""
    data = path.read_bytes()
    patched(path, data.index(b"strh") + 8 + 20, bytes(8))
    return patched(path, data.index(b"avih") + 8, bytes(4))


def avi_indexless(path: Path) -> Path:
    """An AVI without its index, as a recorder leaves it that lost its power."""
    data = path.read_bytes()
    at = data.rindex(b"idx1")
    path.write_bytes(data[:at])
    return riff_size(path, at - len(data))


def mp4_durations(path: Path, factor: float) -> Path:
    """An mp4 whose headers state another duration; the table of its pictures is as it was."""
    data = path.read_bytes()
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        at = data.index(box) + offset
        ticks = struct.unpack_from(">I", data, at)[0]
        patched(path, at, struct.pack(">I", round(ticks * factor)))
    return path


def mkv_duration(path: Path, factor: float) -> Path:
    """A Matroska file whose header states another duration."""
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3
    return patched(path, at, struct.pack(">d", struct.unpack_from(">d", data, at)[0] * factor))


def open_dml(path: Path) -> Path:
    """An AVI of one stream as files above 1 GB are: its later half in a second RIFF chunk.

    Without any index: the chunks speak for themselves.
    """
    data = avi_indexless(path).read_bytes()
    start = data.index(b"movi") + 4
    chunks, at = [], start
    while at + 8 <= len(data):
        size = struct.unpack_from("<I", data, at + 4)[0]
        chunks.append(data[at : at + 8 + size + size % 2])
        at += len(chunks[-1])
    half = len(chunks) // 2
    head = data[12 : start - 12]
    first, second = (b"".join(part) for part in (chunks[:half], chunks[half:]))
    body = head + _list(b"LIST", b"movi", first)
    path.write_bytes(
        _list(b"RIFF", b"AVI ", body) + _list(b"RIFF", b"AVIX", _list(b"LIST", b"movi", second))
    )
    return path


def _list(kind: bytes, form: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body) + 4) + form + body
