"""When DICOM's frames were taken: vectors that do not fit, pointers to what is no time."""

import numpy as np
import pydicom
import pytest

from medscope_jax.video import VideoError, read_video

SIZE = (64, 144)


@pytest.fixture
def timed(write_dicom, numbered):
    """(tags, **) -> a video of six frames with those tags and no others that say when."""

    def read(tags, **options):
        path = write_dicom(numbered(6), **{"FrameTime": None, **tags})
        return read_video(path, fps=1000.0, size=SIZE, **options)

    return read


def pointer(*keywords):
    return {"FrameIncrementPointer": [pydicom.tag.Tag(keyword) for keyword in keywords]}


VECTOR = "FrameTimeVector"


@pytest.mark.parametrize("tags", [{}, {"RecommendedDisplayFrameRate": "30"}, pointer(VECTOR)])
@pytest.mark.parametrize("before", [[], [0.0], [40.0]])
def test_increments_between_frames_with_and_without_a_first(timed, tags, before):
    """N - 1 increments lie between N frames; of N, the first lies before them all."""
    video = timed({VECTOR: [*before, 100.0, 100.0, 400.0, 100.0, 300.0], **tags})
    np.testing.assert_allclose(video.times, [0.0, 0.1, 0.2, 0.6, 0.7, 1.0])
    assert video.duration == pytest.approx(1.1) and video.notes == ()


@pytest.mark.parametrize("rate", [None, "30"])
def test_frames_at_one_time_follow_by_the_smallest_step(timed, rate):
    video = timed({VECTOR: [0.0, 100, 0.0, 500, 100, 300], "RecommendedDisplayFrameRate": rate})
    np.testing.assert_allclose(video.times, [0.0, 0.1, 0.2, 0.6, 0.7, 1.0])
    assert "FrameTimeVector does not fit (1 of 5 steps are zero)" in video.notes[0]
    video = timed({VECTOR: [0.0, 100, 100, 100, 0.0, 0.0]})
    np.testing.assert_allclose(video.times, [0.0, 0.1, 0.2, 0.3, 0.3 + 1 / 30, 0.3 + 2 / 30])


@pytest.mark.parametrize(
    ("vector", "fault"),
    [
        ([0.0, 40.0, -40.0, 40.0, 40.0, 40.0], "1 of its steps are no step forward"),
        ([0.0, 0.0, 0.0, 40.0, 0.0, 0.0], "4 of 5 steps are zero"),
        ([0.0, 40.0], "2 values for 6 frames"),
        ([0.0, 40.0, 40.0, 40.0, 40.0, 40.0, 40.0], "7 values for 6 frames"),
        ([0.0, float("nan"), 40.0, 40.0, 40.0, 40.0], "no step forward"),
    ],
)
def test_vectors_that_do_not_fit(timed, vector, fault):
    with pydicom.config.disable_value_validation():
        with pytest.raises(VideoError, match=f"without frame times .*{fault}") as caught:
            timed({VECTOR: vector, **pointer(VECTOR)})
        assert caught.value.remedy == "frame_rate"
        # A steady time beside it is taken instead, and said.
        for tag, value, interval in (
            ("FrameTime", "50", 0.05),
            ("CineRate", "8", 0.125),
            ("RecommendedDisplayFrameRate", "20", 0.05),
            ("ActualFrameDuration", "250", 0.25),
        ):
            video = timed({VECTOR: vector, tag: value, **pointer(VECTOR)})
            np.testing.assert_allclose(video.times, np.arange(6) * interval)
            note = video.notes[0]
            assert f"{tag} stands for it" in note and fault in note


def test_a_pointer_to_frame_time_passes_the_vector_over(timed):
    vector = {VECTOR: [0.0, 40.0], "FrameTime": "50", **pointer("FrameTime")}
    video = timed(vector)
    np.testing.assert_allclose(video.times, np.arange(6) * 0.05)
    assert video.notes == ()


@pytest.mark.parametrize("pointed", ["FrameTime", "FrameTimeVector"])
def test_a_pointer_to_what_is_not_there(timed, pointed):
    video = timed({"CineRate": "8", **pointer(pointed)})
    np.testing.assert_allclose(video.times, np.arange(6) / 8)
    said = f"its header points to {pointed} and has none: CineRate stands for it"
    assert video.notes == (said,)


@pytest.mark.parametrize(
    "what",
    [
        ("SliceVector",),
        ("SliceLocation",),
        ("SliceLocationVector",),
        ("ImagePositionPatient",),
        ("PageNumberVector",),
        ("EnergyWindowVector", "DetectorVector", "SliceVector"),
        ("FrameTime", "SliceVector"),
    ],
)
def test_slices_and_pages_are_no_time(timed, what):
    tags = {"FrameTime": "40", "CineRate": "25", **pointer(*what)}
    with pytest.raises(VideoError, match="slices, pages or the like") as caught:
        timed(tags)
    assert caught.value.remedy == "frame_rate"
    video = timed(tags, frame_rate=5.0)
    np.testing.assert_allclose(video.times, np.arange(6) / 5)
    assert video.duration == pytest.approx(1.2)
    assert "those of the given frame rate" in video.notes[0]


def test_no_times_and_a_rate(timed):
    with pytest.raises(VideoError, match="none of FrameTimeVector, FrameTime") as caught:
        timed({})
    assert caught.value.remedy == "frame_rate"
    video = timed({}, frame_rate=10.0)
    np.testing.assert_allclose(video.times, np.arange(6) / 10)
    assert "given frame rate" in video.notes[0]
    # What has times keeps them.
    video = timed({"FrameTime": "40"}, frame_rate=10.0)
    np.testing.assert_allclose(video.times, np.arange(6) / 25)
    assert video.notes == ("the given frame rate is not used: the recording has times of its own",)


@pytest.mark.parametrize("nothing", ["0", "-40", "nan", "inf", "1e-300"])
def test_a_frame_time_that_is_none(timed, nothing):
    with pydicom.config.disable_value_validation():
        video = timed({"FrameTime": nothing, "CineRate": "8"})
    np.testing.assert_allclose(video.times, np.arange(6) / 8)
    assert video.notes == ("FrameTime is no time between frames: CineRate stands for it",)


@pytest.mark.parametrize(
    "tags",
    [
        {"FrameTime": "1e12"},
        {"FrameTime": "1e308"},
        {"CineRate": "1e-9"},
        {VECTOR: [0.0, 1e12, 40.0, 40.0, 40.0, 40.0]},
        {VECTOR: [0.0, 1e308, 1e308, 40.0, 40.0, 40.0]},
    ],
)
def test_years_are_refused(timed, tags):
    with (
        pydicom.config.disable_value_validation(),
        pytest.raises(VideoError, match=r"its times reach .* at most 604,800 s"),
    ):
        timed(tags)
    with pytest.raises(VideoError, match="its times reach"):
        timed({}, frame_rate=1e-9)


def test_a_short_recording_raises_the_rate(write_dicom, numbered):
    path = write_dicom(numbered(20))
    video = read_video(path, fps=1.0, size=SIZE, min_frames=8)
    assert len(video.times) >= 8 and "is too little to see" in video.notes[0]
    assert len(read_video(path, fps=1.0, size=SIZE).times) == 1
