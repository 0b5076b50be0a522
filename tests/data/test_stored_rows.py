"""Videos of a split: their frames are read when they are asked for, or kept where they are few."""

import resource
import subprocess
import sys
from types import SimpleNamespace

import numpy as np

from medscope_jax.data import stored_rows
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.training import run as run_room
from medscope_jax.training.run import load_split


def test_frames_of_a_large_split_stay_stored(data_dir, monkeypatch):
    """Those of a small one are decoded at once; both are the same videos, alone or in pairs."""
    read, stored_row = [], stored_rows.stored_row
    monkeypatch.setattr(stored_rows, "stored_row", lambda *a: read.append(a[1]) or stored_row(*a))
    for pairs in (False, True):
        video = SimpleNamespace(native_pairs=pairs)
        run = SimpleNamespace(config=SimpleNamespace(video=video), suite=ClinvideoReader(data_dir))
        splits = []
        for limit in (2**29, 0):
            read.clear()
            monkeypatch.setattr(run_room, "_KEPT_BYTES", limit)
            splits.append(load_split(run, "train"))
            assert bool(read) == bool(limit)
        kept, stored = splits
        assert kept.rows == stored.rows == {n: i for i, n in enumerate(kept.rows)}
        for at_once, later in zip(kept.videos, stored.videos, strict=True):
            assert isinstance(at_once.frames, np.ndarray)
            assert not isinstance(later.frames, np.ndarray)
            assert (
                later.frames.shape
                == at_once.frames.shape
                == ((8, 2) if pairs else (16,)) + (28, 56, 3)
            )
            np.testing.assert_array_equal(np.asarray(later.frames), at_once.frames)
            np.testing.assert_array_equal(later.times, at_once.times)
            assert later.duration == at_once.duration


def test_a_suite_of_more_files_than_a_shell_allows(data_dir):
    """Every file of rows stays open: the limit is raised to what the process may have."""
    program = f"""
import resource
from medscope_jax.data.clinvideo_reader import ClinvideoReader
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
videos = [ClinvideoReader({str(data_dir)!r}).videos("train") for _ in range(100)]
assert len({{several[0].frames[0].tobytes() for several in videos}}) == 1
"""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] in range(256):
        return  # nothing that could be raised
    subprocess.run([sys.executable, "-c", program], check=True)
