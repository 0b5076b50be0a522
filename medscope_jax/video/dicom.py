"""DICOM recordings: exact frame times, RGB, and nothing about the patient.

Only the tags of dicom_tags.py are ever read into memory, and what decoders say, which may quote
header values, is dropped: no message, note or result holds anything but pixel geometry and times.
(Names burned into the pixels are another matter: a note says so where the header does.)
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from medscope_jax.video.container import UNUSED_RATE
from medscope_jax.video.dicom_decode import (
    Geometry,
    check_decoder,
    decode_frame,
    read_geometry,
)
from medscope_jax.video.dicom_frames import Places, find_frames
from medscope_jax.video.dicom_header import Header, open_header, sniff
from medscope_jax.video.dicom_mpeg import holds_stream, iter_stream
from medscope_jax.video.dicom_rgb import ToRGB
from medscope_jax.video.dicom_tags import BURNED_IN, FRAMES
from medscope_jax.video.dicom_times import frame_times
from medscope_jax.video.frames import (
    Reading,
    VideoError,
    choose_frames,
    fit_frame,
    frame_size,
    letterbox_note,
)
from medscope_jax.video.stream import Ending, Frames, FrameStream

__all__ = ["iter_dicom", "sniff"]

_COLOURS = "DICOM, but its colours cannot be interpreted; export the recording again"


def iter_dicom(path: str, reading: Reading) -> FrameStream:
    """A multi-frame DICOM file's frames at the bank rate, as decode.iter_frames.

    Args:
      path: a regular file that starts as `sniff` knows it.
      reading: as decode.iter_frames.

    Raises:
      VideoError: no pixels, a single image, no times, a compression that needs another package,
        fewer frames than the header promises, more than the limits allow; while iterating: broken
        pixel data.
    """
    with contextlib.ExitStack() as cleanup:
        file = cleanup.enter_context(open(path, "rb"))
        header = open_header(file, path, cleanup)
        notes = _header_notes(header)
        if holds_stream(header):
            return iter_stream(header, _promised(header, path), reading, notes, path)
        check_decoder(header, path)
        promised = _promised(header, path) or 1
        if promised < 2:
            raise VideoError("DICOM with a single image, not a recording; name a clip (cine)", path)
        geometry = read_geometry(header, path)
        places = find_frames(header, promised, geometry.frame_bits, reading, path)
        timing = frame_times(header.elements, places.count, promised, reading, path)
        chosen, rate_notes = choose_frames(timing.times, timing.end, reading)
        try:
            to_rgb = ToRGB(header.elements, geometry, places.count)
        except ValueError:
            raise VideoError(_COLOURS, path) from None
        size = geometry.height, geometry.width
        fitted = frame_size(reading.size, size)
        notes += [*places.notes, *timing.notes, *rate_notes, *letterbox_note(size, fitted)]
        if reading.frame_rate and not any("given frame rate" in note for note in timing.notes):
            notes.append(UNUSED_RATE)
        recording = _Recording(header, geometry, places, to_rgb, reading.partial, path)
        keep = cleanup.pop_all()

    def frames() -> Frames:
        came = 0
        with keep:
            if to_rgb.needs_range:
                for index, image, _ in recording.decoded(chosen):
                    to_rgb.extend_range(image, index)
            for index, image, model in recording.decoded(chosen):
                came += 1
                rgb = recording.shown(image, model, index)
                yield float(timing.times[index]), fit_frame(rgb, fitted, reading.resample)
        if not came:
            raise VideoError("none of its frames can be decoded; export the recording again", path)
        broken = len(chosen) - came
        lost = [f"incomplete: {broken} of {len(chosen)} frames are broken"] if broken else []
        return Ending(timing.end, places.count, (*lost, *notes))

    return FrameStream(len(chosen), frames())


@dataclasses.dataclass(frozen=True)
class _Recording:
    """A file's frames, one by one, with every fault in them turned into one line."""

    header: Header
    geometry: Geometry
    places: Places
    to_rgb: ToRGB
    partial: bool
    path: str

    def decoded(self, chosen: np.ndarray) -> Iterator[tuple[int, np.ndarray, str]]:
        """Index, samples and colour model of the chosen frames, those that are broken left out.

        Decoders raise nearly every exception type on broken input, and their texts hold header
        values; `from None` and a fixed text keep them out of logs and tracebacks.
        """
        for index in map(int, chosen):
            try:
                image, model = decode_frame(self.header, self.geometry, self.places, index)
            except MemoryError:
                raise
            except Exception:
                if self.partial:
                    continue
                reason = f"frame {index + 1} of {self.places.count} cannot be decoded"
                raise VideoError(reason, self.path, remedy="partial") from None
            yield index, image, model

    def shown(self, image: np.ndarray, model: str, index: int) -> np.ndarray:
        """A decoded frame as uint8 RGB."""
        try:
            return self.to_rgb(image, model, index)
        except ValueError:
            raise VideoError(_COLOURS, self.path) from None


def _promised(header: Header, path: str) -> int | None:
    """How many frames the header says there are; None if it does not say."""
    try:
        count = header.elements.number(FRAMES, math.nan)
    except ValueError:
        count = math.inf
    if math.isnan(count):
        return None
    if not count.is_integer():
        raise VideoError(
            "DICOM, but its number of frames is unreadable; export the recording again", path
        )
    return int(count)


def _header_notes(header: Header) -> list[str]:
    if header.elements.text(BURNED_IN).upper() != "YES":
        return []
    return ["the header says that annotations, maybe identifying ones, are burned into the pixels"]
