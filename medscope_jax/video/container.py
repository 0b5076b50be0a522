"""What a file's own bytes say about it, before any decoder sees it.

Decoders guess: FFmpeg renders text files as terminal recordings, plays playlists that name other
files, and stops quietly where a file was cut. The few box headers read here settle the kind of
file, whether its end is missing, and whether it holds pictures at all.
"""

import dataclasses
import os
import string
from collections.abc import Iterator
from typing import BinaryIO

_SOUND = {b"ID3": "mp3", b"fLaC": "flac", b"OggS": "ogg", b"\xff\xfb": "mp3", b"\xff\xf1": "aac"}
_STILL = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}
# What follows 00 00 01 at the start of MPEG program streams and of bare MPEG-4 part 2: both have
# clocks, where bare H.264, HEVC and older MPEG have none.
_CLOCKED = (0xBA, 0xB0, 0xB5, 0x00, 0x20)
_SEQUENCE_HEADER = b"\0\0\x01\xb3"  # of MPEG-1 and MPEG-2
# ISO/IEC 13818-2, table 6-4.
_RATES = {1: 24 / 1.001, 2: 24, 3: 25, 4: 30 / 1.001, 5: 30, 6: 50, 7: 60 / 1.001, 8: 60}
# Containers whose header states how many frames they hold; others only imply it by a duration.
_COUNTING = ("mp4", "avi")


@dataclasses.dataclass(frozen=True)
class Container:
    """What the bytes of a file state.

    Attributes:
      kind: "dicom", "mp4", "avi", "matroska", "sound", "still", "text" or "other".
      missing_bytes: how many bytes its own headers promise beyond the file's end; 0 if none.
      has_index: whether the index that decoding needs is there (only an mp4 can lack it).
      has_pictures: False where the headers list tracks and none of them holds pictures.
      edited: an mp4's edit list shows only a part of the stored frames, on purpose.
      track_seconds: how long the picture track says it lasts; 0 where it does not say.
      timeless: its frames carry no times and only `rate`, if anything, says when they come; what a
        decoder tells is made up.
      rate: frames a second that a bare MPEG-1 or MPEG-2 stream states; 0 elsewhere.
    """

    kind: str
    missing_bytes: int = 0
    has_index: bool = True
    has_pictures: bool = True
    edited: bool = False
    track_seconds: float = 0.0
    timeless: bool = False
    rate: float = 0.0

    @property
    def counts_frames(self) -> bool:
        """Whether the container's frame count is a statement, not a guess from its duration."""
        return self.kind in _COUNTING and not self.edited


def inspect(path: str) -> Container:
    """Reads a regular, non-empty file's magic and outermost boxes. Raises OSError if unreadable."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(512)
        if head[128:132] == b"DICM":
            return Container("dicom")
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _inspect_mp4(file, size)
        if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
            return Container("sound", has_pictures=False)
        if head[:4] == b"RIFF" and head[8:11] == b"AVI":
            promised = int.from_bytes(head[4:8], "little") + 8
            # 0 and all ones: written by a recorder that never came back to fill it in.
            unknown = promised in (8, 0xFFFFFFFF + 8)
            # A lone sound stream; the first stream header follows the main header directly.
            pictures = b"strh" not in head or b"vids" in head or b"auds" not in head
            missing = 0 if unknown else max(0, promised - size)
            return Container("avi", missing, has_pictures=pictures, timeless=not _avi_rate(head))
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return Container("matroska", max(0, _matroska_end(head) - size))
    if head.startswith(_SEQUENCE_HEADER):
        return Container("other", timeless=True, rate=_RATES.get(head[7] & 15, 0.0))
    if head.startswith(b"\0\0\0\x01") or (head[:3] == b"\0\0\x01" and head[3] not in _CLOCKED):
        return Container("other", timeless=True)
    if any(head.startswith(magic) for magic in _SOUND):
        # Ogg may carry pictures (Theora); only the decoder knows.
        return Container("sound", has_pictures=head.startswith(b"OggS"))
    if any(head.startswith(magic) for magic in _STILL):
        return Container("still", has_pictures=False)
    if all(chr(byte) in string.printable for byte in head):
        return Container("text", has_pictures=False)
    return Container("other")


def _avi_rate(head: bytes) -> bool:
    """Whether an AVI's main or picture stream header states a rate; True where it is not seen."""
    main, stream = head.find(b"avih"), head.find(b"vids")
    if main < 0 or stream < 0 or stream + 28 > len(head):
        return True
    scale_and_rate = head[stream + 20 : stream + 24], head[stream + 24 : stream + 28]
    return any(head[main + 8 : main + 12]) or all(map(any, scale_and_rate))


def _inspect_mp4(file: BinaryIO, size: int) -> Container:
    """Walks the outermost boxes of an ISO base media file (ISO/IEC 14496-12, section 4.2)."""
    position, moov, missing = 0, None, 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length, name = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length == 0:  # "to the end of the file"
            length = size - position
        if length < 8:
            break  # zero padding after the last box
        if name == b"moov":
            file.seek(position + 8)
            moov = file.read(min(length, size - position) - 8)
        missing = max(missing, position + length - size)
        position += length
    if moov is None:
        return Container("mp4", missing, has_index=False)
    movie = dict(_boxes(moov))
    movie_scale, _ = _scale_and_duration(movie.get(b"mvhd", b""))
    tracks = [dict(_boxes(body)) for name, body in _boxes(moov) if name == b"trak"]
    for track in tracks:
        media = dict(_boxes(track.get(b"mdia", b"")))
        # Handler: version and flags, 4 reserved bytes, then "vide", "soun", ...
        if media.get(b"hdlr", b"")[8:12] != b"vide":
            continue
        scale, duration = _scale_and_duration(media.get(b"mdhd", b""))
        seconds = duration / scale if scale else 0.0
        edits = dict(_boxes(track.get(b"edts", b""))).get(b"elst", b"")
        return Container(
            "mp4", missing, edited=_trims(edits, movie_scale, seconds), track_seconds=seconds
        )
    return Container("mp4", missing, has_pictures=not tracks)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and body of each box in data; stops at the first that does not fit."""
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if length < 8:
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + length]
        at += length


def _trims(elst: bytes, movie_scale: int, media_seconds: float) -> bool:
    """Whether an edit list's body shows less than its track's media, or shows it in pieces.

    One edit from the start that lasts as long as the media (what every muxer writes) trims nothing;
    neither does an empty edit, which only delays the start.
    """
    if len(elst) < 8 or not movie_scale:
        return False
    word = 8 if elst[0] else 4
    edits = []
    for begin in range(8, len(elst) - 2 * word - 3, 2 * word + 4):
        media_time = int.from_bytes(elst[begin + word : begin + 2 * word], "big", signed=True)
        if media_time >= 0:
            edits.append(int.from_bytes(elst[begin : begin + word], "big") / movie_scale)
    # Half a second of slack: B-frames and sound priming shift an edit by a few frames.
    return len(edits) > 1 or (len(edits) == 1 and media_seconds - edits[0] > 0.5)


def _scale_and_duration(header: bytes) -> tuple[int, int]:
    """Units a second and duration in them, from an mvhd or mdhd box's body; zeros if empty."""
    if len(header) < 20:
        return 0, 0
    word = 8 if header[0] else 4
    begin = 4 + 2 * word
    scale = int.from_bytes(header[begin : begin + 4], "big")
    return scale, int.from_bytes(header[begin + 4 : begin + 4 + word], "big")


def _matroska_end(head: bytes) -> int:
    """Where the Segment that follows the EBML header ends (RFC 8794); 0 if it does not say."""
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
