"""Every recording of the corpus is read right: all pictures at their times, or one clear line."""

import functools
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from medscope_jax.video import VideoError, read_video
from medscope_jax.video.frames import tick_frames
from tests.video.corpus import CASES
from tests.video.corpus_case import LOSS
from tests.video.corpus_pictures import block_left, block_of, combing, moving, number_of, picture

READ = [case for case in CASES if case.times is not None]
REFUSED = [case for case in CASES if case.times is None]
JUDGED = [case for case in READ if case.judge is None]
PROBED = [case for case in JUDGED if not case.probe]


def _id(case):
    return case.name


def own_size(height, width):
    return height, width


def every_picture(case):
    """Ticks a second, so many that each picture is the nearest to one."""
    return min(4 / case.half, 2e5) if case.judge is None else 200.0


def check_times(case, times):
    """One of the right lists of times, to half a picture."""
    right = (case.times, *case.alternatives)
    assert any(
        len(times) == len(each) and np.abs(times - np.asarray(each)).max() <= case.allowed
        for each in right
    ), f"times {np.round(times, 4)[:8]}, not {np.round(case.times, 4)[:8]}"


def check_notes(case, notes):
    told = " | ".join(notes)
    if case.note:
        assert re.search(case.note, told), f"no note like {case.note}: {told or 'none at all'}"
    elif not case.doubt:
        assert not re.search(LOSS, told), f"nothing is missing: {told}"


@pytest.mark.parametrize("case", READ, ids=_id)
def test_read_right(case, tmp_path):
    path = case.make(tmp_path)
    video = read_video(path, fps=every_picture(case), size=own_size, **case.options)
    check_notes(case, video.notes)
    if case.look is not None:
        case.look(video.frames)
    if case.judge is not None:
        case.judge(video)
        return
    assert video.native_frames == len(case.times)
    if len(case.shown):
        assert [number_of(frame) for frame in video.frames] == list(case.shown)
    check_times(case, video.times)
    assert video.duration >= video.times[-1]
    # At two pictures a second: those nearest to the ticks, the same pictures.
    few = read_video(path, fps=2.0, size=own_size, **case.options)
    chosen = tick_frames(video.times, video.duration, 2.0)
    assert len(few.times) == len(chosen)
    ticks = np.round(video.times[chosen] * 2) / 2
    # Where two are as near, either.
    off, least = np.abs(few.times - ticks), np.abs(video.times[chosen] - ticks)
    np.testing.assert_allclose(off, least, atol=1e-6)
    same = np.searchsorted(video.times, few.times - 1e-9)
    np.testing.assert_array_equal(few.frames, video.frames[same])


@pytest.mark.parametrize("case", REFUSED, ids=_id)
def test_refused_in_one_line(case, tmp_path, capfd):
    path = case.make(tmp_path)
    with pytest.raises(VideoError, match=case.refused) as caught:
        read_video(path, fps=100.0, size=own_size, **case.options)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    assert capfd.readouterr().err == ""


@functools.cache
def _ffprobe():
    found = shutil.which("ffprobe")
    if found is None:
        pytest.skip("ffprobe is not here to compare with")
    return found


@pytest.mark.reference
@pytest.mark.parametrize("case", PROBED, ids=_id)
def test_right_values_are_ffprobes(case, tmp_path):
    """The corpus itself: FFmpeg's own tool sees these pictures at these times."""
    entries = "format=start_time:frame=best_effort_timestamp_time"
    command = [_ffprobe(), "-v", "error", "-select_streams", "V:0", "-show_entries", entries]
    told = subprocess.run(
        [*command, "-of", "json", str(case.make(tmp_path))], capture_output=True, timeout=60
    )
    seen = json.loads(told.stdout)
    stamps = [float(frame["best_effort_timestamp_time"]) for frame in seen["frames"]]
    check_times(case, np.array(stamps) - float(seen["format"].get("start_time", 0)))


def test_a_woven_picture_is_seen():
    """The judge itself: two fields of two times make a comb, one field does not."""
    for number in range(40):
        woven = moving(number)
        assert combing(woven) >= 1
        assert combing(woven[::2].repeat(2, axis=0)) == 0
        assert number_of(woven) == number_of(picture(number)) == number
        assert block_of(woven[::2].repeat(2, axis=0)) == block_left(2 * number, woven.shape[1])


def test_the_corpus_is_large():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 60
