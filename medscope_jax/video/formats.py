"""Which kinds of files are opened at all, and what to say of those that are not.

FFmpeg would open anything: playlists that name other files, text as a terminal recording, an
archive as a run of JPEG pictures. So it is given a list of the demuxers of recordings, and the
file protocol alone (demux.py). What a file is, its bytes say, never its name.
"""

import os
import stat
import string

from medscope_jax.video.frames import VideoError

# FFmpeg's demuxers of containers that carry times.
CONTAINERS = (
    "asf,avi,dv,flv,ivf,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mpeg,mpegts,mxf,nut,ogg,yuv4mpegpipe"
)
# Of these, by FFmpeg's names, the ones with a table of their pictures.
TABLED = ("mov,mp4,m4a,3gp,3g2,mj2",)
# Bare streams of pictures: no container, so no clock. FFmpeg makes up 25 frames a second for most.
BARE = ("h264", "hevc", "vvc", "mpegvideo", "m4v", "mjpeg", "h263", "obu", "vc1", "dnxhd", "dirac")
# The bare streams whose headers state a rate: MPEG-1, MPEG-2 and MPEG-4 part 2.
RATED = ("mpegvideo", "m4v")

_SOUND = {b"ID3": "mp3", b"fLaC": "flac", b"\xff\xfb": "mp3", b"\xff\xf1": "aac"}
_STILL = {b"GIF8": "GIF", b"\x89PNG": "PNG", b"BM": "BMP", b"II*\x00": "TIFF", b"MM\x00*": "TIFF"}
_ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "gzip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_JPEG = b"\xff\xd8\xff"
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


def read_head(path: str) -> bytes:
    """The first 512 bytes of a regular file that is not empty.

    Raises:
      VideoError: there is none, it is empty, no regular file, or can't be read.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise VideoError("not a regular file; copy the video to a file first", path)
        if status.st_size == 0:
            raise VideoError("empty (0 bytes); copy or download the video again", path)
        with open(path, "rb") as file:
            return file.read(512)
    except VideoError:
        raise
    except FileNotFoundError:
        raise VideoError("no such file; check the path of the video", path) from None
    except PermissionError:
        raise VideoError("permission denied; make it readable for this user", path) from None
    except ValueError:  # a path that holds a zero byte
        raise VideoError("no path that a file can have; check the path", path) from None
    except OSError as error:
        raise VideoError(f"cannot be read ({error.strerror}); check the path", path) from None


def refuse_foreign(head: bytes, path: str) -> None:
    """Raises VideoError where the first bytes of a file are those of no recording."""
    for magics, what in (
        (_ARCHIVES, "an archive, not a video: unpack it first"),
        (_STILL, "a still image or an animated one, not a video"),
        (_SOUND, "sound only, there is no video in it"),
    ):
        if any(head.startswith(magic) for magic in magics):
            raise VideoError(f"{what}; {_NAME_ONE}", path)
    if head[257:262] == b"ustar":
        raise VideoError(f"an archive, not a video: unpack it first; {_NAME_ONE}", path)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        raise VideoError(f"sound only, there is no video in it; {_NAME_ONE}", path)
    if all(chr(byte) in string.printable for byte in head) and head[:9] != b"YUV4MPEG2":
        raise VideoError(f"text, not a video; {_NAME_ONE}", path)


_NAME_ONE = "name a recording (mp4, avi, mkv, webm, mpg, ts, DICOM)"


def forced_format(head: bytes) -> str | None:
    """The demuxer to take where FFmpeg's guess would be one for single pictures; else None."""
    return "mjpeg" if head.startswith(_JPEG) else None


def is_mp4(head: bytes) -> bool:
    """Whether a file is of the MP4 family."""
    return head[4:8] in _MP4_BOXES


def matroska_end(head: bytes) -> int:
    """Where a Matroska file's Segment ends by its own word (RFC 8794), in bytes; 0 if unknown."""
    length, at = _ebml_size(head, 4)
    at += length
    if length < 0 or head[at : at + 4] != b"\x18\x53\x80\x67":
        return 0
    length, at = _ebml_size(head, at + 4)
    return 0 if length < 0 else at + length


def _ebml_size(head: bytes, at: int) -> tuple[int, int]:
    """A variable-length size at this offset and the offset behind it; -1 where it is unknown."""
    if at >= len(head) or head[at] == 0:
        return -1, at
    width = 9 - head[at].bit_length()
    value = int.from_bytes(head[at : at + width], "big") - (1 << (7 * width))
    return (-1 if value == (1 << (7 * width)) - 1 else value), at + width


def states_no_rate(head: bytes) -> bool:
    """Whether an AVI's headers state no rate, where FFmpeg makes up 25 frames a second.

    Its main header gives the microseconds of a frame, its picture stream a scale and a rate.
    """
    main, stream = head.find(b"avih"), head.find(b"vids")
    if head[:4] != b"RIFF" or main < 0 or stream < 0 or stream + 28 > len(head):
        return False
    scale, rate = head[stream + 20 : stream + 24], head[stream + 24 : stream + 28]
    return not any(head[main + 8 : main + 12]) and not (any(scale) and any(rate))
