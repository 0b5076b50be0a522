"""NumberOfFrames against what is there: frames missing, frames too many, broken fragments."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom.encaps import encapsulate_extended
from pydicom.uid import MPEG2MPML, MPEG4HP41, JPEGBaseline8Bit, RLELossless

from medscope_jax.video import VideoError, read_video
from tests.video.dicom_cases import encode_stream

SIZE = (64, 144)
JPEG = {"syntax": JPEGBaseline8Bit, "PhotometricInterpretation": "YBR_FULL_422"}
DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"


@pytest.fixture
def write(write_dicom, numbered):
    """(kind, **tags) -> path of ten numbered frames, uncompressed, in run lengths or as JPEG."""

    def make(kind, **tags):
        frames = numbered(10)
        if kind == "jpeg":
            encoded = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]
            return write_dicom(frames, encoded=encoded, **JPEG, **tags)
        packed = {"change": lambda data: data.compress(RLELossless)} if kind == "rle" else {}
        return write_dicom(frames, **packed, **tags)

    return make


def read(path, **options):
    return read_video(path, fps=25.0, size=SIZE, **options)


def set_frames(path, count):
    """Says another NumberOfFrames than "10"."""
    data = Path(path).read_bytes()
    old, new = (b"\x28\0\x08\0IS\x02\0" + text.encode() for text in ("10", count))
    assert data.count(old) == 1 and len(count) == 2
    Path(path).write_bytes(data.replace(old, new))
    return path


KINDS = ("native", "rle", "jpeg")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_short(write, index_of, kind):
    path = write(kind)
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * 0.65)])
    with pytest.raises(VideoError, match=r"incomplete: 10 frames promised, \d there") as caught:
        read(path)
    assert caught.value.remedy == "partial"
    video = read(path, partial=True)
    count = len(video.times)
    assert 4 <= count <= 6 and video.native_frames == count
    np.testing.assert_array_equal(index_of(video.frames), np.arange(count))
    np.testing.assert_allclose(video.times, np.arange(count) / 25)
    assert video.duration == pytest.approx(count / 25)
    assert video.notes[0] == f"incomplete: 10 frames promised, {count} there"


def test_a_vector_and_a_file_that_is_cut_short(write_dicom, numbered):
    steps = [0.0, 100, 200, 300, 400, 500, 600, 700, 800, 900]
    path = write_dicom(numbered(10), FrameTime=None, FrameTimeVector=steps)
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * 0.45)])
    video = read_video(path, fps=1000.0, size=SIZE, partial=True)
    np.testing.assert_allclose(video.times, [0.0, 0.1, 0.3, 0.6])
    assert video.duration == pytest.approx(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_at_all_is_refused_even_so(write, kind):
    path = write(kind)
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: data.rindex(b"\xe0\x7f\x10\0OB") + 40])
    with pytest.raises(VideoError):
        read(path, partial=True)


@pytest.mark.parametrize("kind", KINDS)
def test_more_frames_than_promised_are_read_and_said(write, index_of, kind):
    video = read(set_frames(write(kind), "4 "))
    np.testing.assert_array_equal(index_of(video.frames), np.arange(10))
    assert video.notes == ("its header promises 4 frames and 10 are there: all are read",)


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_frames_than_promised(write, index_of, kind):
    path = set_frames(write(kind), "99")
    with pytest.raises(VideoError, match="99 frames promised, 10 there"):
        read(path)
    video = read(path, partial=True)
    np.testing.assert_array_equal(index_of(video.frames), np.arange(10))


def test_bytes_behind_the_frames_are_said(write_dicom, numbered):
    def longer(data):
        data.PixelData += bytes(1000)

    video = read(write_dicom(numbered(10), change=longer))
    assert len(video.times) == 10 and "1000 bytes more than 10 frames" in video.notes[0]

    # One byte that makes the length even is none of these.
    odd = np.zeros((3, 3, 3), np.uint8)
    video = read(write_dicom(odd, change=lambda d: setattr(d, "PixelData", bytes(28))))
    assert video.notes[0].startswith("frames of 3x3") or video.notes == ()


@pytest.mark.parametrize("table", ["basic", "none", "extended", "nonsense"])
@pytest.mark.parametrize("fragments", [1, 3])
def test_offset_tables(write_dicom, numbered, index_of, table, fragments):
    frames = numbered(6)
    encoded = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]

    def change(data):
        if table == "extended":
            data.PixelData, offsets, lengths = encapsulate_extended(encoded)
            data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths = offsets, lengths
            data["PixelData"].is_undefined_length = True
        elif table != "basic":
            pixels = data.PixelData
            length = int.from_bytes(pixels[4:8], "little")
            nonsense = bytes(range(1, 13)) if table == "nonsense" else b""
            head = pixels[:4] + len(nonsense).to_bytes(4, "little") + nonsense
            data.PixelData = head + pixels[8 + length :]
            data["PixelData"].is_undefined_length = True

    path = write_dicom(frames, encoded=encoded, fragments=fragments, change=change, **JPEG)
    video = read(path)
    np.testing.assert_array_equal(index_of(video.frames), np.arange(6))
    said = ("its offset table does not fit its fragments and was put aside",)
    assert video.notes == (said if table == "nonsense" else ())


def test_a_missing_delimiter_is_said(write, index_of):
    path = write("jpeg")
    data = Path(path).read_bytes()
    assert data.endswith(DELIMITER)
    for end in (b"", b"\xfe\xff\xdd\xe0", bytes(8)):
        Path(path).write_bytes(data[:-8] + end)
        video = read(path)
        np.testing.assert_array_equal(index_of(video.frames), np.arange(10))
        assert video.notes == ("its pixel data lacks its end",)


def test_broken_frames(write, index_of):
    path = write("jpeg")
    data = bytearray(Path(path).read_bytes())
    fourth = [at for at in range(len(data)) if data[at : at + 3] == b"\xff\xd8\xff"][4]
    data[fourth + 2 : fourth + 60] = bytes(58)
    Path(path).write_bytes(data)
    with pytest.raises(VideoError, match="frame 5 of 10 cannot be decoded") as caught:
        read(path)
    assert caught.value.remedy == "partial"
    video = read(path, partial=True)
    np.testing.assert_array_equal(index_of(video.frames), [0, 1, 2, 3, 5, 6, 7, 8, 9])
    np.testing.assert_allclose(video.times, np.array([0, 1, 2, 3, 5, 6, 7, 8, 9]) / 25)
    assert video.notes == ("incomplete: 1 of 10 frames are broken",)


def test_frames_of_another_size_are_broken_ones(write_dicom, numbered):
    """The file says 64 x 144, the pictures in it 32 x 72: no decoder is let loose on them."""
    small = np.ascontiguousarray(numbered(3)[:, ::2, ::2])
    encoded = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in small]
    with pytest.raises(VideoError, match="frame 1 of 3 cannot be decoded"):
        read(write_dicom(numbered(3), encoded=encoded, **JPEG))


@pytest.mark.parametrize("kind", KINDS)
def test_frames_that_are_said_to_be_smaller(write, kind):
    """Half the rows: what is left over of each frame is not left out without a word."""
    path = write(kind)
    data = Path(path).read_bytes()
    rows = b"\x28\0\x10\0US\x02\0\x40\0"
    assert data.count(rows) == 1
    Path(path).write_bytes(data.replace(rows, rows[:-2] + b"\x20\0"))
    if kind == "native":
        assert "20 are there" in read(path).notes[0]
    else:
        with pytest.raises(VideoError, match="frame 1 of 10 cannot be decoded"):
            read(path)


STREAMS = (
    (MPEG2MPML, "mpeg2video", "mpeg2video"),
    (MPEG4HP41, "libx264", "h264"),
    (MPEG4HP41, "libx264", "mp4"),
    (MPEG4HP41, "libx264", "mpegts"),
    (MPEG4HP41 + ".1", "libx264", "h264"),
)


@pytest.fixture
def stream_in(write_dicom, numbered):
    """(syntax, codec, container, **) -> path of DICOM with ten frames as a video stream inside."""

    def make(syntax, codec, container, **tags):
        stream = encode_stream(numbered(10), codec, container)
        return write_dicom(numbered(10), "v.dcm", syntax, [stream], **tags)

    return make


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_against_the_number_of_frames(stream_in, index_of, stream):
    video = read(stream_in(*stream))
    np.testing.assert_array_equal(index_of(video.frames), np.arange(10))
    np.testing.assert_allclose(video.times, np.arange(10) / 25, atol=1e-4)
    assert video.notes == ()

    with pytest.raises(VideoError, match="30 frames promised, 10") as caught:
        read(stream_in(*stream, NumberOfFrames=30))
    assert caught.value.remedy == "partial"
    video = read(stream_in(*stream, NumberOfFrames=30), partial=True)
    assert len(video.times) == 10 and "30 frames promised" in video.notes[0]

    for few in (None, 1, 4):
        video = read(stream_in(*stream, NumberOfFrames=few))
        np.testing.assert_array_equal(index_of(video.frames), np.arange(10))
        assert bool(video.notes) == (few is not None)


@pytest.mark.parametrize("container", ["h264", "mp4", "mpegts"])
def test_the_headers_rate_is_for_streams_without_a_clock(stream_in, container):
    path = stream_in(MPEG4HP41, "libx264", container, FrameTime="200")
    video = read(path)
    step = 0.2 if container == "h264" else 0.04
    np.testing.assert_allclose(video.times, np.arange(10) * step, atol=1e-4)
    assert video.notes == ()
    path = stream_in(MPEG4HP41, "libx264", container, FrameTime=None)
    if container == "h264":
        with pytest.raises(VideoError, match="carry no times") as caught:
            read(path)
        assert caught.value.remedy == "frame_rate"
    video = read(path, frame_rate=5.0)
    np.testing.assert_allclose(video.times, np.arange(10) * step, atol=1e-4)


def test_a_stream_that_breaks_off(stream_in):
    path = stream_in(MPEG4HP41, "libx264", "h264")
    data = Path(path).read_bytes()
    fragment = data.rindex(b"\xfe\xff\x00\xe0")
    changed = bytearray(data)
    changed[fragment + 5] ^= 1  # 256 bytes more or less than the fragment has
    for broken in (bytes(changed), data[:-70], data[:-8] + b"\xff" * 8):
        Path(path).write_bytes(broken)
        with pytest.raises(VideoError, match="its video stream breaks off") as caught:
            read(path)
        assert caught.value.remedy == "partial"
        video = read(path, partial=True)
        assert 1 <= len(video.times) <= 10 and "its video stream breaks off" in video.notes[0]
    # All is there but the delimiter.
    Path(path).write_bytes(data[:-8])
    video = read(path)
    assert len(video.times) == 10 and video.notes == ("its pixel data lacks its end",)
