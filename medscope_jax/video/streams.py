"""The picture stream of a container that is read, chosen in one demux, and what is said of it."""

import dataclasses
import os
import re
from fractions import Fraction

import av
import av.logging
import numpy as np
from av.stream import Disposition

from medscope_jax.video import demux, formats
from medscope_jax.video import size_limits as limits
from medscope_jax.video.demux import Columns, MediaSource, Packets
from medscope_jax.video.ends import Extent, end_notes
from medscope_jax.video.frames import VideoError

# Containers whose headers count the seconds from their clock's 0, not from the first picture.
FROM_ZERO = ("matroska,webm", "flv", "asf")
# FFmpeg's duration of these is its own guess by the last stamps that it finds.
_NO_HEADER = ("mpeg", "mpegts")
_ALONE = 0.5  # seconds that other streams may go on without pictures without a word
_SHORT = 0.06  # seconds that all streams may end before their header says without a word
_FASTEST = 240  # frames a second that a header is believed
_NO_PICTURE = Disposition.attached_pic | Disposition.timed_thumbnails


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
      woven: its pictures are two fields each, whatever the decoder says of them.
      paired: a picture may be stored as two packets, one for each of its fields.
      begins: seconds of its first stamp, by the container's own clock.
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
    woven: bool = False
    paired: bool = False
    begins: float = 0.0
    delay: float = 0.0
    errors: int = 0
    notes: tuple[str, ...] = ()


def list_packets(source: MediaSource) -> tuple[Stream, Packets]:
    """Reads the whole container once, decoding next to nothing, and chooses the stream to read.

    Raises:
      VideoError: FFmpeg can't open it or read on, there are no pictures, or none that it can
        decode; pictures too large or too many.
    """
    with demux.opened(source) as container:
        streams = [stream for stream in container.streams if isinstance(stream, av.VideoStream)]
        _check_pictures(container, streams, source)
        columns = {stream.index: Columns(stream) for stream in streams if stream.codec_context}
        sound: dict[int, float] = {}  # seconds of the first stamp of each sound stream
        extent, faults = Extent(), demux.Faults()
        for packet in demux.read_packets(container, list(container.streams), source):
            if isinstance(packet, demux.Faults):
                faults = packet
                break
            extent.add(packet)
            if packet.stream_index in columns:
                columns[packet.stream_index].add(packet)
                limits.check_count(len(columns[packet.stream_index]), source.shown)
            elif packet.stream_index not in sound and packet.pts is not None:
                # What lies before 0 is never heard: a codec's run-up.
                heard = packet.stream.type == "audio"
                begins = max(0.0, float(packet.pts * packet.time_base))
                sound[packet.stream_index] = begins if heard else np.inf
        chosen = _choose(streams, columns, source)
        packets = columns[chosen.index].packets()
        unit = chosen.time_base
        assert unit is not None  # FFmpeg gives one to every stream
        begins = float((chosen.start_time or 0) * unit)
        stream = _describe(container, chosen, unit, packets, source)
        notes = [*_others(streams, chosen), *end_notes(stream.format, source.path, extent)]
        notes += _short_notes(container, chosen, extent)
        if faults.late_stream:
            notes.append("another stream begins within the file: it is not read")
        return dataclasses.replace(
            stream,
            woven=columns[chosen.index].fields.woven,
            paired=columns[chosen.index].fields.paired,
            begins=begins,
            delay=begins - min([begins, *sound.values()]),
            errors=faults.errors,
            notes=tuple(notes),
        ), packets


def _check_pictures(
    container: av.container.InputContainer, streams: list[av.VideoStream], source: MediaSource
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


def _codec_name(source: MediaSource) -> str:
    """What a container calls a codec that FFmpeg has no decoder for.

    PyAV has no name where there is no decoder. So FFmpeg is asked for its description of the file,
    and for what it says while it opens it; of both nothing but the name is taken.
    """
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        with av.logging.Capture(local=False) as messages, demux.opened(source) as container:
            described = container.dumps_format()  # type: ignore[attr-defined]  # not in PyAV's stub
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


def _choose(streams: list[av.VideoStream], columns: dict, source: MediaSource) -> av.VideoStream:
    """The stream to read: one that moves, the container's default, the largest, the first."""

    def rank(stream: av.VideoStream) -> tuple:
        context, pictures = stream.codec_context, len(columns[stream.index])
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
    if not len(columns[best.index]):
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


def _describe(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    unit: Fraction,
    packets: Packets,
    source: MediaSource,
) -> Stream:
    """What the headers say of the chosen stream, whose time base is unit."""
    name, context = container.format.name, stream.codec_context
    rate = context.framerate if name in formats.RATED else None
    return Stream(
        index=stream.index,
        format=name,
        codec=context.name,
        time_base=unit,
        rate=float(rate) if rate and 1 <= rate <= _FASTEST else 0.0,
        reorders=bool(context.has_b_frames),
        stated=_stated(container, stream, unit),
        count=stream.frames,
        missing_bytes=_missing_bytes(container, stream, packets, source),
    )


def _missing_bytes(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    packets: Packets,
    source: MediaSource,
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


def _short_notes(
    container: av.container.InputContainer, chosen: av.VideoStream, extent: Extent
) -> list[str]:
    """Notes that the picture ends long before the sound, and all streams before the header says.

    That a lone stream does is missing.py's to tell, and what MP4's tables lack, too.
    """
    if len(container.streams) < 2 or container.format.name in formats.TABLED:
        return []
    notes = []
    alone = extent.latest - extent.latest_of(chosen.index)
    if alone > _ALONE:
        notes.append(f"its pictures end {alone:.2f} s before its other streams")
    stated = (container.duration or 0) / av.time_base
    if container.format.name in FROM_ZERO and stated - extent.latest > _SHORT:
        short = stated - extent.latest
        notes.append(
            f"incomplete: its header says {stated:.2f} s, its streams end {short:.2f} s before"
        )
    return notes


def _stated(
    container: av.container.InputContainer, stream: av.VideoStream, unit: Fraction
) -> float:
    """Seconds that a stream lasts by its container's headers; 0 where they do not say."""
    if container.format.name in _NO_HEADER:
        return 0.0
    if stream.duration:
        return float(stream.duration * unit)
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d\.\d+)", stream.metadata.get("DURATION", ""))
    if found:
        hours, minutes, seconds = found.groups()
        stated = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    elif container.duration and len(container.streams) == 1:
        stated = container.duration / av.time_base
    else:
        return 0.0
    begins = float((stream.start_time or 0) * unit)
    return stated - begins if container.format.name in FROM_ZERO else stated
