"""One demux of a recording: its picture streams, and the packets of the one that is read.

A packet is a picture as it is stored. What the packets say is all that is known of a recording
before it is decoded: which pictures there must be, and their times (clock.py makes those).
"""

import contextlib
import dataclasses
import os
import re
from array import array
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import av.logging
import numpy as np
from av.container.core import Flags
from av.stream import Disposition

from medscope_jax.video import formats, limits
from medscope_jax.video.fields import FieldProbe
from medscope_jax.video.frames import VideoError

# Seconds that FFmpeg may take for one read of a file: a damaged one must not hold it for ever.
_STALLED = 8
# Errors in a row after which nothing more is to be read of a damaged container.
_ERRORS_IN_A_ROW = 64
# Here one stamp stands for several pictures, and FFmpeg knows how to count on from it.
_STAMPED_BY_PACK = ("mpeg", "mpegts")
# Containers whose headers count the seconds from their clock's 0, not from the first picture.
_FROM_ZERO = ("matroska,webm", "flv", "asf")
MISSING = -(1 << 62)  # a stamp that a packet does not have
# MPEG-4's picture that says "as before" is a header and nothing else; in bytes.
_NOT_CODED = 16
_FASTEST = 240  # frames a second that a header is believed
# A run of this many zeros is no padding of these containers; how far from either end it is looked
# for. Bytes.
_ZEROS, _SEARCHED = 512, 1 << 20
_NO_PICTURE = Disposition.attached_pic | Disposition.timed_thumbnails


class Source(NamedTuple):
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


@dataclasses.dataclass(frozen=True)
class Stream:
    """The picture stream that is read, and what its container states.

    Attributes:
      index: which one of the file's streams.
      format: FFmpeg's name of the container.
      codec: FFmpeg's name of the compression.
      time_base: seconds of one unit of its stamps.
      rate: frames a second by its own headers; 0 if they do not say.
      reorders: pictures may be stored in another order than they are shown.
      paired: a picture may be stored as two packets, one for each of its fields.
      delay: seconds from the container's first stamp to the stream's.
      stated: seconds from the stream's first stamp to its end by its headers; 0 if they do not say.
      count: how many pictures it has by its headers or tables; 0 if they do not say.
      missing_bytes: bytes that its container places behind the file's end; 0 if none.
      errors: how many reads of the container failed.
      notes: on what else the container holds.
    """

    index: int
    format: str
    codec: str
    time_base: Fraction
    rate: float
    reorders: bool
    stated: float
    count: int
    missing_bytes: int
    paired: bool = False
    delay: float = 0.0
    errors: int = 0
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def opened(source: Source) -> Iterator[av.container.InputContainer]:
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
            container.flags &= ~Flags.gen_pts.value
        yield container


def _unreadable(error: Exception, source: Source) -> VideoError:
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


def numbered(
    container: av.container.InputContainer, streams: list
) -> Iterator[tuple[av.Packet | None, int]]:
    """The packets of streams in the file's order, each with how many reads failed so far.

    At the end (None, failed). A damaged container may fail in one place and go on behind it.
    """
    failed = in_a_row = 0
    while in_a_row < _ERRORS_IN_A_ROW:
        try:
            for packet in container.demux(streams):
                # FFmpeg ends with one packet a stream that holds nothing: not the file's.
                if packet.size or packet.pos is not None:
                    in_a_row = 0
                    yield packet, failed
            break
        except av.ExitError:
            raise
        except (av.FFmpegError, OSError):
            failed, in_a_row = failed + 1, in_a_row + 1
    yield None, failed


class _Columns:
    """Packets of one stream while they come."""

    def __init__(self, stream: av.VideoStream):
        self.stamps = array("q")  # pts, dts, duration of one after the other
        self.flags = bytearray()
        self.codec = stream.codec_context.name
        self.fields = FieldProbe(stream.codec_context)

    def add(self, packet: av.Packet) -> None:
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
        pts, dts, duration = np.frombuffer(self.stamps, np.int64).reshape(-1, 3).T.copy()
        flags = np.frombuffer(bytes(self.flags), np.uint8)
        key, hidden, damaged, tiny = ((flags >> bit & 1).astype(bool) for bit in range(4))
        return Packets(pts, dts, np.maximum(duration, 0), key, hidden, damaged, tiny)


