"""Several picture streams, covers, sound first, and streams without a clock."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import cv2

from tests.video.corpus_bytes import avi_rateless, changed
from tests.video.corpus_case import Case, steady
from tests.video.corpus_pictures import picture
from tests.video.corpus_write import Sound, Track, write

OTHER = r"(?i)other|another|further|stream|track"
NO_CLOCK = r"(?i)no times|no clock|frame rate|no rate|timeless"
ARCHIVE = r"(?i)archive|zip|compress|no times|no clock|rate|not a video|not a recording|unknown"
_X265 = {"x265-params": "log-level=0:pools=1:frame-threads=1"}
_SMALL = Track("mpeg4", size=(32, 80))


def _two(ending: str, *tracks: Track | Sound, tag: str, note: str = OTHER) -> Case:
    """Streams that show the same numbers at the same times: either, whole, is right."""

    def make(folder: Path) -> Path:
        return write(folder / f"clip.{ending}", *tracks)

    return Case(f"{ending}-{tag}", make, steady(60), range(60), note=note)


def _as_cover(stream) -> None:
    stream.disposition = av.stream.Disposition.attached_pic


_COVER = Track("mjpeg", numbers=[999], size=(96, 96), pix_fmt="yuvj420p", stream=_as_cover)
_STILL = Track("mjpeg", numbers=[999], size=(96, 96), pix_fmt="yuvj420p")


def _still_first(ending: str, still: Track, tag: str, note: str = OTHER) -> Case:
    def make(folder: Path) -> Path:
        return write(folder / f"clip.{ending}", still, Track())

    return Case(f"{ending}-{tag}", make, steady(60), range(60), note=note, probe="its first stream")


def _attached(folder: Path) -> Path:
    """A Matroska recording with a picture attached, as tagging tools add a cover."""
    with av.open(str(folder / "clip.mkv"), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 160, "yuv420p"
        file.add_attachment("cover.jpg", "image/jpeg", jpeg(999))
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            file.mux(stream.encode(frame.reformat(format="yuv420p")))
        file.mux(stream.encode(None))
    return folder / "clip.mkv"


def jpeg(number: int) -> bytes:
    """One JPEG picture that says its number."""
    return cv2.imencode(".jpg", picture(number))[1].tobytes()


def _jpegs() -> bytes:
    return b"".join(jpeg(number) for number in range(60))


def _gif(folder: Path) -> Path:
    return write(folder / "clip.gif", Track("gif", pix_fmt="rgb8", numbers=range(10)))


def _zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "frames.zip", "w", zipfile.ZIP_STORED) as archive:
        for number in range(20):
            archive.writestr(f"{number:03d}.jpg", jpeg(number))
    return folder / "frames.zip"


def _tar(folder: Path) -> Path:
    with tarfile.open(folder / "frames.tar", "w") as archive:
        for number in range(20):
            info = tarfile.TarInfo(f"{number:03d}.jpg")
            info.size = len(jpeg(number))
            archive.addfile(info, io.BytesIO(jpeg(number)))
    return folder / "frames.tar"


def _gz(folder: Path) -> Path:
    (folder / "frames.tar.gz").write_bytes(gzip.compress(_tar(folder).read_bytes()))
    return folder / "frames.tar.gz"


def _seven(folder: Path) -> Path:
    """What an archive of 7-Zip looks like that only stores: its magic, then the pictures."""
    (folder / "frames.7z").write_bytes(b"7z\xbc\xaf\x27\x1c\0\4" + bytes(24) + _jpegs())
    return folder / "frames.7z"


def _spread_jpegs(folder: Path) -> Path:
    """Pictures in bytes of no known kind, as a viewer's own database keeps them."""
    data = b"".join(b"RECORD%04d" % n + bytes(54) + jpeg(n) for n in range(20))
    (folder / "store.bin").write_bytes(b"MYSTORE1" + bytes(120) + data)
    return folder / "store.bin"


