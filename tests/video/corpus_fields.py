"""H.264 and MPEG-2 coded a field at a time, which FFmpeg's encoders can't write.

Operating-room recorders and broadcast encoders code each field of an interlaced picture as a
picture of its own. The smallest encoders that do: H.264 with every macroblock in plain samples
(I_PCM), MPEG-2 with blocks of one value each. Both give access units of two fields.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from tests.video.corpus_bits import Bits

_START = b"\0\0\0\1"
_GROUP = 10  # pictures from one that decoding can begin at to the next


def h264_fields(frames: Sequence[np.ndarray], top_first: bool = True) -> Iterator[list[bytes]]:
    """Gives for each frame [H, W, 3] its two fields as bare H.264 (Annex B), in coded order."""
    height, width = frames[0].shape[:2]
    headers = _START + _unit(0x67, _sps(width, height)) + _START + _unit(0x68, _pps())
    for index, frame in enumerate(frames):
        fields = []
        for second in (False, True):
            bottom = second == top_first
            first_of_group = index % _GROUP == 0 and not second
            kind = 0x65 if first_of_group else 0x61
            body = _slice(frame[int(bottom) :: 2], index, bottom, second, first_of_group)
            fields.append((headers if first_of_group else b"") + _START + _unit(kind, body))
        yield fields


def _unit(kind: int, body: bytes) -> bytes:
    """A NAL unit: its header byte, and its body without the bytes that look like a start."""
    out = bytearray([kind])
    zeros = 0
    for byte in body:
        if zeros >= 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(out)


def _sps(width: int, height: int) -> bytes:
    bits = Bits().put(77, 8).put(0, 8).put(30, 8)  # Main profile, level 3
    bits.ue(0, 0, 0, 4, 1).put(0, 1)  # frame_num of 4 bits, order count of 8, one reference
    bits.ue(width // 16 - 1, height // 32 - 1)
    bits.code("0").code("0").code("1")  # fields allowed, no MBAFF, direct 8x8
    return bits.code("0").code("0").code("1").close()  # no cropping, no VUI, stop bit


def _pps() -> bytes:
    bits = Bits().ue(0, 0).code("0").code("0")  # CAVLC, no field order count
    bits.ue(0, 0, 0).put(0, 3).ue(0, 0, 0)  # no weights; quantizers as they are
    return bits.code("1").code("0").code("0").code("1").close()  # deblocking is controlled


def _slice(field: np.ndarray, index: int, bottom: bool, second: bool, idr: bool) -> bytes:
    number = index % _GROUP
    bits = Bits().ue(0, 7, 0).put(number, 4).code("1").put(int(bottom), 1)
    if idr:
        bits.ue(index // _GROUP % 2)
    bits.put(2 * number + second, 8)
    bits.code("00" if idr else "0")  # how references are kept: as usual
    bits.ue(0, 1)  # quantizer delta 0; no deblocking
    grey = field[..., 1]
    for top in range(0, grey.shape[0], 16):
        for left in range(0, grey.shape[1], 16):
            bits.ue(25).align()  # I_PCM
            bits.octets(grey[top : top + 16, left : left + 16].tobytes() + b"\x80" * 128)
    return bits.code("1").close()


# The header of an intra picture, without its extension.
_PICTURE = Bits().put(0x100, 32).put(0, 10).put(1, 3).put(0xFFFF, 16).put(0, 1).close()
# Code words of the number of bits of a luminance DC difference (ISO/IEC 13818-2, table B-12).
_DC_SIZES = ("100", "00", "01", "101", "110", "1110", "11110", "111110", "1111110")


def mpeg2_fields(frames: Sequence[np.ndarray], top_first: bool = True) -> Iterator[list[bytes]]:
    """Gives for each frame [H, W, 3] its two fields as bare MPEG-2, all intra, in coded order."""
    height, width = frames[0].shape[:2]
    for index, frame in enumerate(frames):
        fields = []
        for second in (False, True):
            bottom = second == top_first
            headers = b"" if second else _sequence(width, height) + _group(index)
            fields.append(headers + _field_picture(frame[int(bottom) :: 2], bottom))
        yield fields


def mpeg2_pulldown(frames: Sequence[np.ndarray]) -> Iterator[bytes]:
    """Film as DVDs have it: whole frames, every other one shown for three fields."""
    height, width = frames[0].shape[:2]
    for index, frame in enumerate(frames):
        top_first, repeat = PULLDOWN[index % 4]
        coding = Bits().put(0x1B5, 32).put(8, 4).put(0xFFFF, 16).put(0, 2).put(3, 2)
        coding.put(int(top_first), 1).put(1, 1).code("0000").put(int(repeat), 1).code("110")
        headers = _sequence(width, height) + _group(index) + _PICTURE + coding.close()
        yield headers + _slices(frame)


# Which field is first, and whether it is shown again: 3, 2, 3, 2 fields.
PULLDOWN = ((True, True), (False, False), (False, True), (True, False))


def _sequence(width: int, height: int) -> bytes:
    header = Bits().put(0x1B3, 32).put(width, 12).put(height, 12).put(1, 4).put(3, 4)  # 25 fps
    header.put(5000, 18).put(1, 1).put(112, 10).put(0, 3)
    extension = Bits().put(0x1B5, 32).put(1, 4).put(0x48, 8)  # Main profile, Main level
    extension.put(0, 1).put(1, 2).put(0, 2).put(0, 2).put(0, 12).put(1, 1).put(0, 8).put(0, 8)
    return header.close() + extension.close()


def _group(index: int) -> bytes:
    seconds, picture = divmod(index, 25)
    bits = Bits().put(0x1B8, 32).put(0, 1).put(0, 11).put(1, 1).put(seconds, 6).put(picture, 6)
    return bits.put(1, 1).put(0, 1).close()  # closed


def _field_picture(field: np.ndarray, bottom: bool) -> bytes:
    coding = Bits().put(0x1B5, 32).put(8, 4).put(0xFFFF, 16).put(0, 2)
    coding.put(2 if bottom else 1, 2).put(0, 1).put(0, 1).put(0, 8)
    return _PICTURE + coding.close() + _slices(field)


def _slices(picture: np.ndarray) -> bytes:
    data = b""
    grey = picture[..., 1].astype(float)
    values = grey.reshape(grey.shape[0] // 8, 8, grey.shape[1] // 8, 8).mean(axis=(1, 3))
    for row in range(0, len(values), 2):
        bits = Bits().put(0x101 + row // 2, 32).put(8, 5).put(0, 1)
        before = 128
        for column in range(0, values.shape[1], 2):
            bits.code("1").code("1")  # the next macroblock, intra
            for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
                value = round(values[row + y, column + x])
                _difference(bits, value - before)
                before = value
            bits.code("00" + "10").code("00" + "10")  # colour as before: none
        data += bits.close()
    return data


def _difference(bits: Bits, value: int) -> None:
    size = abs(value).bit_length()
    bits.code(_DC_SIZES[size]).put(value if value > 0 else value + (1 << size) - 1, size)
    bits.code("10")  # end of the block
