"""Leaks: copies are found whatever was done to their pixels, different recordings are not."""

import itertools

import cv2
import numpy as np
import pytest

from medscope_jax.phantom.procedure import SOURCES, make_procedure
from medscope_jax.phantom.render import render, write_video
from medscope_jax.video.decode import read_video
from tests.tfds_builders.card.card_cases import row
from tfds_builders.card.leaks import find_leaks, near_duplicates, same_questions, same_videos
from tfds_builders.card.near_duplicates import LONGEST, MOST_BITS, Look, compare, look_at

SIZE = (28, 56)


def as_stored(frames, quality=95, size=SIZE):
    """Frames as a suite stores them: resized, JPEG, decoded."""
    stored = []
    for frame in frames:
        small = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
        jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        stored.append(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))
    return np.stack(stored)


def look(frames, times=None, duration=None):
    times = np.arange(len(frames)) if times is None else times
    return look_at(frames, np.asarray(times, float), duration or float(len(frames)))


@pytest.fixture(scope="module")
def procedures():
    """Two procedures of each source, at one frame a second as drawn: {id: frames}."""
    scripts = [make_procedure(0, "train", source, i) for source in SOURCES for i in range(2)]
    return {script.id: np.stack(list(render(script))[::4]) for script in scripts}


@pytest.fixture(scope="module")
def originals(procedures):
    return {name: look(as_stored(frames)) for name, frames in procedures.items()}


@pytest.mark.parametrize(
    ("quality", "size"), [(95, SIZE), (40, SIZE), (80, (56, 112)), (90, (36, 48)), (30, (20, 40))]
)
def test_recoded_and_rescaled_copies_are_near_duplicates(procedures, originals, quality, size):
    for name, frames in procedures.items():
        copy = look(as_stored(frames, quality, size))
        likeness = compare(originals[name], copy)
        assert likeness.same and likeness.counted > 1000
        assert likeness.bits < MOST_BITS / 2, (name, likeness)


def test_different_procedures_are_far_apart(originals):
    for (name_a, a), (name_b, b) in itertools.combinations(originals.items(), 2):
        likeness = compare(a, b)
        assert not likeness.same and likeness.bits > 2 * MOST_BITS, (name_a, name_b, likeness)


