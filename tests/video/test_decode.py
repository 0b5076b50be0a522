import dataclasses
import pathlib
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from pydicom import examples

from medscope_jax.video import preview_indices, read_video
from medscope_jax.video.frames import fit_frame, tick_frames

SIZE = (64, 144)


@pytest.mark.parametrize("fps", [25.0, 29.97, 12.5, 5.0])
@pytest.mark.parametrize(
    ("name", "codec"), [("clip.mp4", "mp4v"), ("clip.avi", "MJPG"), ("clip.mkv", "FFV1")]
)
def test_each_tick_gets_the_frame_nearest_to_it(write_video, index_of, name, codec, fps):
    count = round(6.4 * fps)
    video = read_video(write_video(name, codec, fps, count), fps=1.0, size=SIZE)
    shown = index_of(video.frames)

    # Half a frame would be 1 / (2 fps); Matroska counts in milliseconds.
    np.testing.assert_allclose(video.times, shown / fps, atol=6e-4)
    ticks = np.arange(7)
    assert len(shown) == len(ticks)
    for tick, index in zip(ticks, shown, strict=True):
        assert abs(index / fps - tick) <= abs(np.arange(count) / fps - tick).min() + 1e-3
    assert video.duration == pytest.approx(count / fps, abs=2e-3)
    assert video.native_frames == count
    assert video.notes == ()


def test_times_are_never_index_over_rounded_rate(write_video):
    # After 280 frames at 29.97 a reader that rounds to 30 is already a quarter of a frame off.
    video = read_video(write_video(fps=29.97, count=290), fps=1.0, size=SIZE)
    assert video.times[-1] == pytest.approx(270 / 29.97, abs=1e-4)


def test_variable_frame_rate(write_video, patch_mp4, index_of):
    path = write_video(fps=5.0, count=20)
    scale = patch_mp4.time_scale(path)
    seconds = [0.2] * 5 + [1.0] * 5 + [0.05] * 5 + [3.0] * 5
    ticks = [round(s * scale) for s in seconds]
    patch_mp4.set_durations(path, ticks)
    starts = np.concatenate([[0], np.cumsum(ticks)]) / scale

    video = read_video(path, fps=1.0, size=SIZE)
    shown = index_of(video.frames)
    np.testing.assert_allclose(video.times, starts[shown], atol=1e-6)
    np.testing.assert_array_equal(shown, tick_frames(starts[:-1], starts[-1], 1.0))
    # The end is the end of the last frame, which lasts three seconds.
    assert video.duration == pytest.approx(starts[-1], abs=1e-6)
    assert video.notes == ()


def test_a_recording_slower_than_the_bank_gives_each_frame_once(write_video, index_of):
    video = read_video(write_video(fps=5.0, count=12), fps=30.0, size=SIZE)
    np.testing.assert_array_equal(index_of(video.frames), np.arange(12))
    assert (np.diff(video.times) > 0).all()


def test_one_frame(write_video):
    video = read_video(write_video(fps=5.0, count=1), fps=1.0, size=SIZE)
    assert video.frames.shape == (1, *SIZE, 3)
    np.testing.assert_allclose([video.times[0], video.duration], [0.0, 0.2], atol=1e-6)


def test_thinning_is_even_and_said(write_video, index_of):
    path = write_video(fps=5.0, count=100)
    whole = read_video(path, fps=1.0, size=SIZE)
    thin = read_video(path, fps=1.0, size=SIZE, max_frames=7)
    keep = preview_indices(len(whole.times), 7)
    np.testing.assert_array_equal(thin.times, whole.times[keep])
    np.testing.assert_array_equal(index_of(thin.frames), index_of(whole.frames)[keep])
    assert thin.duration == whole.duration
    assert "20 frames" in thin.notes[0] and "thinned evenly to 7" in thin.notes[0]
    assert read_video(path, fps=1.0, size=SIZE, max_frames=20).notes == ()


def test_frames_are_rgb(write_video):
    def red(_):
        return np.broadcast_to(np.array([0, 0, 255], np.uint8), (64, 144, 3)).copy()  # BGR

    video = read_video(write_video(frame=red), fps=1.0, size=(28, 56))
    assert video.frames.shape == (2, 28, 56, 3)
    assert video.frames.dtype == np.uint8
    assert video.frames[..., 0].min() > 240 and video.frames[..., 1:].max() < 15


def test_odd_size(write_video):
    def grey(_):
        return np.full((63, 145, 3), 128, np.uint8)

    video = read_video(write_video("odd.avi", "MJPG", frame=grey), fps=1.0, size=(28, 56))
    assert abs(video.frames.astype(int) - 128).max() < 4


def test_a_turned_recording_is_upright(write_video, patch_mp4):
    def top_white(_):
        frame = np.full((64, 64, 3), 20, np.uint8)
        frame[:32] = 235
        return frame

    path = write_video(frame=top_white)
    patch_mp4.rotate(path)
    frame = read_video(path, fps=1.0, size=(64, 64)).frames[0]
    # Turned clockwise by 90 degrees: what was on top is on the right.
    assert frame[:, :24].mean() < 40 and frame[:, 40:].mean() > 215