def _only_helps(packet: av.Packet, codec: str) -> bool:
    """Whether a VP8 picture is one that is never shown (RFC 6386, section 9.1: show_frame)."""
    return codec == "vp8" and not memoryview(packet)[0] >> 4 & 1


def list_packets(source: Source) -> tuple[Stream, Packets]:
    """Reads the whole container once, decoding nothing, and chooses the stream to read.

    Raises:
      VideoError: FFmpeg can't open it or read on, there are no pictures, or none that it can
        decode; pictures too large or too many.
    """
    with opened(source) as container:
        streams = [s for s in container.streams if s.type == "video"]
        _check_pictures(container, streams, source)
        columns = {stream.index: _Columns(stream) for stream in streams if stream.codec_context}
        sound: dict[int, float] = {}  # seconds of the first stamp of each sound stream
        first, last, failed = None, 0, 0
        try:
            for packet, failed in numbered(container, list(container.streams)):  # noqa: B007
                if packet is None:
                    break
                if packet.pos is not None and packet.pos >= 0:
                    first = packet.pos if first is None else min(first, packet.pos)
                    last = max(last, packet.pos + packet.size)
                if packet.stream_index in columns:
                    column = columns[packet.stream_index]
                    column.add(packet)
                    limits.check_count(len(column.flags), source.shown)
                elif packet.stream.type == "audio" and packet.pts is not None:
                    # What lies before 0 is never heard: a codec's run-up.
                    sound.setdefault(
                        packet.stream_index, max(0.0, float(packet.pts * packet.time_base))
                    )
        except av.ExitError:
            raise VideoError(_STALL, source.shown) from None
        chosen = _choose(streams, columns, source)
        notes = [*_others(streams, chosen), *_zeros(container, source, first or 0, last)]
        packets = columns[chosen.index].packets()
        described = _describe(container, chosen, packets, source)
        begins = float((chosen.start_time or 0) * chosen.time_base)
        return dataclasses.replace(
            described,
            paired=columns[chosen.index].fields.paired,
            delay=begins - min([begins, *sound.values()]),
            errors=failed,
            notes=tuple(notes),
        ), packets


def _check_pictures(
    container: av.container.InputContainer, streams: list[av.VideoStream], source: Source
) -> None:
    """Refuses a file without pictures, with pictures of no known codec, or with too large ones."""
    shown = source.shown
    if not streams:
        what = "sound only, there is no video in it" if container.streams else "nothing in it"
        raise VideoError(f"{what}; name a recording", shown)
    moving = [stream for stream in streams if not stream.disposition & _NO_PICTURE]
    if moving and not any(stream.codec_context for stream in moving):
        raise VideoError(
            f"its pictures are compressed as {_codec_name(source)}, which this FFmpeg can't "
            "decode; convert it to mp4 (H.264)",
            shown,
        )
    for context in (stream.codec_context for stream in streams if stream.codec_context):
        limits.check_pixels(context.height, context.width, shown)


def _codec_name(source: Source) -> str:
    """What a container calls a codec that FFmpeg has no decoder for.

    PyAV has no name where there is no decoder. So FFmpeg is asked for its description of the file,
    and for what it says while it opens it; of both nothing but the name is taken.
    """
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        with av.logging.Capture(local=False) as messages, opened(source) as container:
            described = container.dumps_format()
            said = " ".join(message for _, _, message in messages)
    finally:
        av.logging.set_level(level)
    for pattern, text in (
        (r"Video: (?!none)([\w-]{1,40})", described),  # known, but not in this build
        (r"Video: none \((\w{1,16}) /", described),  # its tag
        (r"AVCodecID ([\w/-]{1,40})", said),  # Matroska's own name
    ):
        if found := re.search(pattern, text):
            return found[1]
    return "nobody knows what"


