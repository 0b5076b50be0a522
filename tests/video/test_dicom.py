import logging
import traceback
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom import examples
from pydicom.uid import MPEG2MPML, JPEGBaseline8Bit, JPEGLSLossless

from medscope_jax.video import VideoError, read_video
from tests.video.dicom_cases import bare_stream

SIZE = (64, 144)


def test_the_real_ultrasound_clip_that_pydicom_ships():
    path = examples.get_path("ybr_color")
    video = read_video(path, fps=10.0, size=(240, 320))
    assert video.native_frames == 30
    assert video.duration == pytest.approx(0.99999)
    np.testing.assert_array_equal(np.round(video.times / 0.033333), np.arange(0, 30, 3))
    reference = pydicom.pixels.pixel_array(path, decoding_plugin="pillow")
    # At full size, colours and order are pydicom's own.
    assert np.abs(video.frames.astype(int) - reference[::3].astype(int)).max() <= 1


def test_jpeg_compressed_frames_are_never_dropped(write_dicom, numbered, index_of):
    frames = numbered(60)
    encoded = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]
    path = write_dicom(
        frames,
        "clip.mp4",  # the name must not matter: OpenCV opens such files and loses frames
        JPEGBaseline8Bit,
        encoded,
        PhotometricInterpretation="YBR_FULL_422",
        LossyImageCompression="01",
    )
    video = read_video(path, fps=25.0, size=SIZE)
    np.testing.assert_array_equal(index_of(video.frames), np.arange(60))
    np.testing.assert_allclose(video.times, np.arange(60) / 25)
    assert video.duration == pytest.approx(60 / 25)


def test_uncompressed_rgb(write_dicom, index_of):
    frames = np.zeros((10, 32, 64, 3), np.uint8)
    frames[..., 0] = np.arange(10)[:, None, None] * 20
    video = read_video(write_dicom(frames), fps=25.0, size=(32, 64))
    np.testing.assert_array_equal(video.frames, frames)


def test_frame_time_vector(write_dicom, numbered, index_of):
    steps = [0.0, 100, 100, 900, 100, 800, 1000, 50]
    path = write_dicom(
        numbered(8),
        FrameTime=None,
        FrameTimeVector=steps,
        FrameIncrementPointer=pydicom.tag.Tag("FrameTimeVector"),
    )
    video = read_video(path, fps=1.0, size=SIZE)
    times = np.cumsum(steps) / 1000
    np.testing.assert_array_equal(index_of(video.frames), [0, 3, 5, 6])
    np.testing.assert_allclose(video.times, times[[0, 3, 5, 6]])
    assert video.duration == pytest.approx(times[-1] + 0.1)


@pytest.mark.parametrize(
    ("tags", "interval"),
    [
        ({"FrameTime": "33.3"}, 0.0333),
        ({"FrameTime": "0", "CineRate": "8"}, 0.125),
        ({"FrameTime": None, "RecommendedDisplayFrameRate": "20"}, 0.05),
        ({"FrameTime": None, "ActualFrameDuration": "250"}, 0.25),
    ],
)
def test_steady_times(write_dicom, numbered, tags, interval):
    video = read_video(write_dicom(numbered(6), **tags), fps=1 / interval, size=SIZE)
    np.testing.assert_allclose(video.times, np.arange(6) * interval)
    assert video.duration == pytest.approx(6 * interval)


def test_window_rescale_and_inversion(write_dicom):
    ramp = np.tile(np.arange(0, 4096, 64, dtype=np.uint16), (2, 8, 1))
    tags = {"BitsStored": 12, "HighBit": 11, "RescaleSlope": "2", "RescaleIntercept": "-1000"}
    path = write_dicom(ramp, WindowCenter="1000", WindowWidth="2000", **tags)
    grey = read_video(path, fps=25.0, size=(8, 64)).frames
    values = 2.0 * ramp - 1000
    # DICOM PS3.3 C.11.2.1.2.1, linear.
    expected = np.clip(((values - 999.5) / 1999 + 0.5) * 255, 0, 255)
    np.testing.assert_allclose(grey[..., 0], expected, atol=0.51)
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 0] == grey[..., 2]).all()

    path = write_dicom(
        ramp,
        WindowCenter="1000",
        WindowWidth="2000",
        PhotometricInterpretation="MONOCHROME1",
        **tags,
    )
    np.testing.assert_array_equal(read_video(path, fps=25.0, size=(8, 64)).frames, 255 - grey)


def test_deep_grey_without_a_window_uses_one_range_for_all_frames(write_dicom):
    frames = np.zeros((3, 8, 16), np.int16)
    frames[0], frames[1], frames[2] = -500, 0, 1500
    video = read_video(write_dicom(frames), fps=25.0, size=(8, 16))
    np.testing.assert_array_equal(video.frames[:, 0, 0, 0], [0, 64, 255])


def test_plain_8_bit_grey_stays_as_it_is(write_dicom):
    frames = np.tile(np.arange(40, 200, 10, dtype=np.uint8), (3, 8, 1))
    video = read_video(write_dicom(frames), fps=25.0, size=(8, 16))
    np.testing.assert_array_equal(video.frames[..., 1], frames)


