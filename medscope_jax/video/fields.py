"""How an interlaced recording stores the two fields of a picture, seen in its first packets."""

import re

import av

# Codecs whose pictures may be pairs of fields, by FFmpeg's names.
_CODECS = ("h264", "mpeg2video", "vc1")
# Enough pictures to see a pair, and the most packets to look at until they come.
_PICTURES, _PACKETS = 8, 32
# The end of one picture and, behind filling, the start of the next.
_TWO_JPEGS = re.compile(rb"\xff\xd9[\x00\xff]{0,64}?\xff\xd8\xff")


class FieldProbe:
    """Decodes the first packets of a stream while they are listed.

    Attributes:
      paired: a picture is stored as two packets, one for each of its fields: one without a picture
        followed one whose picture is interlaced.
      woven: a packet holds two JPEG pictures, one for each field. FFmpeg weaves them into one and
        does not say so.
    """

    def __init__(self, decoder: av.VideoCodecContext):
        self._jpeg = decoder.name == "mjpeg"
        self._decoder = decoder if decoder.name in _CODECS else None
        self._came: list[int] = []
        self._interlaced = False
        self.paired = self.woven = False
        self._first = True

    def add(self, packet: av.Packet, number: int) -> None:
        """Looks at the stream's next packet, which must not be used afterwards."""
        if self._first and packet.size:
            self._first = False
            self.woven = self._jpeg and bool(_TWO_JPEGS.search(bytes(packet)))
        if self._decoder is None or not packet.size:
            return
        packet.pts, packet.dts = number, None
        if not number:
            self._decoder.thread_count = 1
        try:
            frames = self._decoder.decode(packet)
        except (av.FFmpegError, EOFError):
            return
        for frame in frames:
            assert frame.pts is not None  # its packet's number
            self._came.append(frame.pts)
            self._interlaced |= frame.interlaced_frame
        if len(self._came) >= _PICTURES or number >= _PACKETS:
            came, self._decoder = self._came, None
            span = max(came) - min(came) + 1 if came else 0
            self.paired = self._interlaced and len(came) < span
