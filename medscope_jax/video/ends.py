"""What lies before the first packet of a file and behind the last: where pictures may be gone.

Containers with a table of their packets say themselves what is missing. Of the others, nothing but
the bytes at either end tells that a piece of the recording was lost there.
"""

import os

import av

# A run of this many zeros is no padding of these containers; how far from either end it is looked
# for. Bytes.
_ZEROS, _SEARCHED = 512, 1 << 20
_NO_ZEROS = ("mpeg", "mpegts", "flv")
_TS_PACKETS = (188, 192, 204)  # bytes of a transport stream's packet, by its kind
_FLV_TAG = 64  # bytes of a closing tag, at most
_TS_TABLES = (0x0000, 0x0001, 0x0011, 0x1FFF)  # packet ids of tables and of stuffing
_TS_STRAYS = 3  # packets of other tables, clocks and streams that may follow the last picture
_TS_SYNC = 0x47  # its first byte; 192 bytes have a stamp of four before it
# How the objects begin that may follow the packets of an ASF file: its indices.
_ASF_INDICES = (b"\x90\x08\x00\x33", b"\xd3\x29\xe2\xd6", b"\xf8\x03\xb1\xfe", b"\xd0\x3f\xb7\x3c")


class Extent:
    """Which bytes of a file its packets cover, while they come.

    Attributes:
      first, last: where the first and the last packet begin.
      end: where the last one ends.
      stride: the least distance between two that do not begin in one place; 0 if unknown.
    """

    def __init__(self):
        self.first = self.last = self.end = self.stride = 0
        self._empty = True
        # Of each stream, the end of its last packet in its own units, and those units in seconds.
        self._ends: dict[int, int] = {}
        self._units: dict[int, float] = {}

    def add(self, packet: av.Packet) -> None:
        """Notes where a packet ends, for its stream."""
        stamp, index = packet.pts, packet.stream_index
        if stamp is not None:
            ends = stamp + (packet.duration or 0)
            if index not in self._ends:
                self._ends[index], self._units[index] = ends, float(packet.time_base)
            elif ends > self._ends[index]:
                self._ends[index] = ends
        place = packet.pos
        if place is None or place < 0:  # it follows another in one pack
            self.end += packet.size
            return
        if self._empty:
            self.first, self._empty = place, False
        elif place > self.last:
            step = place - self.last
            if step < self.stride or not self.stride:
                self.stride = step
        elif place < self.first:
            self.first = place
        if place >= self.last:
            self.last = place
        self.end = max(self.end, place + packet.size)

    @property
    def latest(self) -> float:
        """Seconds, when the last of any stream ends by its own stamps."""
        return max(map(self.latest_of, self._ends), default=0.0)

    def latest_of(self, index: int) -> float:
        """Seconds, when a stream ends by its own stamps; 0 if it has none."""
        return self._ends.get(index, 0) * self._units.get(index, 0.0)


def end_notes(container: str, path: str, extent: Extent) -> list[str]:
    """No or one note that pictures may be gone from a file's start or end.

    Args:
      container: FFmpeg's name of it.
      path: the file.
      extent: of all packets.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(min(extent.first, _SEARCHED))
        file.seek(max(extent.end, size - _SEARCHED))
        tail = file.read()
        file.seek(extent.last + extent.stride)
        following = file.read(4)
    places = []
    if container in _NO_ZEROS and bytes(_ZEROS) in tail:
        places.append("zeros at its end")
    # Not further on in a program stream: a DVD's own packs begin it, and hold zeros.
    begins = head[:_ZEROS] if container == "mpeg" else head
    if container in _NO_ZEROS and bytes(_ZEROS) in begins:
        places.append("zeros at its start")
    odd = {
        "mpegts": _ts_odd(path, size, extent),
        "dv": extent.first or size != extent.end,
        "flv": size - extent.end > _FLV_TAG,
        "asf": extent.stride
        and size - extent.last != extent.stride
        and not following.startswith(_ASF_INDICES),
    }
    if odd.get(container):
        places.append("its bytes are not all the container's")
    return [f"incomplete: {' and '.join(places)}, pictures may be gone"] if places else []


def _ts_odd(path: str, size: int, extent: Extent) -> bool:
    """Whether a transport stream ends within a packet, or with packets of no stream that it has."""
    length = _ts_length(path, extent.first)
    if length == 1 or (size - extent.first) % length:
        return length > 1
    # The last packet's own pieces of 184 bytes, and between them those of other streams.
    end = extent.last + length * -(-(extent.end - extent.last) // (length - 4))
    with open(path, "rb") as file:
        file.seek(end)
        tail = file.read(_SEARCHED)
    before = length - 188 if length == 192 else 0
    owners = [
        int.from_bytes(tail[at + before + 1 : at + before + 3], "big") & 0x1FFF
        for at in range(0, len(tail) - length + 1, length)
    ]
    return sum(owner not in _TS_TABLES for owner in owners) > _TS_STRAYS


def _ts_length(path: str, first: int) -> int:
    """How long the packets of a transport stream are, by their sync bytes; 1 if none is found."""
    with open(path, "rb") as file:
        file.seek(first)
        data = file.read(4 * max(_TS_PACKETS))
    for length in _TS_PACKETS:
        for before in (0, 4):
            syncs = data[before::length][:3]
            if len(syncs) and all(byte == _TS_SYNC for byte in syncs):
                return length
    return 1
