"""What plays whole although something about the file is odd: it must not be refused."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.video import corpus_bytes as surgery
from tests.video.corpus_bits import Bits
from tests.video.corpus_case import Case, steady
from tests.video.corpus_pictures import number_of
from tests.video.corpus_write import H264, Sound, Track, renewed, write

_MJPEG = Track("mjpeg", pix_fmt="yuvj420p")
_NO_SCENES = {"libx264": "0", "mpeg2video": "1000000000"}
_HEAD = r"(?i)head|begin|start|first|group|missing|decod|lost"
_FOUR_OF_FIVE = [slot for slot in range(75) if slot % 5 != 4]
# What Samsung's phones and Insta360's cameras put after the last box.
_SAMSUNG = b"\0\0\x0a\x01\x0e\0\0\0Image_UTC_Data1390000000000SEFHj\0\0\0\1\0\0\0" + b"SEFT"
_INSTA360 = (
    bytes(range(256)) * 12 + struct.pack("<II", 3072, 3) + b"8db42d694ccc418790edff439fe026bf"
)


def _odd(name: str, make: Callable[[Path], Path], **rest) -> Case:
    rest.setdefault("times", steady(60))
    rest.setdefault("shown", range(60))
    return Case(name, make, **rest)


def _trailing(name: str, data: bytes, ending: str = "mp4", track: Track = H264, **rest) -> Case:
    def make(folder: Path) -> Path:
        return surgery.appended(write(folder / f"clip.{ending}", track), data)

    return _odd(f"{ending}-then-{name}", make, **rest)


def _avi(name: str, change: Callable[[Path], Path], track: Track = _MJPEG, **rest) -> Case:
    def make(folder: Path) -> Path:
        return change(write(folder / "clip.avi", track))

    return _odd(f"avi-{name}", make, **rest)


def _mp4(name: str, change: Callable[[Path], Path], **rest) -> Case:
    return _odd(f"mp4-{name}", lambda folder: change(write(folder / "clip.mp4", Track())), **rest)


def _mkv(name: str, change: Callable[[Path], Path], **rest) -> Case:
    return _odd(f"mkv-{name}", lambda folder: change(write(folder / "clip.mkv", Track())), **rest)


def _ts(name: str, change: Callable[[Path], Path]) -> Case:
    return _odd(f"ts-{name}", lambda folder: change(write(folder / "clip.ts", Track())))


def _exif(ending: str) -> Case:
    """Each JPEG with a camera's particulars (Exif, upright), as still cameras' films have them."""
    entry = b"\x12\x01\x03\0\x01\0\0\0\x01\0\0\0"
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + bytes(4)
    marker = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif

    def tell(packets: list) -> list:
        data = [bytes(packet) for packet in packets]
        return [
            renewed(packet, jpeg[:2] + marker + jpeg[2:])
            for packet, jpeg in zip(packets, data, strict=True)
        ]

    return _odd(
        f"{ending}-exif", lambda folder: write(folder / f"clip.{ending}", _MJPEG, change=tell)
    )


def trimmed(ending: str, skip: int, tag: str, sound: bool = False) -> Case:
    """A lossless trim: copied from a whole group on, and told to be shown from picture `skip`.

    The mov muxer makes an edit list of stamps below 0; players begin at 0.
    """

    def back(packets: list) -> list:
        for packet in packets:
            ticks = round(skip / 25 / packet.time_base)
            packet.pts -= ticks
            packet.dts -= ticks
        return packets

    def make(folder: Path) -> Path:
        tracks = [Track(options={"g": "30", "bf": "2"})] + ([Sound()] if sound else [])
        options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
        return write(folder / f"clip.{ending}", *tracks, options=options, change=back)

    return Case(f"{ending}-trimmed-{tag}", make, steady(60 - skip), range(skip, 60))


def cut_inside_group(ending: str, codec: str, form: str | None = None, sound: bool = False) -> Case:
    """The head is cut inside a group of pictures: all from the next group on, and a note."""

    def make(folder: Path) -> Path:
        options = {"g": "15", "bf": "0", "sc_threshold": _NO_SCENES[codec]}
        track = Track(codec, range(60), options=options, size=(128, 320))
        tracks = [track] + ([Sound("mp2")] if sound else [])
        path = write(folder / f"clip.{ending}", *tracks, form=form)
        if ending == "ts":
            return surgery.cut_head(path, 0.4)
        return surgery.cut_head_at(
            path, b"\0\0\x01\xba", path.read_bytes().count(b"\0\0\x01\xba") // 3
        )

    def judge(video) -> None:
        shown = [number_of(frame) for frame in video.frames]
        at = next(k for k, number in enumerate(shown) if number in (15, 30, 45))
        assert shown[at:] == list(range(shown[at], 60))
        evenly = video.times[-1] - (59 - np.array(shown[at:])) / 25
        np.testing.assert_allclose(video.times[at:], evenly, atol=0.02)
        # The clock begins at the first bytes, or at the first picture.
        assert video.times[at] < 1.5

    tag = "-sound" if sound else ""
    name = f"{ending}-{codec}-head-inside-group{tag}"
    return Case(name, make, (), judge=judge, note=_HEAD, probe="part of it can't be decoded")


def _live(ending: str, track: Track, tag: str = "live", **muxer: str) -> Case:
    """Written as to a stream: no sizes, no duration, no index."""
    return _odd(
        f"{ending}-{tag}",
        lambda folder: write(folder / f"clip.{ending}", track, options=muxer),
    )


def _packed(folder: Path) -> Path:
    """MPEG-4 in AVI as DivX wrote it: I0, P2 with B1 in one packet, a placeholder, P4 with B3."""

    def pack(packets: list) -> list:
        units = [bytes(packet) for packet in packets]
        # Whose work it is tells a decoder how to read it.
        at = units[0].index(b"\0\0\1\xb2")
        vop = units[0].index(b"\0\0\1\xb6")
        units[0] = units[0][:at] + b"\0\0\1\xb2DivX503b1393p" + units[0][vop:]
        done = [units[0]]
        for k in range(1, len(units) - 1, 2):
            ticks = (k + 1) % 25
            # A P picture that says that nothing was coded.
            empty = Bits().put(0x1B6, 32).code("0101").put(ticks, 5).code("10").code("01111")
            done += [units[k] + units[k + 1], empty.close()]
        return [
            renewed(packet, unit, packet.dts) for packet, unit in zip(packets, done, strict=True)
        ]

    return write(folder / "clip.avi", Track("mpeg4", range(61), options={"bf": "1"}), change=pack)


CASES = [
    _trailing("garbage", np.random.default_rng(0).bytes(5000)),
    _trailing("zeros", bytes(4096)),
    _trailing("text", b"--boundary--\r\n"),
    _trailing("three-bytes", b"\r\n\0"),
    _trailing("samsung", _SAMSUNG),
    _trailing("insta360", _INSTA360),
    _trailing("garbage", np.random.default_rng(1).bytes(5000), "mov", Track("mpeg4")),
    _trailing("garbage", np.random.default_rng(2).bytes(5000), "avi", _MJPEG),
    _trailing("zeros", bytes(4096), "mkv", doubt=True),
    _trailing("zeros", bytes(4096), "ts", doubt=True),
    _trailing("zeros", bytes(4096), "mpg", Track("mpeg2video"), probe="not all stamps", doubt=True),
    *(
        _avi(f"riff-size-{off:+d}", lambda p, o=off: surgery.riff_size(p, o))
        for off in (-8, 8, 1, 1000)
    ),
    *(_avi(f"movi-size-{off:+d}", lambda p, o=off: surgery.movi_size(p, o)) for off in (-2, 2)),
    _avi("riff-size-0", lambda p: surgery.patched(p, 4, bytes(4))),
    _avi("count-doubled", lambda p: surgery.avi_counts(p, 2), doubt=True),
    _avi("count-halved", lambda p: surgery.avi_counts(p, 0.5)),
    _avi("count-0", lambda p: surgery.avi_counts(p, 0)),
    _avi("no-index", surgery.avi_indexless),
    Case("avi-packed-b-frames", _packed, steady(61), range(61), probe="packets hold two pictures"),
    _avi("open-dml", surgery.open_dml),
    _avi("open-dml-mpeg4", surgery.open_dml, Track("mpeg4")),
    _avi(
        "empty-chunks",
        lambda p: p,
        Track("mjpeg", pix_fmt="yuvj420p", stamps=_FOUR_OF_FIVE),
        times=np.array(_FOUR_OF_FIVE) / 25,
        doubt=True,
    ),
    _mp4("duration-doubled", lambda p: surgery.mp4_durations(p, 2), doubt=True),
    _mp4("duration-halved", lambda p: surgery.mp4_durations(p, 0.5)),
    _mp4("duration-0", lambda p: surgery.mp4_durations(p, 0)),
    _mkv("duration-halved", lambda p: surgery.mkv_duration(p, 0.5)),
    *(_exif(ending) for ending in ("avi", "mov", "mkv")),
    _ts("check-bytes", surgery.with_check_bytes),
    _ts("null-packets", surgery.with_null_packets),
    trimmed("mp4", 10, "10"),
    trimmed("mp4", 10, "10-sound", sound=True),
    trimmed("mov", 35, "35"),
    trimmed("mp4", 1, "1"),
    cut_inside_group("ts", "libx264"),
    cut_inside_group("ts", "mpeg2video"),
    cut_inside_group("ts", "mpeg2video", sound=True),
    cut_inside_group("mpg", "mpeg2video"),
    cut_inside_group("vob", "mpeg2video", "vob", sound=True),
    _live("mkv", Track(), live="1"),
    _live("webm", Track("libvpx"), live="1"),
    _live("mkv", Track("mpeg4"), "small-clusters", cluster_size_limit="500"),
    _live("flv", Track("flv"), flvflags="no_duration_filesize"),
]