def test_a_copy_by_another_codec_and_rate(tmp_path, originals):
    """The whole way: written as MPEG-4, and again as other pixels at another rate."""
    script = make_procedure(0, "train", "endoscopic", 0)
    write_video(script, tmp_path / "first.mp4")
    writer = cv2.VideoWriter(
        str(tmp_path / "second.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 12.0, (200, 120)
    )
    for frame in render(script):
        for _ in range(3):
            writer.write(cv2.resize(frame[..., ::-1], (200, 120)))
    writer.release()
    looks = []
    for name in ("first.mp4", "second.avi"):
        video = read_video(tmp_path / name, 1.0, SIZE)
        looks.append(look_at(as_stored(video.frames), video.times, video.duration))
    likeness = compare(*looks)
    assert likeness.same and likeness.bits < MOST_BITS
    assert compare(looks[0], originals[script.id]).same


def test_looks_are_taken_every_second():
    frames = np.repeat(np.arange(10, dtype=np.uint8)[:, None, None, None] * 20, 3, -1)
    frames = np.broadcast_to(frames, (10, 16, 18, 3))
    fine = look_at(frames, np.arange(10) / 2, 5.0)
    np.testing.assert_array_equal(fine.cells[:, 0, 0], [0, 40, 80, 120, 160])
    coarse = look_at(frames[:3], np.array([0.0, 2.0, 4.0]), 5.5)
    np.testing.assert_array_equal(coarse.cells[:, 0, 0], [0, 0, 20, 20, 40, 40])


def test_a_time_of_years_takes_no_memory():
    """Two pictures, thirty years apart: a day of them is looked at, whatever comes later is not."""
    frames = np.zeros((2, 16, 18, 3), np.uint8)
    long = look_at(frames, np.array([0.0, 1e9]), 1e9 + 1)
    assert len(long.cells) == LONGEST and long.duration == 1e9 + 1
    assert not compare(long.part(2 * LONGEST, 30), long.part(2 * LONGEST, 30)).same


def still(level, seconds=30):
    return Look(np.full((seconds, 8, 9), level, np.uint8), float(seconds))


def test_what_does_not_move_is_judged_by_its_looks(originals):
    assert compare(still(100), still(102)).same
    assert not compare(still(100), still(110)).same
    moving = next(iter(originals.values()))
    picture = np.broadcast_to(moving.cells.mean(axis=0).astype(np.uint8), moving.cells.shape)
    assert not compare(moving, Look(picture, moving.duration)).same


def test_a_video_in_two_splits():
    looks = {("train", "v"): still(1), ("test", "w"): still(200)}
    rows = [row(video="v"), row(video="w", split="test")]
    assert list(same_videos(rows, looks)) == []
    (leak,) = same_videos([*rows, row(video="v", split="test")], looks)
    assert str(leak) == "leak, same video: test: v and train: v"
    (leak,) = same_videos(rows, {**looks, ("validation", "w"): still(200)})
    assert (leak.first, leak.second) == ("test: w", "validation: w")


def test_near_duplicates_between_splits_only(procedures, originals):
    looks = {("train", name): seen for name, seen in originals.items()}
    copied = sorted(procedures)[2]
    copy = look(as_stored(procedures[copied], 50, (40, 60)))
    assert list(near_duplicates({**looks, ("train", "copy"): copy})) == []
    (leak,) = near_duplicates({**looks, ("test", "copy"): copy})
    assert (leak.first, leak.second) == ("test: copy", f"train: {copied}")
    assert leak.kind == "near-duplicate video" and "\n" not in str(leak)
    longer = Look(copy.cells, copy.duration + 5)
    assert list(near_duplicates({**looks, ("test", "copy"): longer})) == []


def test_the_same_question_about_the_same_evidence(originals):
    a, b = sorted(name for name in originals if "ophthalmic" in name)
    looks = {("train", a): originals[a], ("test", b): originals[b]}

    def asked(split, video, start, **changes):
        spans = ((start, start + 4.0),)
        length = originals[a].duration
        values = {"id": f"{split}-{video}-{start}", "spans": spans, "duration": length}
        return row(split=split, video=video, **{**values, **changes})

    train = asked("train", a, 30.0)
    # The same words and the same seconds of another procedure are no leak.
    assert list(same_questions([train, asked("test", b, 30.0)], looks)) == []
    # One video: only with overlapping evidence, and only with the same answer.
    assert len(list(same_questions([train, asked("test", a, 31.0)], looks))) == 1
    assert list(same_questions([train, asked("test", a, 60.0)], looks)) == []
    assert list(same_questions([train, asked("test", a, 30.0, answer="blue")], looks)) == []
    assert list(same_questions([train, asked("train", a, 30.0)], looks)) == []

    # A clip cut out of the training video, under a name and on a clock of its own.
    clip = originals[a].part(22, 30)
    looks["test", "clip"] = clip
    cut = asked("test", "clip", 8.0, duration=30.0, question="what COLOUR")
    (leak,) = find_leaks([train, cut], looks)
    assert leak.kind == "same question" and "looks the same" in leak.detail
    assert {leak.first, leak.second} == {f"test: {cut.id}", f"train: {train.id}"}
    # Its evidence elsewhere is other evidence; grounding answers are times and differ anyway.
    assert list(same_questions([train, asked("test", "clip", 15.0, duration=30.0)], looks)) == []
    grounding = [
        asked("train", a, 30.0, task="grounding", answer="[30.0, 34.0]"),
        asked("test", "clip", 8.0, task="grounding", answer="[8.0, 12.0]", duration=30.0),
    ]
    assert len(list(same_questions(grounding, looks))) == 1


def test_questions_without_evidence_are_no_leak():
    rows = [row(video="v"), row(video="w", split="test")]
    assert list(same_questions(rows, {("train", "v"): still(9), ("test", "w"): still(9)})) == []
    assert len(list(same_questions([rows[0], row(video="v", split="test")], {}))) == 1