def test_thinning_is_said(write_dicom, numbered, index_of):
    video = read_video(write_dicom(numbered(20)), fps=25.0, size=SIZE, max_frames=3)
    assert len(video.times) == 3
    assert "20 frames" in video.notes[0] and "thinned" in video.notes[0]


def test_mpeg_stream_inside_dicom(write_dicom, write_video, index_of):
    stream = Path(write_video(fps=5.0, count=30)).read_bytes()
    path = write_dicom(np.zeros((30, 64, 144, 3), np.uint8), "v.dcm", MPEG2MPML, [stream])
    video = read_video(path, fps=1.0, size=SIZE)
    np.testing.assert_array_equal(index_of(video.frames), np.arange(0, 30, 5))


def _refusals(write_dicom, numbered, tmp_path):
    """(what, path, pattern) of every kind of DICOM that cannot be used, identifiers planted."""
    frames = numbered(10)
    yield write_dicom(frames[:1], "one.dcm"), "single image"
    yield write_dicom(frames, "timeless.dcm", FrameTime=None), "without frame times"
    yield write_dicom(frames, "zero.dcm", FrameTime="0"), "without frame times"
    yield write_dicom(frames, "liar.dcm", NumberOfFrames=12), "12 frames promised, 10 there"
    whole = write_dicom(frames, "cut.dcm")
    data = Path(whole).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(data[: int(len(data) * 0.55)])
    yield whole, "10 frames promised, 5 there"
    (tmp_path / "stub.dcm").write_bytes(data[:400])
    yield str(tmp_path / "stub.dcm"), "DICOM"
    encoded = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]
    jpeg = {"syntax": JPEGBaseline8Bit, "PhotometricInterpretation": "YBR_FULL_422"}
    yield (
        write_dicom(frames, "few.dcm", encoded=encoded[:7], **jpeg),
        "10 frames promised, 7 there",
    )
    broken = [*encoded[:6], b"\xff\xd8" + bytes(400), *encoded[7:]]
    yield write_dicom(frames, "broken.dcm", encoded=broken, **jpeg), "frame 7 of 10"
    jls = write_dicom(frames, "jls.dcm", JPEGLSLossless, [bytes(400)] * 10)
    yield jls, "python -m pip install pylibjpeg|frame 1 of 10"
    yield (
        write_dicom(frames, "colour.dcm", PhotometricInterpretation="YBR_PARTIAL_420"),
        "colours",
    )
    # A name that slipped into a number: pydicom's own error would quote it.
    for name, tag, pattern in (
        ("time.dcm", "FrameTime", "frame times .those in its header are no numbers"),
        ("count.dcm", "NumberOfFrames", "number of frames is unreadable"),
        ("window.dcm", "WindowCenter", "colours cannot be interpreted"),
    ):
        path = Path(write_dicom(frames[..., 0], name, WindowWidth="8", **{tag: "12345678"}))
        path.write_bytes(path.read_bytes().replace(b"12345678", b"Doe^Plan"))
        yield str(path), pattern


def test_no_identifier_in_any_message(write_dicom, numbered, tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    seen = []
    with pydicom.config.disable_value_validation():
        cases = list(_refusals(write_dicom, numbered, tmp_path))
    for path, pattern in cases:
        with pytest.raises(VideoError, match=pattern) as caught:
            read_video(path, fps=25.0, size=SIZE)
        assert "\n" not in str(caught.value)
        seen.append("".join(traceback.format_exception(caught.value)))
    video = read_video(write_dicom(numbered(3)), fps=25.0, size=SIZE)
    seen += [repr(video), caplog.text, *capfd.readouterr()]
    for text in seen:
        for secret in ("Doe", "PLANTED", "Planted", "planted", "19480229"):
            assert secret not in text


def test_burned_in_annotation_is_said(write_dicom, numbered):
    path = write_dicom(numbered(3), BurnedInAnnotation="YES")
    assert "burned into the pixels" in read_video(path, fps=25.0, size=SIZE).notes[0]


def test_dicom_without_images():
    with pytest.raises(VideoError, match="without images"):
        read_video(examples.get_path("rt_plan"), fps=1.0, size=SIZE)


def test_still_images_that_pydicom_ships():
    for name in ("ct", "mr", "rgb_color", "palette_color", "jpeg2k"):
        with pytest.raises(VideoError, match="single image"):
            read_video(examples.get_path(name), fps=1.0, size=SIZE)


def test_a_bare_stream_inside_dicom_takes_the_headers_rate(write_dicom, write_video, index_of):
    """MPEG-2 pictures on end, as recorders store them: what FrameTime says is their clock."""
    stream = bare_stream(write_video("clip.avi", "MPG2", fps=25.0, count=30))
    frames = np.zeros((30, 64, 144, 3), np.uint8)
    path = write_dicom(frames, "v.dcm", MPEG2MPML, [stream], FrameTime="200")
    video = read_video(path, fps=1.0, size=SIZE)
    np.testing.assert_array_equal(index_of(video.frames), np.arange(0, 30, 5))
    np.testing.assert_allclose(video.times, np.arange(6), atol=1e-6)
    assert video.duration == pytest.approx(6.0)
