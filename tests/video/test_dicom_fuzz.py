"""Damaged DICOM files: right frames, a note, or one line; never a frame lost without a word."""

import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from medscope_jax.video import VideoError, read_video
from tests.video import dicom_cases

COUNT = 12
SIZE = (32, 72)
# Words of notes on frames that are missing, or too many.
TOLD = ("incomplete", "header promises", "header may be damaged", "belongs to one that can't")
# Damaged copies of each kind; the environment may ask for many more.
TRIES = int(os.environ.get("MEDSCOPE_FUZZ", "60"))
KINDS = (
    "native",
    "implicit",
    "bare",
    "deflated",
    "rle",
    "jpeg",
    "fragments",
    "palette",
    "groups",
    "mpeg2",
    "h264",
    "pieces",
    "mp4",
)


def _groups(data):
    """Windows of each frame's own, as enhanced objects have them."""
    own = []
    for index in range(COUNT):
        window, group = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = str(100 + index), "200"
        group.FrameVOILUTSequence = Sequence([window])
        own.append(group)
    data.PerFrameFunctionalGroupsSequence = Sequence(own)


def _palette(data):
    data.PhotometricInterpretation = "PALETTE COLOR"
    ramp = np.arange(256, dtype=np.uint16) * 257
    for name in ("Red", "Green", "Blue"):
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(data, f"{name}PaletteColorLookupTableData", ramp.tobytes())


def make(kind: str, frames: np.ndarray, write) -> str:
    """The path of a whole file of a kind, with these RGB frames [T, h, w, 3]."""
    name, grey = f"{kind}.dcm", np.ascontiguousarray(frames[..., 0])
    jpegs = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]
    jpeg = {"syntax": JPEGBaseline8Bit, "PhotometricInterpretation": "YBR_FULL_422"}
    streams = {
        "mpeg2": (MPEG2MPML, "mpeg2video", "mpeg2video"),
        "h264": (MPEG4HP41, "libx264", "h264"),
        "pieces": (MPEG4HP41, "libx264", "h264"),
        "mp4": (MPEG4HP41, "libx264", "mp4"),
    }
    if kind in streams:
        syntax, codec, container = streams[kind]
        stream = dicom_cases.encode_stream(frames, codec, container)
        tags = {"PhotometricInterpretation": "YBR_PARTIAL_420"}
        return write(frames, name, syntax, [stream], 4 if kind == "pieces" else 1, **tags)
    if kind == "implicit":
        return write(frames, name, ImplicitVRLittleEndian)
    if kind == "bare":
        return dicom_cases.without_meta(write(grey, name))
    if kind == "deflated":
        return write(frames, name, DeflatedExplicitVRLittleEndian)
    if kind == "rle":
        return write(frames, name, change=lambda data: data.compress(RLELossless))
    if kind == "jpeg":
        return write(frames, name, encoded=jpegs, **jpeg)
    if kind == "fragments":
        return write(frames, name, encoded=jpegs, fragments=3, **jpeg)
    if kind == "palette":
        return write(grey, name, change=_palette)
    if kind == "groups":
        return write(grey.astype(np.uint16), name, change=_groups)
    return write(frames, name)


def damaged(data: bytes, draw: np.random.Generator) -> bytes:
    """A file with some bytes flipped, its end cut off, or a sector of zeros in it."""
    out, kind = bytearray(data), draw.random()
    if kind < 0.2:
        return data[: draw.integers(1, len(data))]
    if kind < 0.3:
        start = int(draw.integers(0, len(out)))
        out[start : start + 512] = bytes(len(out[start : start + 512]))
        return bytes(out)
    items = [found.start() for found in re.finditer(b"\xfe\xff[\x00\xdd]\xe0", data)]
    for _ in range(draw.integers(1, 4)):
        # Anywhere; in what says how to read the rest; in an item's or delimiter's own header.
        where = int(draw.integers(0, len(out)))
        among = draw.random()
        if among < 0.4:
            where = int(draw.integers(0, min(len(out), 1600)))
        elif among < 0.7 and items:
            where = int(draw.choice(items)) + int(draw.integers(0, 8))
        out[where] ^= 1 << draw.integers(0, 8) if draw.random() < 0.5 else draw.integers(1, 256)
    return bytes(out)


@pytest.fixture(scope="module")
def frames():
    """uint8 RGB [COUNT, 32, 72, 3]: a bar that moves."""
    frames = np.full((COUNT, *SIZE, 3), 30, np.uint8)
    for index in range(COUNT):
        frames[index, :, 6 * index : 6 * index + 6] = 220
    return frames


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_told(kind, frames, write_dicom, tmp_path):
    whole = make(kind, frames, write_dicom)
    video = read_video(whole, fps=25.0, size=SIZE)
    assert video.native_frames == len(video.times) == COUNT and video.notes == ()
    data, path = Path(whole).read_bytes(), tmp_path / "damaged.dcm"
    draw = np.random.default_rng(KINDS.index(kind))
    tally = {"read": 0, "refused": 0}
    for _ in range(TRIES):
        path.write_bytes(damaged(data, draw))
        partial = bool(draw.random() < 0.3)
        try:
            video = read_video(path, fps=25.0, size=SIZE, frame_rate=25.0, partial=partial)
        except VideoError as error:
            assert "\n" not in str(error)
            tally["refused"] += 1
            continue
        tally["read"] += 1
        told = any(word in note for note in video.notes for word in TOLD)
        assert told or video.native_frames == COUNT, video.notes
    assert tally["read"] > 0 and tally["refused"] > 0
