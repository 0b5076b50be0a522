"""A recording's container: opened safely, and read packet by packet.

A packet is a picture as it is stored. What the packets say is all that is known of a recording
before it is decoded: which pictures there must be, and their times (clock.py makes those).
"""

import contextlib
import dataclasses
from array import array
from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np
from av.container.core import Flags

from medscope_jax.video import formats
from medscope_jax.video import size_limits as limits
from medscope_jax.video.fields import FieldProbe
from medscope_jax.video.frames import VideoError

# Seconds that FFmpeg may take for one read of a file: a damaged one must not hold it for ever.
_STALLED = 8
# Errors in a row after which nothing more is to be read of a damaged container.
_ERRORS_IN_A_ROW = 64
# Here one stamp stands for several pictures, and FFmpeg knows how to count on from it.
_STAMPED_BY_PACK = ("mpeg", "mpegts")
MISSING = -(1 << 62)  # a stamp that a packet does not have
# MPEG-4's picture that says "as before" is a header and nothing else; in bytes.
_NOT_CODED = 16


class MediaSource(NamedTuple):
    """A file, the path that errors name, and the demuxer to take (None: FFmpeg sees for itself)."""

    path: str
    shown: str
    format: str | None = None


@dataclasses.dataclass(frozen=True)
class Packets:
    """The packets of one picture stream in the file's order, which is that of decoding.

    Attributes:
      pts, dts: int64 [N] when each is shown and decoded, in units of the time base, or MISSING.
      duration: int64 [N], 0 where unknown.
      key: bool [N], it can be decoded without others.
      hidden: bool [N], it is to show nothing: an edit list leaves it out, it is empty, or its codec
        says that it only helps others.
      damaged: bool [N], the container says that it lacks bytes.
      tiny: bool [N], so few bytes that it may say "as before".
    """

    pts: np.ndarray
    dts: np.ndarray
    duration: np.ndarray
    key: np.ndarray
    hidden: np.ndarray
    damaged: np.ndarray
    tiny: np.ndarray

    def __len__(self) -> int:
        return len(self.pts)


@contextlib.contextmanager
def opened(source: MediaSource) -> Iterator[av.container.InputContainer]:
    """The file, open in FFmpeg: by a demuxer of recordings, reading no other file.

    Raises:
      VideoError: FFmpeg can't open it.
    """
    options = {
        "format_whitelist": f"{formats.CONTAINERS},{','.join(formats.BARE)}",
        "protocol_whitelist": "file",
        # Clocks that run over or start again are clock.py's.
        "correct_ts_overflow": "0",
        "max_streams": "64",
        # FFmpeg decodes the first pictures while it opens a file.
        "max_pixels": str(limits.MAX_PIXELS),
    }
    try:
        container = av.open(
            f"file:{source.path}",
            format=source.format,
            options=options,
            metadata_errors="replace",
            timeout=(_STALLED, _STALLED),
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _unreadable(error, source) from None
    with container:
        if container.format.name not in _STAMPED_BY_PACK:
            # Stamps that FFmpeg makes up for packets without are not the file's.
            container.flags &= ~Flags.gen_pts.value  # type: ignore[operator]  # an int, says PyAV itself
        yield container


def _unreadable(error: Exception, source: MediaSource) -> VideoError:
    if isinstance(error, av.ExitError):
        return VideoError(_STALL, source.shown)
    if isinstance(error, MemoryError):
        return VideoError("no memory to open it: a damaged header; copy it again", source.shown)
    with open(source.path, "rb") as file:
        head = file.read(512)
    if formats.is_mp4(head):
        reason = (
            "an mp4 without a readable index (moov): cut short, never finished or damaged, so no "
            "frame can be decoded; copy or record it again"
        )
    else:
        reason = "not a video that FFmpeg can open; convert it to mp4"
    return VideoError(reason, source.shown)


_STALL = f"reading stalled for {_STALLED} s: damaged, or on a slow disk; copy it to this machine"


class Faults(NamedTuple):
    """What went wrong while a container was read.

    Attributes:
      errors: how many reads failed. A damaged container may fail in one place and go on behind it.
      late_stream: a stream that the headers do not name came up; nothing of it is read.
    """

    errors: int = 0
    late_stream: bool = False


def read_packets(
    container: av.container.InputContainer, streams: list, source: MediaSource
) -> Iterator[av.Packet | Faults]:
    """The packets of streams in the file's order, then what went wrong.

    Raises:
      VideoError: a read took too long.
    """
    failed = in_a_row = 0
    late_stream = False
    while in_a_row < _ERRORS_IN_A_ROW:
        try:
            for packet in container.demux(streams):
                # FFmpeg ends with one packet a stream that holds nothing: not the file's.
                if packet.size or packet.pos is not None:
                    in_a_row = 0
                    yield packet
            break
        except av.ExitError:
            raise VideoError(_STALL, source.shown) from None
        except IndexError:  # PyAV trips over it, once all else is read
            late_stream = True
            break
        except (av.FFmpegError, OSError):
            failed, in_a_row = failed + 1, in_a_row + 1
    yield Faults(failed, late_stream)


class Columns:
    """Packets of one stream while they come.

    Attributes:
      fields: whether pictures may be stored as pairs of packets.
    """

    def __init__(self, stream: av.VideoStream):
        self.stamps = array("q")  # pts, dts, duration of one after the other
        self.flags = bytearray()
        self.codec = stream.codec_context.name
        self.fields = FieldProbe(stream.codec_context)

    def __len__(self) -> int:
        return len(self.flags)

    def add(self, packet: av.Packet) -> None:
        """Takes the stream's next packet, which must not be used afterwards."""
        for value in (packet.pts, packet.dts, packet.duration or 0):
            self.stamps.append(MISSING if value is None else value)
        hidden = packet.is_discard or not packet.size or _only_helps(packet, self.codec)
        self.flags.append(
            packet.is_keyframe
            | hidden << 1
            | packet.is_corrupt << 2
            | (packet.size <= _NOT_CODED) << 3
        )
        self.fields.add(packet, len(self.flags) - 1)

    def packets(self) -> Packets:
        """The packets that were added, as arrays."""
        pts, dts, duration = np.frombuffer(self.stamps, np.int64).reshape(-1, 3).T.copy()
        flags = np.frombuffer(bytes(self.flags), np.uint8)
        key, hidden, damaged, tiny = ((flags >> bit & 1).astype(bool) for bit in range(4))
        return Packets(pts, dts, np.maximum(duration, 0), key, hidden, damaged, tiny)


def _only_helps(packet: av.Packet, codec: str) -> bool:
    """Whether a VP8 picture is one that is never shown (RFC 6386, section 9.1: show_frame)."""
    return codec == "vp8" and not memoryview(packet)[0] >> 4 & 1
