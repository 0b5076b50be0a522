"""Small good recordings in every container, and what disks, networks and cards do to them."""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.video import dicom_cases
from tests.video.corpus_interlaced import converter
from tests.video.corpus_pictures import picture
from tests.video.corpus_write import Sound, Track, write

SECTOR = 4096
RATE = 25
_GROUP = {"g": "12"}
_FINE = {**_GROUP, "qmin": "2", "qmax": "4"}
_H264 = Track(options={**_GROUP, "bf": "2", "qp": "20"})
_H264_NO_B = Track(options={**_GROUP, "bf": "0", "qp": "20"})
_MPEG2 = Track("mpeg2video", options={**_FINE, "bf": "2"})
_MPEG4 = Track("mpeg4", options=_FINE)
_MJPEG = Track("mjpeg", pix_fmt="yuvj420p")
_VP9 = Track("libvpx-vp9", options={**_GROUP, "crf": "10", "lag-in-frames": "12"})
_VP8 = Track("libvpx", options={**_GROUP, "crf": "10", "lag-in-frames": "12", "b": "1000000"})
_H265 = Track("libx265", options={"x265-params": "log-level=0:pools=1:keyint=12:qp=22"})
_FIELDS = Track(
    "mpeg2video",
    options={**_FINE, "bf": "2", "flags": "+ildct+ilme"},
    to_frame=converter("tff", "yuv420p"),
)
# container -> (file ending, FFmpeg's name of the container or None, its streams) of each recording.
_RECORDINGS = {
    "mp4": [("mp4", None, (_H264,)), ("mp4", None, (_MPEG4, Sound())), ("mp4", None, (_H265,))],
    "mov": [("mov", None, (_MJPEG,)), ("mov", None, (_H264, Sound("pcm_s16le")))],
    "avi": [
        ("avi", None, (_MJPEG,)),
        ("avi", None, (_MPEG4, Sound("pcm_s16le"))),
        ("avi", None, (_H264,)),
    ],
    "mkv": [("mkv", None, (_H264,)), ("mkv", None, (_MPEG4, Sound())), ("mkv", None, (_H265,))],
    "webm": [("webm", None, (_VP9,)), ("webm", None, (_VP8,))],
    "ts": [
        ("ts", None, (_H264_NO_B,)),
        ("ts", None, (_MPEG2, Sound("mp2"))),
        ("ts", None, (_FIELDS,)),
    ],
    "mpg": [("mpg", None, (_MPEG2,))],
    "vob": [("vob", "vob", (_MPEG2, Sound("mp2")))],
    "wmv": [("wmv", "asf", (Track("wmv2", options=_FINE),))],
    "flv": [("flv", None, (_H264,)), ("flv", None, (Track("flv", options=_FINE), Sound()))],
    "mxf": [("mxf", None, (Track("mpeg2video", pix_fmt="yuv422p", options=_GROUP),))],
    "dv": [("dv", None, (Track("dvvideo", size=(576, 720), numbers=range(20)),))],
}
_SYNTAXES = (
    ("h264", _H264_NO_B, "1.2.840.10008.1.2.4.102"),
    ("mpeg2video", _MPEG2, "1.2.840.10008.1.2.4.100"),
)
CONTAINERS = (*_RECORDINGS, "mpeg in dicom", "dicom")


@dataclasses.dataclass(frozen=True)
class Good:
    """A recording that is whole: its bytes, its file's ending, and how many pictures it shows."""

    data: bytes
    ending: str
    count: int


