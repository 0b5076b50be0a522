"""How pictures look: turned and mirrored, with oblong pixels, and in every kind of colour."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from tests.video.corpus_bits import Bits
from tests.video.corpus_case import Case, steady
from tests.video.corpus_interlaced import as_field
from tests.video.corpus_pictures import SIZE, picture
from tests.video.corpus_write import Track, renewed, write

_COUNT = 12
_CORNERS = {
    "red": (200, 40, 40),
    "green": (40, 180, 40),
    "blue": (40, 40, 200),
    "white": (235,) * 3,
}
# Turned clockwise by a player, then mirrored: as the corners (top left, top right, bottom left,
# bottom right) of the stored picture (red, green, blue, white) come out.
_STORED = np.array([["red", "green"], ["blue", "white"]])
_PATCHES = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (220, 220, 40), (128, 128, 128))


def corners(number: int, size: tuple[int, int]) -> np.ndarray:
    """A picture of four coloured quarters; its number is not said: it is told by its time."""
    half = np.array([[_CORNERS[name] for name in row] for row in _STORED], np.uint8)
    return cv2.resize(half, size[::-1], interpolation=cv2.INTER_NEAREST)


def _has_corners(expected: np.ndarray, size: tuple[int, int]) -> Callable[[np.ndarray], None]:
    def look(frames: np.ndarray) -> None:
        assert frames.shape[1:3] == size
        height, width = size
        for row, y in enumerate((height // 4, 3 * height // 4)):
            for column, x in enumerate((width // 4, 3 * width // 4)):
                wanted = np.array(_CORNERS[expected[row, column]], int)
                off = np.abs(frames[0, y, x].astype(int) - wanted).max()
                assert off < 40, f"row {row}, column {column}: {frames[0, y, x]}, not {wanted}"

    return look


def _turned(ending: str, degrees: int, flip: str = "") -> Case:
    """degrees: counter-clockwise, as FFmpeg writes it; flip: "h" or "v", after the turn."""
    expected = np.rot90(_STORED, degrees // 90)
    expected = {"": expected, "h": expected[:, ::-1], "v": expected[::-1]}[flip]
    size = SIZE if degrees % 180 == 0 else SIZE[::-1]

    def make(folder: Path) -> Path:
        def turn(stream) -> None:
            stream.set_display_rotation(degrees, hflip=flip == "h", vflip=flip == "v")

        track = Track(numbers=range(_COUNT), draw=corners, stream=turn)
        return write(folder / f"clip.{ending}", track)

    name = f"{ending}-turned-{degrees}{flip}"
    return Case(name, make, steady(_COUNT), (), look=_has_corners(expected, size), size=size)


def _turned_by_stream(ending: str, degrees: int) -> Case:
    """H.264's own message of how it is to be turned, which any container carries."""
    expected = np.rot90(_STORED, degrees // 90)
    size = SIZE if degrees % 180 == 0 else SIZE[::-1]

    def make(folder: Path) -> Path:
        turn = Bits().code("000").put(degrees * 65536 // 360, 16).ue(1).code("0").code("1")
        message = b"\0\0\1\x06\x2f" + bytes([len(turn.close())]) + turn.close() + b"\x80"

        def tell(packets: list) -> list:
            told = []
            for packet in packets:
                at = bytes(packet).index(b"\0\0\1\x65")
                new = renewed(packet, bytes(packet)[:at] + message + bytes(packet)[at:])
                told.append(new)
            return told

        # FFmpeg tells it of the pictures alone that carry it: each a key picture, all do.
        track = Track(numbers=range(_COUNT), draw=corners, options={"g": "1"})
        return write(folder / f"clip.{ending}", track, change=tell)

    name = f"{ending}-turned-{degrees}-by-h264"
    return Case(name, make, steady(_COUNT), (), look=_has_corners(expected, size), size=size)


def _oblong(ending: str, codec: str, ratio: Fraction) -> Case:
    """Pixels that are not square: pictures come as they are stored, to be stretched anyway."""

    def make(folder: Path) -> Path:
        def stretch(stream) -> None:
            stream.codec_context.sample_aspect_ratio = ratio

        return write(folder / f"clip.{ending}", Track(codec, numbers=range(20), stream=stretch))

    name = f"{ending}-{codec}-pixels-{ratio.numerator}-to-{ratio.denominator}"
    return Case(name, make, steady(20), range(20))


def patches(number: int, size: tuple[int, int]) -> np.ndarray:
    """A numbered picture with five colours of known RGB along its upper quarter."""
    frame = picture(number, size)
    for k, colour in enumerate(_PATCHES):
        left, right = k * size[1] // 5, (k + 1) * size[1] // 5
        frame[: size[0] // 4, left:right] = colour
    return frame


def _has_patches(frames: np.ndarray, grey: bool, off: int) -> None:
    height, width = frames.shape[1:3]
    for frame in frames[:: max(1, len(frames) - 1)]:
        for k, colour in enumerate(_PATCHES):
            shown = frame[height // 8, (2 * k + 1) * width // 10].astype(int)
            wanted = np.array(colour, int)
            if grey:
                wanted = np.full(3, round(float(wanted @ (0.299, 0.587, 0.114))))
            assert np.abs(shown - wanted).max() <= off, f"{shown}, not {wanted}"


def _grey(drawn: np.ndarray, pix_fmt: str, full: bool) -> av.VideoFrame:
    """By hand: FFmpeg's conversion takes all grey for full range."""
    bits = 10 if pix_fmt == "gray10le" else 8
    luma = drawn.astype(float) @ (0.299, 0.587, 0.114) / 255
    low, high = (0, 2**bits - 1) if full else (2 ** (bits - 4), 235 * 2 ** (bits - 8))
    values = np.round(low + luma * (high - low)).astype(np.uint16 if bits > 8 else np.uint8)
    return av.VideoFrame.from_ndarray(values, format=pix_fmt)


def colour(
    ending: str,
    codec: str,
    pix_fmt: str,
    matrix: str = "ITU601",
    full: bool = False,
    tagged: bool = True,
    off: int = 8,
    fields: bool = False,
    **options: str,
) -> Case:
    """A case of known colours. Untagged is BT.601, limited range, as FFmpeg's tools take it."""

    def convert(rgb: np.ndarray) -> av.VideoFrame:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        ranges = {"dst_color_range": "JPEG" if full else "MPEG"}
        if pix_fmt.startswith("gray"):
            return _grey(drawn=rgb, pix_fmt=pix_fmt, full=full)
        if pix_fmt.startswith("yuv"):
            frame = frame.reformat(format=pix_fmt, dst_colorspace=matrix, **ranges)
            return as_field("tff", frame) if fields else frame
        return frame.reformat(format=pix_fmt)

    def tag(stream) -> None:
        if tagged:
            code = {"ITU601": 6, "ITU709": 1}[matrix]
            stream.codec_context.colorspace = code
            stream.codec_context.color_range = 2 if full else 1

    def make(folder: Path) -> Path:
        track = Track(
            codec,
            range(_COUNT),
            pix_fmt=pix_fmt,
            draw=patches,
            to_frame=convert,
            stream=tag if pix_fmt.startswith(("yuv", "gray")) else lambda stream: None,
            options=options,
        )
        return write(folder / f"clip.{ending}", track)

    how = f"{matrix}-{'full' if full else 'limited'}" if tagged else "untagged"
    name = f"{ending}-{codec}-{pix_fmt}-{how}" + ("-fields" if fields else "")
    grey = pix_fmt.startswith("gray")
    look = lambda frames: _has_patches(frames, grey, off)  # noqa: E731
    return Case(name, make, steady(_COUNT), range(_COUNT), look=look)


_FINE = {"crf": "8"}
_FIELDS = {"flags": "+ildct+ilme", "x264-params": "tff=1"}

CASES = [
    *(_turned("mp4", degrees, flip) for degrees in (0, 90, 180, 270) for flip in ("", "h", "v")),
    _turned("mov", 90),
    _turned("mkv", 90),
    _turned("mkv", 180),
    _turned_by_stream("ts", 90),
    _oblong("mp4", "libx264", Fraction(64, 45)),
    _oblong("mkv", "mpeg2video", Fraction(16, 9)),
    _oblong("avi", "mpeg4", Fraction(12, 11)),
    colour("mp4", "libx264", "yuv420p", "ITU601", **_FINE),
    colour("mp4", "libx264", "yuv420p", "ITU709", **_FINE),
    colour("mp4", "libx264", "yuv420p", tagged=False, **_FINE),
    colour("mp4", "libx264", "yuv420p", "ITU709", full=True, **_FINE),
    colour("mp4", "libx264", "yuvj420p", full=True, **_FINE),
    colour("mp4", "libx264", "yuv420p10le", "ITU709", **_FINE),
    colour("mp4", "libx264", "yuv422p", "ITU709", **_FINE),
    colour("mp4", "libx264", "yuv422p10le", "ITU709", **_FINE),
    colour("mp4", "libx264", "yuv444p", "ITU709", **_FINE),
    colour("mp4", "libx264", "yuv444p10le", "ITU709", full=True, **_FINE),
    colour("mkv", "libx264", "gray", "ITU601", **_FINE),
    colour("mkv", "libx264", "gray", "ITU601", full=True, **_FINE),
    colour("ts", "libx264", "yuv420p", "ITU709", **_FINE),
    colour("ts", "mpeg2video", "yuv420p", "ITU709", qmin="1", qmax="2"),
    colour("avi", "mjpeg", "yuvj420p", full=True, tagged=False, qmin="1", qmax="2"),
    colour("avi", "mjpeg", "yuvj444p", full=True, tagged=False, qmin="1", qmax="2"),
    colour("mp4", "libx264", "yuv420p", "ITU709", fields=True, **_FINE, **_FIELDS),
    colour("mp4", "libx264", "yuv420p", "ITU601", full=True, fields=True, **_FINE, **_FIELDS),
    colour("ts", "mpeg2video", "yuv422p", "ITU709", fields=True, qmax="2", flags="+ildct+ilme"),
    colour("mkv", "ffv1", "yuv420p", "ITU709", off=4),
    colour("mkv", "ffv1", "yuv420p", "ITU601", full=True, off=4),
    colour("mkv", "ffv1", "yuv444p16le", "ITU709", off=4),
    colour("mkv", "ffv1", "gray10le", "ITU601", full=True, off=4),
    colour("mkv", "ffv1", "yuva420p", "ITU601", off=4),
    colour("avi", "utvideo", "gbrp", off=1, pred="left"),
    colour("mkv", "ffv1", "bgr0", off=1),
    colour("mkv", "ffv1", "rgb48le", off=1),
    colour("mov", "rawvideo", "rgb24", off=1),
    colour("avi", "rawvideo", "bgr24", off=1),
    colour("avi", "huffyuv", "bgra", off=1),
    colour("mov", "qtrle", "rgb24", off=1),
    colour("mov", "png", "rgba", off=1),
    colour("avi", "utvideo", "yuv422p", "ITU709", off=4, pred="left"),
    colour("mov", "prores_ks", "yuv422p10le", "ITU709"),
    colour("avi", "msvideo1", "rgb555le", off=20),
]
