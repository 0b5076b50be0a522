"""Interlaced recordings: towers, camcorders and operating-room recorders write fields.

Each has two versions: fields that say the same number, and fields of two times (a block moves from
one to the next). Right is a picture without combs, of its own time: the container's frames.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from tests.video import dicom_cases
from tests.video.corpus_case import Case, steady
from tests.video.corpus_fields import PULLDOWN, h264_fields, mpeg2_fields, mpeg2_pulldown
from tests.video.corpus_pictures import (
    SIZE,
    STEP,
    block_left,
    block_of,
    combing,
    moving,
    number_of,
    picture,
)
from tests.video.corpus_write import Track, renewed, write

COUNT = 40
_PAL, _NTSC = (576, 720), (480, 720)
_NTSC_RATE = Fraction(30000, 1001)


def no_combs(frames: np.ndarray) -> None:
    """Each frame is one field's picture: no combs, its block where that field has it."""
    for frame in frames:
        assert combing(frame) < 0.5, f"picture {number_of(frame)} is woven of two fields"
        first = 2 * number_of(frame)
        places = [block_left(field, frame.shape[1]) for field in (first, first + 1)]
        assert min(abs(block_of(frame) - place) for place in places) <= STEP


def as_field(mode: str, frame: av.VideoFrame) -> av.VideoFrame:
    """The frame, which then says which of its fields is first: "tff" or "bff"."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
    )
    graph.link_nodes(source, graph.add("setfield", mode), graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()


def converter(mode: str, pix_fmt: str) -> Callable:
    """uint8 RGB -> a frame of pix_fmt that says which of its fields is first."""

    def convert(rgb: np.ndarray) -> av.VideoFrame:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        return as_field(mode, frame.reformat(format=pix_fmt))

    return convert


def fields(
    ending: str,
    codec: str,
    mode: str,
    size: tuple[int, int] = SIZE,
    rate: Fraction | int = 25,
    pix_fmt: str = "yuv420p",
    form: str | None = None,
    tag: str = "",
    **options: str,
) -> Case:
    """A case of a codec that codes two fields in one frame."""
    options = {"flags": "+ildct+ilme", **options}

    def make(folder: Path) -> Path:
        track = Track(
            codec,
            range(COUNT),
            rate,
            size,
            pix_fmt,
            options,
            draw=lambda number, size: moving(number, size, mode == "tff"),
            to_frame=converter(mode, pix_fmt),
        )
        return write(folder / f"clip.{ending}", track, form=form)

    name = f"{ending}-{codec}-{mode}" + (f"-{tag}" if tag else "")
    probe = "stamps in AVI and MPEG-PS are not the pictures'" if ending in ("avi", "mpg") else ""
    return Case(name, make, steady(COUNT, rate), range(COUNT), look=no_combs, probe=probe)


def _x264(ending: str, mode: str) -> Case:
    return fields(ending, "libx264", mode, **{"x264-params": f"{mode}=1"})


def bare_fields(path: Path, codec: str, top_first: bool = True, count: int = COUNT) -> Path:
    """A bare stream of field pictures, "h264" or "mpeg2video"."""
    code = h264_fields if codec == "h264" else mpeg2_fields
    frames = [moving(number, SIZE, top_first) for number in range(count)]
    path.write_bytes(b"".join(b"".join(pair) for pair in code(frames, top_first)))
    return path


def field_pictures(ending: str, codec: str, top_first: bool, apart: bool = False) -> Case:
    """A case of field pictures; apart: each field a packet of its own, as in TS they may be."""

    def make(folder: Path) -> Path:
        bare = bare_fields(folder / "bare", codec, top_first)
        code = h264_fields if codec == "h264" else mpeg2_fields
        form = "h264" if codec == "h264" else "mpegvideo"
        path = folder / f"clip.{ending}"
        with av.open(str(bare), format=form) as source, av.open(str(path), "w") as file:
            stream = file.add_stream_from_template(source.streams.video[0])
            stream.time_base = Fraction(1, 90000)
            pictures = code([moving(n, SIZE, top_first) for n in range(COUNT)], top_first)
            for number, pair in enumerate(pictures):
                units = pair if apart else [b"".join(pair)]
                for place, data in enumerate(units):
                    packet = av.Packet(data)
                    packet.stream, packet.time_base = stream, Fraction(1, 90000)
                    packet.pts = packet.dts = 3600 * number + 1800 * place
                    packet.duration = 3600 // len(units)
                    packet.is_keyframe = number % 10 == 0 and place == 0
                    file.mux(packet)
        return path

    order = "tff" if top_first else "bff"
    name = f"{ending}-{codec}-field-pictures-{order}" + ("-apart" if apart else "")
    probe = "stamps in MPEG-PS are not all there" if ending == "mpg" else ""
    return Case(name, make, steady(COUNT), range(COUNT), look=no_combs, probe=probe)


def _bare(ending: str, codec: str, **options) -> Case:
    def make(folder: Path) -> Path:
        return bare_fields(folder / f"clip.{ending}", codec)

    return Case(
        f"bare-{ending}-field-pictures",
        make,
        steady(COUNT),
        range(COUNT),
        look=no_combs,
        options=options,
        probe="a bare stream has no stamps",
    )


def _pulldown(ending: str) -> Case:
    """Film at 24 in 30 pictures a second: times step by three fields and by two."""
    starts = np.cumsum([0] + [3 if PULLDOWN[k % 4][1] else 2 for k in range(COUNT - 1)])

    def make(folder: Path) -> Path:
        units = list(mpeg2_pulldown([picture(number) for number in range(COUNT)]))
        (folder / "bare").write_bytes(b"".join(units))
        with (
            av.open(str(folder / "bare"), format="mpegvideo") as source,
            av.open(str(folder / f"clip.{ending}"), "w") as file,
        ):
            stream = file.add_stream_from_template(source.streams.video[0])
            for start, unit in zip(starts, units, strict=True):
                packet = av.Packet(unit)
                packet.stream, packet.time_base = stream, Fraction(1, 90000)
                packet.pts = packet.dts = int(start) * 1800
                packet.is_keyframe = True
                file.mux(packet)
        return folder / f"clip.{ending}"

    return Case(f"{ending}-pulldown", make, starts / 50, range(COUNT))


def _field_jpegs(ending: str, bottom_first: bool) -> Case:
    """Motion JPEG of old capture cards: a packet holds a JPEG of each field."""

    def make(folder: Path) -> Path:
        def pairs(packets: list) -> list:
            done = []
            for number, packet in enumerate(packets):
                frame = moving(number, SIZE, not bottom_first)
                order = (1, 0) if bottom_first else (0, 1)
                done.append(renewed(packet, b"".join(_field_jpeg(frame, k) for k in order)))
            return done

        track = Track("mjpeg", range(COUNT), pix_fmt="yuvj422p")
        return write(folder / f"clip.{ending}", track, change=pairs)

    order = "bff" if bottom_first else "tff"
    name = f"{ending}-mjpeg-field-pictures-{order}"
    return Case(name, make, steady(COUNT), range(COUNT), look=no_combs)


def _field_jpeg(frame: np.ndarray, bottom: int) -> bytes:
    """One field as a JPEG that says which it is, in the marker of AVI files."""
    data = cv2.imencode(".jpg", frame[bottom::2])[1].tobytes()
    assert data[2:4] == b"\xff\xe0"  # JFIF's marker, which AVI1 takes the place of
    rest = data[4 + int.from_bytes(data[4:6], "big") :]
    return b"\xff\xd8\xff\xe0\0\x10AVI1" + bytes([bottom + 1]) + bytes(9) + rest


def _turned(ending: str) -> Case:
    """Upside down: deinterlaced as it is stored, then turned."""

    def make(folder: Path) -> Path:
        track = Track(
            numbers=range(COUNT),
            options={"flags": "+ildct+ilme", "x264-params": "tff=1"},
            draw=moving,
            to_frame=converter("tff", "yuv420p"),
            stream=lambda stream: stream.set_display_rotation(180),
        )
        return write(folder / f"clip.{ending}", track)

    return Case(
        f"{ending}-tff-turned-180",
        make,
        steady(COUNT),
        look=lambda frames: no_combs(frames[:, ::-1, ::-1]),
    )


def _dicom(codec: str, syntax: str) -> Case:
    def make(folder: Path) -> Path:
        data = bare_fields(folder / "bare", codec).read_bytes()
        frames = np.zeros((COUNT, *SIZE, 3), np.uint8)
        return Path(dicom_cases.write(folder, frames, syntax=syntax, encoded=[data]))

    return Case(
        f"dicom-{codec}-field-pictures",
        make,
        steady(COUNT),
        range(COUNT),
        look=no_combs,
        probe="ffprobe does not read DICOM's times",
    )


CASES = [
    *(_x264(ending, mode) for ending in ("mp4", "ts", "mkv", "avi") for mode in ("tff", "bff")),
    fields("ts", "mpeg2video", "tff"),
    fields("ts", "mpeg2video", "bff"),
    fields("ts", "mpeg2video", "tff", tag="b-frames", bf="2"),
    fields("mpg", "mpeg2video", "tff"),
    fields("mpg", "mpeg2video", "tff", form="vob", tag="vob", bf="2"),
    fields("avi", "mpeg4", "tff"),
    fields("mxf", "mpeg2video", "tff", pix_fmt="yuv422p"),
    fields("mov", "prores_ks", "tff", pix_fmt="yuv422p10le"),
    fields("dv", "dvvideo", "bff", _PAL),
    fields("avi", "dvvideo", "bff", _PAL),
    fields("mov", "dvvideo", "bff", _NTSC, _NTSC_RATE, "yuv411p"),
    *(
        field_pictures(ending, codec, top_first)
        for ending in ("mp4", "ts", "mkv")
        for codec in ("h264", "mpeg2video")
        for top_first in (True, False)
    ),
    field_pictures("mov", "h264", True),
    field_pictures("ts", "h264", True, apart=True),
    field_pictures("ts", "mpeg2video", True, apart=True),
    field_pictures("mkv", "h264", True, apart=True),
    _pulldown("ts"),
    _pulldown("mkv"),
    _field_jpegs("avi", False),
    _field_jpegs("avi", True),
    _field_jpegs("mov", False),
    _turned("mp4"),
    _turned("mov"),
    _bare("h264", "h264", frame_rate=25.0),
    _bare("m2v", "mpeg2video"),
    _dicom("h264", "1.2.840.10008.1.2.4.102"),
    _dicom("mpeg2video", "1.2.840.10008.1.2.4.100"),
]
