"""Writes small recordings of numbered pictures with FFmpeg's encoders, through PyAV."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.video.corpus_pictures import SIZE, picture

SOUND_RATE = 48000
os.environ.setdefault("SVT_LOG", "1")  # its encoder prints what it is set to


@dataclasses.dataclass(frozen=True)
class Track:
    """One stream of pictures, and how it is coded.

    Attributes:
      codec: FFmpeg's name of the encoder, and its options (`options`).
      numbers: what the pictures say, in the order in which they are shown.
      rate: pictures a second; stamps are multiples of 1 / rate.
      stamps: the pictures' own stamps in multiples of 1 / rate; None: 0, 1, 2, ...
      start: seconds that are added to all stamps.
      draw: (number, size) -> uint8 [H, W, 3] RGB.
      to_frame: uint8 RGB -> the frame that is encoded; None: FFmpeg's conversion to pix_fmt.
      stream: changes the stream before the first picture is encoded (rotation, tags, flags).
    """

    codec: str = "libx264"
    numbers: Sequence[int] = range(60)
    rate: Fraction | int = 25
    size: tuple[int, int] = SIZE
    pix_fmt: str = "yuv420p"
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stamps: Sequence[int] | None = None
    start: float = 0.0
    draw: Callable = picture
    to_frame: Callable | None = None
    stream: Callable = lambda stream: None


H264 = Track()


@dataclasses.dataclass(frozen=True)
class Sound:
    """A stream of silence from `start` seconds, of `seconds` length."""

    codec: str = "aac"
    seconds: float = 2.4
    start: float = 0.0


def write(
    path: Path,
    *tracks: Track | Sound,
    form: str | None = None,
    options: Mapping[str, str] | None = None,
    change: Callable = lambda packets: packets,
) -> Path:
    """Encodes the tracks and writes them into one file, packets in the order of their stamps.

    form: FFmpeg's name of the container; by default what the path's ending says.
    options: the container's. change: packets -> the packets that are written.
    """
    with av.open(str(path), "w", format=form, options=dict(options or {})) as file:
        streams = [_add(file, track) for track in tracks]
        packets = []
        for track, stream in zip(tracks, streams, strict=True):
            encode = _sound if isinstance(track, Sound) else _pictures
            packets += encode(track, stream)
        # Streams side by side, as a recorder writes them.
        packets.sort(key=lambda packet: packet.dts * packet.time_base)
        for packet in change(packets):
            file.mux(packet)
    return path


def _add(file, track):
    if isinstance(track, Sound):
        stream = file.add_stream(track.codec, rate=SOUND_RATE)
        stream.layout = "mono" if track.codec != "aac" else "stereo"
        return stream
    stream = file.add_stream(track.codec, rate=track.rate, options=dict(track.options))
    stream.height, stream.width = track.size
    stream.pix_fmt = track.pix_fmt
    stream.codec_context.time_base = 1 / Fraction(track.rate)
    stream.codec_context.thread_count = 1
    track.stream(stream)
    return stream


def _pictures(track: Track, stream) -> list:
    step = 1 / Fraction(track.rate)
    stamps = range(len(track.numbers)) if track.stamps is None else track.stamps
    packets = []
    for stamp, number in zip(stamps, track.numbers, strict=True):
        drawn = track.draw(number, track.size)
        if track.to_frame is not None:
            frame = track.to_frame(drawn)
        else:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(drawn), format="rgb24")
            frame = frame.reformat(format=track.pix_fmt)
        frame.pts, frame.time_base = stamp, step
        packets += stream.encode(frame)
    packets += stream.encode(None)
    return _moved(packets, track.start)


def _sound(track: Sound, stream) -> list:
    packets, done = [], 0
    total = int(track.seconds * SOUND_RATE)
    form, layout = stream.codec_context.format.name, stream.codec_context.layout.name
    while done < total:
        frame = av.AudioFrame(format=form, layout=layout, samples=1024)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, done, Fraction(1, SOUND_RATE)
        packets += stream.encode(frame)
        done += 1024
    packets += stream.encode(None)
    # The encoder's delay put aside: the sound's first stamp is `start`.
    late = -packets[0].pts * packets[0].time_base
    return _moved(packets, track.start + float(late))


def _moved(packets: list, seconds: float) -> list:
    for packet in packets:
        ticks = round(Fraction(seconds).limit_denominator(10**6) / packet.time_base)
        packet.pts += ticks
        packet.dts += ticks
    return packets


def renewed(packet: av.Packet, data: bytes, pts: int | None = None) -> av.Packet:
    """The same packet with other bytes, and another stamp of the picture if one is given."""
    new = av.Packet(data)
    new.stream, new.time_base = packet.stream, packet.time_base
    new.pts, new.dts = packet.pts if pts is None else pts, packet.dts
    new.is_keyframe = packet.is_keyframe
    return new