def _named(name: str, make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    return lambda folder: make(folder).rename(folder / name)


def _bare(ending: str, track: Track, form: str, tag: str = "", **rest) -> Case:
    def make(folder: Path) -> Path:
        return write(folder / f"clip.{ending}", track, form=form)

    name = f"bare-{ending}" + (f"-{tag}" if tag else "")
    return Case(name, make, probe="a bare stream has no stamps", **rest)


def _clockless(ending: str, track: Track, form: str) -> list[Case]:
    """Refused where nobody gives the rate; right with it."""
    right = {"times": steady(60, 12.5), "shown": range(60), "options": {"frame_rate": 12.5}}
    return [
        _bare(ending, track, form, refused=NO_CLOCK),
        _bare(ending, track, form, "rate-given", **right),
    ]


def _rateless_avi(folder: Path) -> Path:
    return avi_rateless(write(folder / "clip.avi", Track("mjpeg", pix_fmt="yuvj420p")))


def _sound_and_cover(folder: Path) -> Path:
    return write(folder / "song.m4a", Sound(), _COVER, form="mp4")


def _no_decoder(folder: Path) -> Path:
    """An mp4 that says its pictures are EVC, which FFmpeg knows and this build can't decode."""
    return changed(write(folder / "clip.mp4", Track()), b"avc1", b"evc1")


def _unknown_mp4(folder: Path) -> Path:
    return changed(write(folder / "clip.mp4", Track()), b"avc1", b"zz9x")


def _unknown_avi(folder: Path) -> Path:
    return changed(write(folder / "clip.avi", Track("mpeg4")), b"FMP4", b"ZZ9X")


def _unknown_mkv(folder: Path) -> Path:
    path = write(folder / "clip.mkv", Track("mpeg4"))
    return changed(path, b"V_MPEG4/ISO/ASP", b"V_MPEG4/ISO/ZZ9")


CASES = [
    _two("mp4", Track(), _SMALL, tag="two-streams"),
    _two("mkv", Track(), _SMALL, tag="two-streams"),
    _two("ts", Track(), Track("mpeg2video", size=(32, 80)), tag="two-streams"),
    _two("mp4", _SMALL, Track(), tag="two-streams-small-first"),
    _two("mov", Track("mjpeg", pix_fmt="yuvj420p"), _SMALL, tag="two-streams"),
    _still_first("mp4", _STILL, "still-first"),
    _still_first("mkv", _STILL, "still-first"),
    _still_first("mov", _STILL, "still-first"),
    _still_first("mp4", _COVER, "cover-first", note=""),
    _two("mp4", Track(), _COVER, tag="cover-last", note=""),
    Case("mkv-cover-attached", _attached, steady(60), range(60)),
    _two("mp4", Sound(), Track(), tag="sound-first", note=""),
    _two("avi", Sound("pcm_s16le"), Track("mpeg4"), tag="sound-first", note=""),
    _two("mkv", Sound(), Track(), tag="sound-first", note=""),
    _two("ts", Sound("mp2"), Track(options={"bf": "0"}), tag="sound-first", note=""),
    Case("zip-of-jpegs", _zip, refused=ARCHIVE),
    Case("zip-named-mp4", _named("clip.mp4", _zip), refused=ARCHIVE),
    Case("zip-rate-given", _zip, refused=ARCHIVE, options={"frame_rate": 25.0}),
    Case("tar-of-jpegs", _tar, refused=ARCHIVE),
    Case("tar-gz-of-jpegs", _gz, refused=ARCHIVE),
    Case("animated-gif", _gif, refused="(?i)animated"),
    Case("7z-of-jpegs", _seven, refused=ARCHIVE),
    Case("jpegs-in-unknown-bytes", _spread_jpegs, refused=ARCHIVE),
    *_clockless("h264", Track(), "h264"),
    *_clockless("hevc", Track("libx265", options=_X265), "hevc"),
    *_clockless("mjpeg", Track("mjpeg", pix_fmt="yuvj420p"), "mjpeg"),
    _bare(
        "m2v",
        Track("mpeg2video", options={"bf": "2"}),
        "mpeg2video",
        times=steady(60),
        shown=range(60),
    ),
    _bare("m1v", Track("mpeg1video", rate=30), "mpeg1video", times=steady(60, 30), shown=range(60)),
    _bare("m4v", Track("mpeg4", rate=8), "m4v", times=steady(60, 8), shown=range(60)),
    Case("avi-no-rate", _rateless_avi, refused=NO_CLOCK),
    Case(
        "avi-no-rate-given",
        _rateless_avi,
        steady(60, 12.5),
        range(60),
        options={"frame_rate": 12.5},
        probe="it states no rate",
    ),
    Case("sound-and-cover", _sound_and_cover, refused=r"(?i)sound|cover|still|no video"),
    Case("no-decoder-mp4", _no_decoder, refused=r"(?i)evc"),
    Case("unknown-codec-mp4", _unknown_mp4, refused=r"(?i)zz9x|codec"),
    Case("unknown-codec-avi", _unknown_avi, refused=r"(?i)zz9x|codec"),
    Case("unknown-codec-mkv", _unknown_mkv, refused=r"(?i)ZZ9"),
]
