"""MPEG-2, H.264 and HEVC inside DICOM: one video stream for all frames.

The stream alone is copied into a temporary file, and containers' own reader decodes it. On Linux
the file has no name: it is gone with the process, however that ends, and nothing of a patient
stays.
"""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO

from medscope_jax.errors import is_disk_full
from medscope_jax.video.container import UNUSED_RATE, iter_container
from medscope_jax.video.dicom_frames import find_fragments
from medscope_jax.video.dicom_header import Header
from medscope_jax.video.dicom_times import stated_rate
from medscope_jax.video.frames import Reading, VideoError
from medscope_jax.video.stream import Ending, Frames, FrameStream

# PS3.6 table A-1: 1.2.840.10008.1.2.4.100 to 108; ".1" behind one: in fragments.
_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{n}" for n in range(100, 110))
_CHUNK = 1 << 20
# Linux: a path for each open file of this process, a nameless one's too. macOS has named ones only.
_OPEN_FILES = "/proc/self/fd"
_NO_ROOM = "no room to unpack its video; free some temporary space"


def holds_stream(header: Header) -> bool:
    """Whether a file's pixel data is a video stream."""
    return header.syntax.removesuffix(".1") in _SYNTAXES


def iter_stream(
    header: Header, promised: int | None, reading: Reading, notes: list[str], path: str
) -> FrameStream:
    """The frames of a file whose pixel data is a video stream, as decode.iter_frames.

    Args:
      header: the file's; it is not used once this function has returned.
      promised: how many frames the header says there are; None if it does not.
      reading: as decode.iter_frames; its frame_rate and the header's are for a stream that has no
        clock of its own.
      notes: of the header, for the ending.
      path: what errors name.

    Raises:
      VideoError: broken pixel data, no room to unpack it, or what containers' reader raises.
    """
    with contextlib.ExitStack() as cleanup:
        inner, damage = cleanup.enter_context(_unpacked(header, reading, path))
        stated = stated_rate(header.elements)
        rated = dataclasses.replace(reading, frame_rate=stated or reading.frame_rate)
        stream = iter_container(inner, rated, path, promised)
        notes = [*notes, *damage, *([UNUSED_RATE] if stated and reading.frame_rate else [])]
        return FrameStream(stream.planned, _noted(stream, notes, stated, cleanup.pop_all()))


def _noted(
    stream: FrameStream,
    notes: list[str],
    stated: float | None,
    cleanup: contextlib.AbstractContextManager,
) -> Frames:
    """The same frames, with more notes at the end and something to clean up after it."""
    with cleanup:
        yield from stream
    end = stream.ending
    assert end is not None  # the last frame has come
    # A rate that the header states was given by nobody.
    kept = [note for note in end.notes if not (stated and note == UNUSED_RATE)]
    return Ending(end.duration, end.native_frames, (*notes, *kept))


@contextlib.contextmanager
def _unpacked(header: Header, reading: Reading, path: str) -> Iterator[tuple[str, list[str]]]:
    """A temporary file with the stream alone, and notes on what is missing of it."""
    fragments = find_fragments(header, path)
    pieces = list(zip(fragments.offsets.tolist(), fragments.lengths.tolist(), strict=True))
    damage = []
    if not fragments.ended and not fragments.rest[1]:
        damage = ["its pixel data lacks its end"]
    elif not fragments.ended:
        account = "incomplete: its video stream breaks off"
        if not reading.partial:
            raise VideoError(account, path, remedy="partial")
        pieces, damage = [*pieces, fragments.rest], [account]
    size = sum(length for _, length in pieces)
    if not size:
        raise VideoError("DICOM, but there is no video stream in it; export it again", path)
    with _temporary() as target:
        try:
            if shutil.disk_usage(target.fileno()).free < size:
                raise VideoError(_NO_ROOM, path)
            for offset, length in pieces:
                header.file.seek(offset)
                for done in range(0, length, _CHUNK):
                    target.write(header.file.read(min(_CHUNK, length - done)))
            target.flush()
        except OSError as error:
            if not is_disk_full(error):
                raise
            raise VideoError(_NO_ROOM, path) from error
        yield _opened_by(target), damage


def _temporary() -> IO[bytes]:
    """A temporary file; without a name where the system gives an open file a path all the same."""
    return tempfile.TemporaryFile() if os.path.isdir(_OPEN_FILES) else tempfile.NamedTemporaryFile()


def _opened_by(file: IO[bytes]) -> str:
    """A path that opens a temporary file anew, from its start."""
    place = os.path.join(_OPEN_FILES, str(file.fileno()))
    return place if os.path.isdir(_OPEN_FILES) else file.name
