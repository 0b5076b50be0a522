"""What a compressed frame's own header says: its size, and which colours its components are.

DICOM's header says both, too, and is wrong often enough; and a decoder allocates what the frame
says, not what DICOM's header says.
"""

import dataclasses
import io

import numpy as np
from PIL import JpegImagePlugin

# Start of frame: ITU-T T.81 table B.1 without DHT, JPG and DAC; 0xF7 is JPEG-LS (T.87).
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7)
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a segment
_SCAN = 0xDA
_CODESTREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000: SOC, SIZ


@dataclasses.dataclass(frozen=True)
class FrameInfo:
    """What a codestream's header says.

    Attributes:
      height, width: pixels.
      components: how many.
      precision: bits of a sample.
      kind: the start-of-frame marker's second byte; 0 for JPEG 2000.
      identifiers: the components' identifiers.
      subsampled: whether components have other sizes than the first.
      jfif: it has a JFIF marker.
      adobe: the colour transform that an Adobe marker states; None without one.
    """

    height: int
    width: int
    components: int
    precision: int
    kind: int = 0
    identifiers: bytes = b""
    subsampled: bool = False
    jfif: bool = False
    adobe: int | None = None

    @property
    def baseline(self) -> bool:
        """Whether every JPEG decoder reads it: eight bits, by Huffman codes, not lossless."""
        return self.kind in (0xC0, 0xC1, 0xC2) and self.precision == 8

    @property
    def luma(self) -> bool | None:
        """Whether three components are luma and chroma; None where it does not say.

        Markers say so first, in libjpeg's order; then the identifiers "RGB"; then sizes: nobody
        stores red, green and blue at different sizes.
        """
        if self.jfif or self.adobe is not None:
            return self.libjpeg_luma
        if self.identifiers in (b"RGB", b"rgb"):
            return False
        return True if self.subsampled else None

    @property
    def libjpeg_luma(self) -> bool:
        """Whether libjpeg takes three components for luma and chroma."""
        if self.jfif or self.adobe is not None:
            return self.jfif or self.adobe != 0
        return self.identifiers != b"RGB"


def frame_info(data: bytes) -> FrameInfo:
    """Reads a JPEG, JPEG-LS or JPEG 2000 frame's header. Raises ValueError where it is none."""
    at = data.find(_CODESTREAM, 0, 4096)
    if at >= 0:
        return _wavelet_info(data[at + 4 : at + 48])
    if data[:2] != b"\xff\xd8":
        raise ValueError
    at, found, jfif, adobe = 2, None, False, None
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise ValueError
        marker = data[at + 1]
        if marker == 0xFF or marker in _ALONE:  # fill bytes may precede a marker
            at += 1 if marker == 0xFF else 2
            continue
        if marker == _SCAN:
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker in _FRAMES:
            if found is not None:
                raise ValueError
            found = marker, body
        elif marker == 0xE0 and body.startswith(b"JFIF"):
            jfif = True
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        at += 2 + max(2, length)
    if found is None:
        raise ValueError
    kind, body = found
    parts = body[6:]
    count = body[5] if len(body) > 5 else 0
    if count < 1 or len(parts) < 3 * count:
        raise ValueError
    sizes = parts[1 : 3 * count : 3]
    return FrameInfo(
        height=int.from_bytes(body[1:3], "big"),
        width=int.from_bytes(body[3:5], "big"),
        components=count,
        precision=body[0],
        kind=kind,
        identifiers=parts[0 : 3 * count : 3],
        subsampled=any(size != sizes[0] for size in sizes),
        jfif=jfif,
        adobe=adobe,
    )


def _wavelet_info(size: bytes) -> FrameInfo:
    """SIZ of ITU-T T.800 A.5.1, from behind its marker on."""
    if len(size) < 38:
        raise ValueError
    right, bottom, left, top = (int.from_bytes(size[i : i + 4], "big") for i in (4, 8, 12, 16))
    components = int.from_bytes(size[36:38], "big")
    precision = (size[38] & 127) + 1 if len(size) > 38 else 0
    return FrameInfo(bottom - top, right - left, components, precision)


def decode_baseline(data: bytes, info: FrameInfo, luma: bool) -> np.ndarray:
    """A baseline JPEG as uint8 [h, w], or as RGB [h, w, 3].

    Args:
      data: the frame.
      info: what its header says.
      luma: whether three components are luma and chroma.
    """
    # The plug-in itself: Image.open would warn of large pictures, whose size is known by now.
    with JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as image:
        if info.components == 3 and not luma and info.libjpeg_luma:
            # Asked for luma and chroma, libjpeg hands over what it takes for them unchanged.
            image.draft("YCbCr", image.size)
        return np.asarray(image)