def test_gross_aspect_is_letterboxed_and_said(write_video):
    def white(_):
        return np.full((160, 64, 3), 255, np.uint8)

    video = read_video(write_video(frame=white), fps=1.0, size=(28, 56))
    assert "letterboxed" in video.notes[0]
    inside = video.frames[0].mean(axis=(0, 2)) > 200
    assert inside.sum() == round(28 * 64 / 160)
    assert video.frames[0][:, ~inside].max() == 0


def test_plain_resize_stretches_and_averages():
    frame = np.zeros((4, 6, 3), np.uint8)
    frame[:, ::2] = 200
    assert (fit_frame(frame, (2, 3)) == 100).all()
    assert fit_frame(frame, (8, 12)).shape == (8, 12, 3)


@pytest.mark.parametrize("kind", ["mp4", "dicom", "folder"])
def test_bicubic_frames_are_pillows(write_video, tmp_path, kind):
    """Of any source: its native pixels, resized as the reference processor resizes."""
    path, rate = write_video(fps=5.0, count=6), None
    if kind == "dicom":
        path = examples.get_path("ybr_color")
    if kind == "folder":
        path, rate = tmp_path / "pictures", 1.0
        path.mkdir()
        picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(picture).save(path / "1.png")
    native = read_video(path, 1.0, lambda h, w: (h, w), frame_rate=rate).frames
    video = read_video(path, 1.0, (28, 56), frame_rate=rate, resample="bicubic")
    for ours, frame in zip(video.frames, native, strict=True):
        theirs = Image.fromarray(frame).resize((56, 28), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(ours, theirs)
    assert (video.frames != read_video(path, 1.0, (28, 56), frame_rate=rate).frames).any()


def test_edit_list_hides_frames_on_purpose(write_video, patch_mp4):
    path = write_video(fps=5.0, count=50)
    patch_mp4.show_seconds(path, 4.0)
    video = read_video(path, fps=1.0, size=SIZE)
    assert video.duration < 5.0
    assert "edit list" in video.notes[0]


def test_names_that_look_like_protocols_or_patterns(write_video, monkeypatch, tmp_path):
    write_video("a:b%03d.mp4", count=5)
    monkeypatch.chdir(tmp_path)
    assert read_video("a:b%03d.mp4", fps=1.0, size=SIZE).native_frames == 5
    assert read_video(pathlib.Path("a:b%03d.mp4"), fps=1.0, size=SIZE).native_frames == 5


def test_the_name_does_not_decide(write_video):
    path = pathlib.Path(write_video(count=5))
    renamed = path.rename(path.with_suffix(".dcm"))
    assert read_video(renamed, fps=1.0, size=SIZE).native_frames == 5


def test_an_understated_count_loses_nothing(write_video, index_of):
    path = write_video("clip.avi", "MJPG", 5.0, 40)
    data = bytearray(pathlib.Path(path).read_bytes())
    struct.pack_into("<I", data, data.index(b"avih") + 24, 10)
    struct.pack_into("<I", data, data.index(b"strh") + 40, 10)
    pathlib.Path(path).write_bytes(data)
    video = read_video(path, fps=1.0, size=SIZE)
    assert video.native_frames == 40
    np.testing.assert_array_equal(index_of(video.frames), np.arange(0, 40, 5))


def test_only_kept_frames_are_in_memory(write_video):
    def large(_):
        return np.zeros((480, 640, 3), np.uint8)

    path = write_video(fps=25.0, count=250, frame=large)
    tracemalloc.start()
    read_video(path, fps=1.0, size=(28, 56))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * 480 * 640 * 3  # a few frames, not 250


def test_bad_arguments(write_video):
    path = write_video(count=5)
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="fps"):
            read_video(path, fps=bad, size=SIZE)
    with pytest.raises(ValueError, match="size"):
        read_video(path, fps=1.0, size=(0, 56))
    with pytest.raises(ValueError, match="max_frames"):
        read_video(path, fps=1.0, size=SIZE, max_frames=0)


def test_tick_frames_by_hand():
    times = np.array([0, 0.3, 0.8, 1.1, 1.9, 2.0])
    np.testing.assert_array_equal(tick_frames(times, 2.4, 1.0), [0, 3, 5])
    np.testing.assert_array_equal(tick_frames(times, 2.4, 1.0, max_frames=2), [0, 5])
    # A tie goes to the earlier frame; a duration a hair over a tick adds none.
    np.testing.assert_array_equal(tick_frames(np.array([0.0, 0.8, 1.2]), 1.6, 1.0), [0, 1])
    np.testing.assert_array_equal(tick_frames(np.arange(4.0), 4 + 1e-9, 1.0), [0, 1, 2, 3])


def test_preview_indices():
    np.testing.assert_array_equal(preview_indices(9, 3), [0, 4, 8])
    np.testing.assert_array_equal(preview_indices(2, 12), [0, 1])
    assert preview_indices(9, 3).dtype == np.int32
    assert len(preview_indices(0, 3)) == 0


def test_video_is_frozen(write_video):
    video = read_video(write_video(count=5), fps=1.0, size=SIZE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        video.duration = 1.0