def _choose(streams: list[av.VideoStream], columns: dict, source: Source) -> av.VideoStream:
    """The stream to read: one that moves, the container's default, the largest, the first."""

    def rank(stream: av.VideoStream) -> tuple:
        context, pictures = stream.codec_context, len(columns[stream.index].flags)
        return (
            pictures > 0,
            not stream.disposition & _NO_PICTURE,
            pictures > 1,
            bool(stream.disposition & Disposition.default),
            context.height * context.width,
            -stream.index,
        )

    there = [stream for stream in streams if stream.codec_context]
    best = max(there, key=rank)
    if best.disposition & _NO_PICTURE:
        raise VideoError(
            "sound only with a cover picture, not a video; name a recording", source.shown
        )
    if not len(columns[best.index].flags):
        raise VideoError(
            "nothing can be decoded (no frame came); copy or convert it again", source.shown
        )
    return best


def _others(streams: list[av.VideoStream], chosen: av.VideoStream) -> list[str]:
    """No or one note that names the picture streams that are not read."""
    others = [stream for stream in streams if stream is not chosen]
    if not others:
        return []

    def name(stream: av.VideoStream) -> str:
        context = stream.codec_context
        if not context:
            return f"stream {stream.index} (a codec that this FFmpeg can't decode)"
        kind = "a cover picture, " if stream.disposition & _NO_PICTURE else ""
        return f"stream {stream.index} ({kind}{context.name}, {context.width}x{context.height})"

    names = ", ".join(name(stream) for stream in others)
    return [f"stream {chosen.index} of several with pictures is read; not read: {names}"]


def _zeros(container, source: Source, first: int, last: int) -> list[str]:
    """No or one note on zeros where packets should be, at a file's head or tail.

    Program and transport streams have no table of their packets: nothing else tells that some are
    gone there.
    """
    if container.format.name not in ("mpeg", "mpegts"):
        return []
    with open(source.path, "rb") as file:
        head = file.read(min(first, _SEARCHED))
        file.seek(max(last, os.path.getsize(source.path) - _SEARCHED))
        tail = file.read()
    places = [name for name, part in (("start", head), ("end", tail)) if bytes(_ZEROS) in part]
    if not places:
        return []
    return [f"incomplete: zeros at its {' and '.join(places)}, where pictures may have been"]


def _describe(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    packets: Packets,
    source: Source,
) -> Stream:
    """What the headers say of the chosen stream."""
    name, context = container.format.name, stream.codec_context
    rate = context.framerate if name in formats.RATED else None
    return Stream(
        index=stream.index,
        format=name,
        codec=context.name,
        time_base=stream.time_base,
        rate=float(rate) if rate and 1 <= rate <= _FASTEST else 0.0,
        reorders=bool(context.has_b_frames),
        stated=_stated(container, stream),
        count=stream.frames,
        missing_bytes=_missing_bytes(container, stream, packets, source),
    )


def _missing_bytes(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    packets: Packets,
    source: Source,
) -> int:
    """How many bytes lie behind the file's end by its table of pictures, or by its outermost size.

    Of Matroska that size is all there is: FFmpeg does not say that a file ends within a cluster.
    """
    size = os.path.getsize(source.path)
    if container.format.name in formats.TABLED and stream.frames >= len(packets):
        return max(0, max((e.pos + e.size for e in stream.index_entries), default=0) - size)
    if container.format.name == "matroska,webm":
        with open(source.path, "rb") as file:
            return max(0, formats.matroska_end(file.read(512)) - size)
    return 0


def _stated(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Seconds that a stream lasts by its container's headers; 0 where they do not say."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d\.\d+)", stream.metadata.get("DURATION", ""))
    if found:
        hours, minutes, seconds = found.groups()
        stated = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    elif container.duration and len(container.streams) == 1:
        stated = container.duration / av.time_base
    else:
        return 0.0
    begins = float((stream.start_time or 0) * stream.time_base)
    return stated - begins if container.format.name in _FROM_ZERO else stated
