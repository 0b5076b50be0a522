"""Memory does not grow with a recording's length, beyond what is returned."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
# A process of its own: the peak of this one says nothing. (getrusage's outlasts exec.)
READ = """
import re, sys
from pathlib import Path
from medscope_jax.video.decode import iter_frames, read_video

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

path, side = sys.argv[1], int(sys.argv[2])
stream = iter_frames(path, 1.0, (side, side))
total, streamed = sum(1 for _ in stream), peak()
video = read_video(path, 1.0, (side, side))
print(total, stream.ending.native_frames, streamed, peak() - video.frames.nbytes, peak())
"""
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc"
)


def measure(path, side):
    """Frames; native frames; bytes at the peak: streamed, collected less those returned, in all."""
    command = [sys.executable, "-c", READ, str(path), str(side)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return list(map(int, done.stdout.split()))


def large(_):
    return np.zeros((240, 320, 3), np.uint8)


def test_four_minutes_take_what_one_takes(write_video):
    peaks = []
    for minutes in (1, 4):
        path = write_video(f"{minutes}.mp4", fps=4.0, count=240 * minutes, frame=large)
        total, native, *peak, _ = measure(path, 224)
        assert (total, native) == (60 * minutes, 240 * minutes)
        peaks.append(np.array(peak))
    # 720 more frames of 0.23 MB were decoded, 180 more of 0.15 MB returned.
    assert (peaks[1] - peaks[0] < 16e6).all(), peaks


@pytest.mark.slow
def test_two_hours_stay_under_a_gigabyte(write_video):
    path = write_video("long.mp4", fps=25.0, count=2 * 3600 * 25, frame=large)
    minute = measure(write_video("short.mp4", fps=25.0, count=60 * 25, frame=large), 112)
    total, native, streamed, collected, peak = measure(path, 112)
    assert (total, native) == (7200, 180_000)
    assert peak < 1e9, peak
    # The list of 180,000 times takes some, too.
    assert streamed - minute[2] < 64e6 and collected - minute[3] < 64e6, (minute, streamed, peak)
    print(f"resident at most: {streamed / 1e6:.0f} MB streamed, {peak / 1e6:.0f} MB collected")
