"""What lies before the first packet of a file and behind the last: where pictures may be gone.

Containers with a table of their packets say themselves what is missing. Of the others, nothing but
the bytes at either end tells that a piece of the recording was lost there.
"""

import os

import av

# A run of this many zeros is no padding of these containers; how far from either end it is looked
# for. Bytes.
_ZEROS, _SEARCHED = 512, 1 << 20
_TS_PACKETS = (188, 192, 204)  # bytes of a transport stream's packet, by its kind
# How the objects begin that may follow the packets of an ASF file: its indices.
_ASF_INDICES = (b"\x90\x08\x00\x33", b"\xd3\x29\xe2\xd6", b"\xf8\x03\xb1\xfe", b"\xd0\x3f\xb7\x3c")


class Extent:
    """Which bytes of a file its packets cover, while they come.

    Attributes:
      first, last: where the first and the last packet begin.
      end: where the last one ends.
      stride: the least distance between two that do not begin in one place; 0 if unknown.
      latest: seconds, when the last of any stream ends by its own stamps.
    """

    def __init__(self):
        self.first = self.last = self.end = self.stride = 0
        self.latest = 0.0
        self._empty = True

    def add(self, packet: av.Packet) -> None:
        """Takes the next packet."""
        if packet.pts is not None:
            ends = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self.latest = max(self.latest, ends)
        if packet.pos is None or packet.pos < 0:
            return
        if self._empty:
            self.first, self._empty = packet.pos, False
        elif packet.pos > self.last:
            step = packet.pos - self.last
            self.stride = min(self.stride or step, step)
        self.first, self.last = min(self.first, packet.pos), max(self.last, packet.pos)
        self.end = max(self.end, packet.pos + packet.size)


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
    if container in ("mpeg", "mpegts", "flv"):
        ends = (("start", head), ("end", tail))
        places = [f"zeros at its {name}" for name, part in ends if bytes(_ZEROS) in part]
    odd = {
        "mpegts": all(size % length for length in _TS_PACKETS),
        "dv": size != extent.end,
        "asf": extent.stride
        and size - extent.last != extent.stride
        and not following.startswith(_ASF_INDICES),
    }
    if odd.get(container):
        places.append("its end is not the container's")
    return [f"incomplete: {' and '.join(places)}, pictures may be gone"] if places else []
