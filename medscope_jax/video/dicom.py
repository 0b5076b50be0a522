"""DICOM recordings through pydicom: exact frame times, RGB, and nothing about the patient.

Only the tags below are ever read into memory, and pydicom's own warnings and error texts, which may
quote header values, are dropped: no message, note or result holds anything but pixel geometry and
times. (Names burned into the pixels are another matter: see header_notes.)
"""

import contextlib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator

import numpy as np
import pydicom
import pydicom.config
from pydicom.encaps import generate_fragments, parse_basic_offsets, parse_fragments
from pydicom.pixels import get_decoder, iter_pixels

from medscope_jax.video.dicom_rgb import PIXEL_TAGS, ToRGB
from medscope_jax.video.dicom_times import TIME_TAGS, frame_times, steady_interval
from medscope_jax.video.frames import (
    Reading,
    VideoError,
    choose_frames,
    fit_frame,
    frame_size,
    letterbox_note,
)
from medscope_jax.video.stream import Ending, Frames, FrameStream, in_steps

_SHAPE_TAGS = ["NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "BurnedInAnnotation"]
# MPEG-2, H.264 and HEVC streams: one video stream, not one compressed image a frame.
_VIDEO_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{n}" for n in range(100, 109))


def iter_dicom(path: str, reading: Reading) -> FrameStream:
    """A multi-frame DICOM file's frames at the bank rate, as decode.iter_frames.

    Times come from FrameTimeVector or FrameTime (whichever FrameIncrementPointer names; else the
    first that is there), ActualFrameDuration, RecommendedDisplayFrameRate or CineRate.

    Raises:
      VideoError: no pixels, a single image, no times, a compression that needs another package,
        fewer frames than the header promises; while iterating: broken pixel data.
    """
    with _quiet():
        header, position = _header(path)
        count = _frame_count(path, header)
        original = _geometry(path, header)
        _check_decoder(path, header)
        _check_complete(path, header, position, count)
        times, end = _frame_times(path, header, count)
        chosen, rate_notes = choose_frames(times, end, reading)
        colours = "its colours cannot be interpreted"
        to_rgb = _guarded(path, colours, lambda: ToRGB(header))
    fitted = frame_size(reading.size, original)
    notes = [*_notes(header), *rate_notes]
    notes += letterbox_note(original, fitted)

    def frames() -> Frames:
        if to_rgb.needs_range:
            for image in _images(path, chosen, count):
                _guarded(path, colours, lambda x=image: to_rgb.extend_range(x))
        for time, image in zip(times[chosen], _images(path, chosen, count), strict=True):
            rgb = _guarded(path, colours, lambda x=image: to_rgb(x))
            yield float(time), fit_frame(rgb, fitted, reading.resample)
        return Ending(end, count, tuple(notes))

    return FrameStream(len(chosen), in_steps(frames(), _quiet))


def read_stream(path: str) -> contextlib.AbstractContextManager[str] | None:
    """A context manager giving a temporary file with the MPEG stream inside, or None if none is.

    The temporary file has a random name, holds the bare stream and is removed at the end.
    """
    with _quiet():
        header, position = _header(path)
    if str(header.file_meta.TransferSyntaxUID).removesuffix(".1") not in _VIDEO_SYNTAXES:
        return None
    return _stream_file(path, position)


def stream_rate(path: str) -> float | None:
    """Frames a second that the header states, for an MPEG stream without a clock; None if none."""
    with _quiet():
        header, _ = _header(path)
        interval = _guarded(path, "its frame times are unreadable", lambda: steady_interval(header))
    return 1 / interval if interval else None


def header_notes(path: str) -> tuple[str, ...]:
    """What a reader of this DICOM file's frames must know, as in Video.notes."""
    with _quiet():
        return tuple(_notes(_header(path)[0]))


def _notes(header: pydicom.Dataset) -> list[str]:
    if str(header.get("BurnedInAnnotation", "NO")).upper() != "YES":
        return []
    return ["the header says that annotations, maybe identifying ones, are burned into the pixels"]


@contextlib.contextmanager
def _quiet():
    """Drops pydicom's warnings and log lines: they may quote values of the header."""
    logger = logging.getLogger("pydicom")
    disabled = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled


def _guarded(path: str, problem: str, read):
    """read(), with whatever it raises turned into a VideoError that quotes nothing.

    pydicom raises nearly every exception type on broken input, and its texts hold header values;
    `from None` and a fixed text keep them out of logs and tracebacks.
    """
    try:
        return read()
    except (VideoError, MemoryError):
        raise
    except Exception:
        raise VideoError(f"DICOM, but {problem}; export the recording again", path) from None


def _header(path: str) -> tuple[pydicom.Dataset, int]:
    """The few tags that matter, and the file position of the pixel data element."""

    def read():
        with open(path, "rb") as file:
            header = pydicom.dcmread(
                file,
                stop_before_pixels=True,
                specific_tags=[*TIME_TAGS, *_SHAPE_TAGS, *PIXEL_TAGS],
            )
            return header, file.tell()

    header, position = _guarded(path, "its header is broken", read)
    if "TransferSyntaxUID" not in header.file_meta or "Rows" not in header:
        raise VideoError("DICOM without images (a report or a plan?); name a recording", path)
    return header, position


def _frame_count(path: str, header: pydicom.Dataset) -> int:
    count = _guarded(
        path, "its number of frames is unreadable", lambda: int(header.get("NumberOfFrames") or 1)
    )
    if count < 2:
        raise VideoError("DICOM with a single image, not a recording; name a clip (cine)", path)
    return count


def _geometry(path: str, header: pydicom.Dataset) -> tuple[int, int]:
    """Height and width of a frame."""
    problem = "its image geometry is unreadable"
    height, width = _guarded(path, problem, lambda: (int(header.Rows), int(header.Columns)))
    if min(height, width) < 1:
        raise VideoError("DICOM whose frames have no pixels; export the recording again", path)
    return height, width


def _check_decoder(path: str, header: pydicom.Dataset) -> None:
    syntax = header.file_meta.TransferSyntaxUID
    if not _guarded(path, "its compression is unknown", lambda: syntax.is_compressed):
        return
    decoder = _guarded(path, "its compression is unknown", lambda: get_decoder(syntax))
    if not decoder.is_available:
        needs = " or ".join(decoder.missing_dependencies)
        raise VideoError(
            f"DICOM compressed as {syntax.name}, which pydicom cannot decode here; "
            f"install one of: {needs}",
            path,
        )


def _check_complete(path: str, header: pydicom.Dataset, position: int, count: int) -> None:
    """Raises VideoError where the pixel data holds fewer (or, by its table, other) frames.

    Without an offset table a frame may span several fragments, so more fragments than frames are
    no contradiction; fewer are.
    """
    if not header.file_meta.TransferSyntaxUID.is_encapsulated:
        has, needs = os.path.getsize(path) - position, _native_bytes(path, header)
        if has < needs * count:
            raise _incomplete(path, count, has // max(1, needs))
        return

    def held():
        with open(path, "rb") as file:
            file.seek(position + 12)  # tag, VR, 2 reserved bytes, length: always explicit here
            offsets = parse_basic_offsets(file)
            fragments, _ = parse_fragments(file)
        return len(offsets), fragments

    offsets, fragments = _guarded(path, "its pixel data is cut short or broken", held)
    if fragments < count:
        raise _incomplete(path, count, fragments)
    if offsets and offsets != count:
        raise VideoError(
            f"DICOM whose header promises {count} frames and whose offset table lists "
            f"{offsets}; export the recording again",
            path,
        )


def _incomplete(path: str, promised: int, came: int) -> VideoError:
    return VideoError(
        f"incomplete: {promised} frames promised, at most {came} are there; "
        "copy or export it again",
        path,
    )


def _native_bytes(path: str, header: pydicom.Dataset) -> int:
    """Bytes of one uncompressed frame."""

    def size():
        samples = float(header.get("SamplesPerPixel", 1))
        if header.get("PhotometricInterpretation") == "YBR_FULL_422":
            samples = 2.0  # two chroma values for two pixels
        return int(header.Rows * header.Columns * samples * header.BitsAllocated // 8)

    return _guarded(path, "its image geometry is unreadable", size)


def _frame_times(path: str, header: pydicom.Dataset, count: int) -> tuple[np.ndarray, float]:
    """Seconds of each frame [count], from the first frame, and the end of the last one."""
    problem = "its frame times are unreadable"
    timing = _guarded(path, problem, lambda: frame_times(header, count))
    if timing is None:
        raise VideoError(
            "DICOM without frame times (FrameTime, FrameTimeVector, "
            "RecommendedDisplayFrameRate or CineRate); export it with its cine module",
            path,
        )
    return timing


def _images(path: str, chosen: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """The chosen frames as stored, one in memory at a time; YBR already turned into RGB."""
    images = iter_pixels(path, indices=[int(i) for i in chosen])
    for i in chosen:
        problem = f"frame {i} of {count} cannot be decoded"
        yield _guarded(path, problem, lambda: next(images))


@contextlib.contextmanager
def _stream_file(path: str, position: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        stream = os.path.join(folder, "stream")

        def write():
            with _quiet(), open(path, "rb") as source, open(stream, "wb") as target:
                source.seek(position + 12)
                parse_basic_offsets(source)
                for fragment in generate_fragments(source):
                    target.write(fragment)

        if shutil.disk_usage(folder).free < os.path.getsize(path):
            raise VideoError("no room to unpack the MPEG stream; free some temporary space", path)
        _guarded(path, "its MPEG stream cannot be unpacked", write)
        yield stream