def noisy(number: int, size: tuple[int, int]) -> np.ndarray:
    """A numbered picture over noise, which makes its bytes many, as pictures of tissue do."""
    frame = picture(number, size)
    noise = np.random.default_rng(number).integers(0, 90, (size[0] // 4, size[1] // 4, 3), np.uint8)
    frame[-size[0] // 4 :] = noise.repeat(4, axis=1)[: size[0] // 4, : size[1]]
    return frame


def good_recordings(container: str, folder: Path) -> list[Good]:
    """The whole recordings of one of CONTAINERS, made in folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if container == "dicom":
        return [_native_dicom(folder, "uncompressed"), _native_dicom(folder, "jpeg")]
    if container == "mpeg in dicom":
        return [_mpeg_dicom(folder, form, track, syntax) for form, track, syntax in _SYNTAXES]
    goods = []
    for number, (ending, form, tracks) in enumerate(_RECORDINGS[container]):
        drawn = [_noisy_track(track) for track in tracks]
        path = write(folder / f"{number}.{ending}", *drawn, form=form)
        count = len(next(track for track in tracks if isinstance(track, Track)).numbers)
        goods.append(Good(path.read_bytes(), ending, count))
    return goods


def _noisy_track(track: Track | Sound) -> Track | Sound:
    return dataclasses.replace(track, draw=noisy) if isinstance(track, Track) else track


def _mpeg_dicom(folder: Path, form: str, track: Track, syntax: str) -> Good:
    bare = write(folder / "bare", _noisy_track(track), form=form).read_bytes()
    count = len(track.numbers)
    frames = np.zeros((count, *track.size, 3), np.uint8)
    path = dicom_cases.write(folder, frames, syntax=syntax, encoded=[bare], FrameTime="40")
    return Good(Path(path).read_bytes(), "dcm", count)


def _native_dicom(folder: Path, kind: str) -> Good:
    frames = np.stack([noisy(number, (64, 160)) for number in range(20)])
    more = {}
    if kind == "jpeg":
        encoder = av.CodecContext.create("mjpeg", "w")
        encoder.height, encoder.width, encoder.pix_fmt = 64, 160, "yuvj420p"
        encoder.time_base = Fraction(1, RATE)
        drawn = (av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in frames)
        coded = [
            bytes(p) for frame in drawn for p in encoder.encode(frame.reformat(format="yuvj420p"))
        ]
        more = {"syntax": "1.2.840.10008.1.2.4.50", "encoded": coded}
        more["PhotometricInterpretation"] = "YBR_FULL_422"
    path = dicom_cases.write(folder, frames, FrameTime="40", **more)
    return Good(Path(path).read_bytes(), "dcm", len(frames))


def _flipped(data: bytearray, rng: np.random.Generator, places: int) -> bytes:
    for at in rng.integers(0, len(data), places):
        data[at] ^= int(rng.integers(1, 256))
    return bytes(data)


def _zeroed(data: bytearray, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(0, -(-len(data) // SECTOR))) * SECTOR
    end = min(at + SECTOR, len(data))
    data[at:end] = bytes(end - at)
    return bytes(data)


def _chunk(data: bytearray, rng: np.random.Generator) -> tuple[int, int]:
    length = int(rng.integers(1, min(2 * SECTOR, len(data) // 4)))
    at = int(rng.integers(0, len(data) - length))
    return at, at + length


def _removed(data: bytearray, rng: np.random.Generator) -> bytes:
    at, end = _chunk(data, rng)
    return bytes(data[:at] + data[end:])


def _duplicated(data: bytearray, rng: np.random.Generator) -> bytes:
    at, end = _chunk(data, rng)
    return bytes(data[:end] + data[at:])


# name -> (the whole bytes, random numbers) -> damaged bytes.
DAMAGES: dict[str, Callable[[bytearray, np.random.Generator], bytes]] = {
    "none": lambda data, rng: bytes(data),
    "one byte": lambda data, rng: _flipped(data, rng, 1),
    "8 bytes": lambda data, rng: _flipped(data, rng, 8),
    "zeroed 4 KiB": _zeroed,
    "truncated": lambda data, rng: bytes(data[: int(rng.integers(1, len(data)))]),
    "chunk removed": _removed,
    "chunk twice": _duplicated,
}


def damaged(goods: list[Good], damage: str, seed: int) -> tuple[Good, bytes]:
    """Which of the recordings, and its bytes after the damage that `seed` says."""
    good = goods[seed % len(goods)]
    rng = np.random.default_rng((seed, list(DAMAGES).index(damage)))
    return good, DAMAGES[damage](bytearray(good.data), rng)
