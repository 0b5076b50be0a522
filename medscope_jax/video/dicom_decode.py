"""One frame of DICOM pixel data, decoded: pydicom's decoders, inside bounds set by its size."""

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pydicom.config
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    RLELossless,
)

from medscope_jax.video import size_limits as limits
from medscope_jax.video.dicom_frames import Places
from medscope_jax.video.dicom_header import Header
from medscope_jax.video.dicom_jpeg import decode_baseline, frame_info
from medscope_jax.video.dicom_rle import decode_runs
from medscope_jax.video.dicom_tags import (
    BITS_ALLOCATED,
    BITS_STORED,
    COLUMNS,
    PHOTOMETRIC,
    PLANAR,
    ROWS,
    SAMPLES,
    SIGNED,
)
from medscope_jax.video.frames import VideoError

# What decodes the compressions that Pillow cannot; pyproject.toml's extra "dicom".
PLUGINS = "pylibjpeg pylibjpeg-openjpeg pylibjpeg-libjpeg"
GREY = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
_LUMA = ("YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_MAX_FRAME = 1 << 28  # bytes of a decoded frame


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The shape of a recording's frames, as its header says it.

    Attributes:
      height, width: pixels.
      samples: of a pixel, 1 or 3.
      model: the photometric interpretation.
      allocated, stored: bits of a sample, those it takes and those that count.
      signed: whether samples may be negative.
      planar: whether each colour has a plane of its own.
    """

    height: int
    width: int
    samples: int
    model: str
    allocated: int
    stored: int
    signed: bool
    planar: bool

    @property
    def frame_bits(self) -> int:
        """Bits of an uncompressed frame."""
        # YBR_FULL_422 has two chroma values for two pixels.
        samples = 2 if self.model == "YBR_FULL_422" else self.samples
        return self.height * self.width * samples * self.allocated


def read_geometry(header: Header, path: str) -> Geometry:
    """The shape of a file's frames. Raises VideoError where it is none, or too large."""
    elements = header.elements
    words = {tag: elements.words(tag, "u2") for tag in (ROWS, COLUMNS, BITS_ALLOCATED)}
    if any(len(word) != 1 for word in words.values()):
        raise VideoError(
            "DICOM, but its image geometry is unreadable; export the recording again", path
        )
    height, width, allocated = (int(word[0]) for word in words.values())
    if min(height, width) < 1:
        raise VideoError("DICOM whose frames have no pixels; export the recording again", path)
    limits.check_pixels(height, width, path)

    def first(tag: int, absent: int) -> int:
        value = elements.words(tag, "u2")
        return int(value[0]) if len(value) else absent

    geometry = Geometry(
        height,
        width,
        samples=first(SAMPLES, 1),
        model=elements.text(PHOTOMETRIC),
        allocated=allocated,
        stored=first(BITS_STORED, allocated),
        signed=first(SIGNED, 0) == 1,
        planar=first(PLANAR, 0) == 1,
    )
    if allocated not in (1, 8, 16, 32) or not 1 <= geometry.stored <= allocated:
        raise VideoError(
            "DICOM with samples of a number of bits that is not read (1, 8, 16 and 32 are); "
            "export the recording again",
            path,
        )
    grey = geometry.model in (*GREY, PALETTE)
    fits = geometry.samples == (1 if grey else 3) and (grey or allocated > 1)
    if not (grey or geometry.model in ("RGB", *_LUMA)) or not fits:
        raise VideoError(
            "DICOM, but its colours cannot be interpreted; export the recording again", path
        )
    if height * width * geometry.samples * allocated // 8 > _MAX_FRAME:
        raise VideoError(
            f"frames of more than {_MAX_FRAME >> 20} MiB; scale the recording down", path
        )
    return geometry


def check_decoder(header: Header, path: str) -> None:
    """Raises VideoError where nothing here decodes a file's compression."""
    with quiet():
        syntax = UID(header.syntax)
        try:
            decoder = get_decoder(syntax)
        except NotImplementedError:
            raise VideoError(
                "DICOM, but its compression is unknown; export the recording again", path
            ) from None
        if not decoder.is_available:
            raise VideoError(
                f"DICOM compressed as {syntax.name}, which needs more packages: "
                f"python -m pip install {PLUGINS}",
                path,
            )


def decode_frame(
    header: Header, geometry: Geometry, places: Places, frame: int
) -> tuple[np.ndarray, str]:
    """One frame's samples, [h, w] or [h, w, 3], and their colour model.

    Raises whatever decoders raise where the frame is broken; texts of theirs may quote the header.
    """
    if places.fragments is None:
        return _native_frame(header, geometry, places.count, frame)
    shape = geometry.height, geometry.width
    item_bytes = max(1, geometry.allocated // 8)
    size = geometry.height * geometry.width * geometry.samples * item_bytes
    # What compresses to twice its size is no frame of ours, whatever it decodes to.
    data = places.read(header.file, frame, 2 * size + (1 << 20))
    if header.syntax == RLELossless:
        image = decode_runs(data, (*shape, geometry.samples), item_bytes)
        image = image.view(f"<i{item_bytes}") if geometry.signed else image
        image = _used_bits(image, geometry)
        return (image if geometry.samples == 3 else image[..., 0]), geometry.model
    info = frame_info(data)
    if (info.height, info.width) != shape or info.components != geometry.samples:
        raise ValueError
    if info.kind and limits.too_many_scans(data):
        raise ValueError
    if info.baseline:
        if geometry.allocated != 8:
            raise ValueError
        luma = geometry.model != "RGB" if info.luma is None else info.luma
        image = decode_baseline(data, info, luma)
        return image, "RGB" if info.components == 3 else geometry.model
    if info.kind and info.luma is not None:
        model = ("YBR_FULL" if info.luma else "RGB") if info.components == 3 else geometry.model
        geometry = dataclasses.replace(geometry, model=model)
    with quiet():
        image, found = get_decoder(UID(header.syntax)).as_array(
            encapsulate([data]), index=0, raw=True, **_options(geometry, number_of_frames=1)
        )
    return image, str(found["photometric_interpretation"])


def _native_frame(
    header: Header, geometry: Geometry, count: int, frame: int
) -> tuple[np.ndarray, str]:
    if geometry.allocated == 1:
        return _bits(header, geometry, frame), geometry.model
    syntax = UID(header.syntax)
    if syntax == DeflatedExplicitVRLittleEndian:
        syntax = ExplicitVRLittleEndian
    header.file.seek(header.pixels.at)
    with quiet():
        image, found = get_decoder(syntax).as_array(
            header.file,
            index=frame,
            raw=True,
            **_options(
                geometry,
                number_of_frames=count,
                pixel_keyword="PixelData",
                pixel_vr=header.pixels.vr or "OW",
            ),
        )
    return image, str(found["photometric_interpretation"])


def _bits(header: Header, geometry: Geometry, frame: int) -> np.ndarray:
    """An uncompressed frame of single bits, [h, w]; the next frame may start within a byte."""
    count = geometry.height * geometry.width
    start = frame * count
    header.file.seek(header.pixels.at + start // 8)
    packed = np.frombuffer(header.file.read(-(-(start % 8 + count) // 8)), np.uint8)
    bits = np.unpackbits(packed, bitorder="little")[start % 8 :][:count]
    return bits.reshape(geometry.height, geometry.width)


def _options(geometry: Geometry, **more: Any) -> dict[str, Any]:
    """A geometry, and more, as pydicom's decoders want it."""
    return {
        "rows": geometry.height,
        "columns": geometry.width,
        "samples_per_pixel": geometry.samples,
        "photometric_interpretation": geometry.model,
        "bits_allocated": geometry.allocated,
        "bits_stored": geometry.stored,
        "pixel_representation": int(geometry.signed),
        "planar_configuration": int(geometry.planar),
        **more,
    }


def _used_bits(image: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Samples without the bits above those stored, which may hold anything (PS3.5, 8.1.1)."""
    spare = image.dtype.itemsize * 8 - geometry.stored
    return image << spare >> spare if spare else image


def luma_to_rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] of luma, blue and red chroma (full range, BT.601) as RGB."""
    return cv2.cvtColor(np.ascontiguousarray(image[..., (0, 2, 1)]), cv2.COLOR_YCrCb2RGB)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops pydicom's warnings and log lines: they may quote values of the header."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "pylibjpeg", "openjpeg", "libjpeg")]
    disabled = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, was in zip(loggers, disabled, strict=True):
            logger.disabled = was
