"""Decoding: each picture that comes back is tied to the packet that it was stored in.

A decoder hands a packet's stamp on to the picture that it makes of it, whatever their order. Here
that stamp is the packet's number: clock.py knows its time. So a picture is known by what it was
stored in, not by how many came before it: one that is lost shifts no other.
"""

import os
from collections.abc import Iterator

import av
import numpy as np

from medscope_jax.video import demux
from medscope_jax.video import size_limits as limits
from medscope_jax.video.demux import MediaSource, Packets
from medscope_jax.video.frames import VideoError
from medscope_jax.video.streams import Stream

_MANY = 1500  # pictures of a recording that several threads decode
_MOST_THREADS = 8  # each holds pictures of its own


def iter_pictures(
    source: MediaSource, stream: Stream, packets: Packets, parts: np.ndarray, threads: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The pictures that a decoder returns without error, in the order in which they are shown.

    Left out are pictures that FFmpeg had to patch up, and those of a part that come before the
    first that can be decoded without others: they would show what was never recorded.

    Args:
      source, stream, packets: as streams.list_packets gave them.
      parts: bool [N], the packets at which another recording begins.
      threads: as frames.Reading.

    Yields:
      (number of its packet, picture).

    Raises:
      VideoError: the file is another one than was listed; pictures too large.
    """
    whole, size = _whole(packets, parts).tolist(), (0, 0)
    for frame in _decoded(source, stream, packets, parts, threads):
        number = frame.pts
        if number is None or not 0 <= number < len(whole) or frame.is_corrupt or not whole[number]:
            continue
        if size != (frame.height, frame.width):
            size = frame.height, frame.width
            limits.check_pixels(*size, source.shown)
        yield number, frame


def _whole(packets: Packets, parts: np.ndarray) -> np.ndarray:
    """bool [N]: a picture to show, behind its part's first key picture, with all its bytes."""
    part = np.cumsum(parts)
    first_key = np.zeros(part[-1] + 1 if len(part) else 0, np.int64)
    # Written from the last to the first: the first one stays.
    keys = np.flatnonzero(packets.key)[::-1]
    first_key[part[keys]] = keys
    whole = ~packets.hidden & (np.arange(len(packets)) >= first_key[part])
    if len(packets):
        whole[-1] &= ~packets.damaged[-1]  # the file ends within it
    return whole


def _decoded(
    source: MediaSource, stream: Stream, packets: Packets, parts: np.ndarray, threads: int
) -> Iterator[av.VideoFrame]:
    """All pictures that come out of the decoder; the number of its packet is a picture's stamp."""
    with demux.opened(source) as container:
        if stream.index >= len(container.streams):
            raise _changed(source)
        chosen = container.streams[stream.index]
        if not isinstance(chosen, av.VideoStream):
            raise _changed(source)
        decoder = chosen.codec_context
        decoder.options = {"max_pixels": str(limits.MAX_PIXELS)}
        decoder.thread_count, decoder.thread_type = _threads(threads, len(packets)), "AUTO"
        starts = set(np.flatnonzero(parts).tolist())
        for number, packet in enumerate(demux.read_packets(container, [chosen], source)):
            if isinstance(packet, demux.Faults):
                break
            if number >= len(packets):
                raise _changed(source)
            if number in starts:
                yield from _drained(decoder)
                decoder.flush_buffers()
            packet.pts, packet.dts = number, None
            if packet.size:  # an empty one would tell the decoder that it is the end
                yield from _made(decoder, packet)
        yield from _drained(decoder)


def _threads(threads: int, pictures: int) -> int:
    """How many threads decode: one where there are few pictures.

    A threaded decoder tells of a damaged picture while it gives others, which are then lost with it
    (PyAV drops what came with an error): at a long recording's end, less than what is overlooked.
    """
    if pictures < _MANY:
        return 1
    return max(1, threads - 1) if threads else min(os.cpu_count() or 1, _MOST_THREADS)


def _made(decoder: av.VideoCodecContext, packet: av.Packet | None) -> list[av.VideoFrame]:
    """The pictures that come out for a packet that goes in; none where it can't be decoded."""
    try:
        return decoder.decode(packet)
    except (av.FFmpegError, EOFError):
        return []


def _drained(decoder: av.VideoCodecContext) -> list[av.VideoFrame]:
    """The pictures that a decoder still holds."""
    return _made(decoder, None) if decoder.is_open else []


def _changed(source: MediaSource) -> VideoError:
    return VideoError("it changed while it was read; read it again", source.shown)
