"""Building a bank: killed, interrupted, out of disk; what can't be stored; the memory it takes."""

import dataclasses
import errno
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

from medscope_jax.bank.bank_build import build_bank
from medscope_jax.bank.bank_store import FrameSource, source_of
from medscope_jax.errors import UserError
from medscope_jax.video import Video
from tests.bank.stored_cases import (
    BATCH,
    HASH,
    MANY,
    SIZE,
    bits,
    build,
    changed,
    contents,
    encoder,
    load,
    make_videos,
)

JOB = """
import sys, time
from pathlib import Path
from tests.bank import stored_cases as case
encode = case.encoder()
def slow(frames):
    print("batch", flush=True)
    time.sleep(0.04)
    return encode(frames)
case.build(Path(sys.argv[1]), case.make_videos(case.MANY), "int8", slow)
"""


@pytest.mark.invariant
def test_killed_builds_end_with_the_very_bytes(tmp_path):
    """SIGKILL at random moments: finished videos stay untouched, at most one is half-written."""
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    videos = make_videos(MANY)
    build(whole, videos, "int8")
    expected = contents(whole)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    dice, kept, kills = random.Random(0), {}, 0
    for _ in range(4):
        job = subprocess.Popen(
            [sys.executable, "-c", JOB, str(folder)], env=environment, stdout=subprocess.PIPE
        )
        for _ in range(dice.randint(2, 7)):
            job.stdout.readline()
        time.sleep(dice.uniform(0, 0.06))
        kills += job.poll() is None
        job.send_signal(signal.SIGKILL)
        job.communicate()
        left = contents(folder)
        assert sum(name.endswith(".partial") for name in left) <= 1
        for name, data in left.items():
            assert name.endswith(".partial") or data == expected[name]
        for name, stamp in kept.items():
            assert (folder / name).stat().st_mtime_ns == stamp
        finished = folder.glob("*.array_record")
        kept = {path.name: path.stat().st_mtime_ns for path in finished}
    assert kills >= 2 and len(kept) > 2
    built = build(folder, videos, "int8")
    assert built.kept == len(kept) and not built.remade
    assert contents(folder) == expected


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_build_leaves_no_litter(tmp_path, stop):
    calls = []

    def encode(frames):
        calls.append(frames)
        if len(calls) == 3:
            raise stop
        return encoder()(frames)

    with pytest.raises(stop):
        build(tmp_path, make_videos(), encode=encode)
    assert sorted(contents(tmp_path)) == ["video-0.array_record"]
    (tmp_path / "gone.array_record.partial").write_bytes(b"of a video that nobody asks for now")
    assert build(tmp_path, make_videos()).kept == 1
    assert not list(tmp_path.glob("*.partial"))


def test_a_full_disk_is_one_line_and_keeps_finished_videos(tmp_path, monkeypatch):
    sync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 2:  # a file and its folder are synced for each video
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="disk full while storing the bank of video video-1"):
            build(tmp_path, make_videos())
    assert sorted(contents(tmp_path)) == ["video-0.array_record"]


def test_memory_does_not_grow_with_videos(tmp_path):
    """Ten times as many and longer videos: the host's arrays peak at about the same."""

    def read(start, stop):
        return np.full((stop - start, 64, 64, 3), 7, np.uint8)

    def sources(count, length):
        for v in range(count):
            yield FrameSource(f"v{v}", np.arange(length) / 1.0, float(length), read)

    def encode(frames):
        return np.full((len(frames), 16, 64), np.float32(1.5))

    size = dataclasses.replace(SIZE, height=64, width=64)
    peaks = []
    for count, length in ((1, 1), (2, 50), (2, 1000), (40, 50)):
        tracemalloc.start()
        folder = tmp_path / f"{count}x{length}"
        build_bank(folder, sources(count, length), encode, BATCH, size, HASH)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    frames, tokens = 1000 * 64 * 64 * 3, 1000 * 16 * 64 * 4  # bytes of one long video
    assert max(peaks[2:]) < peaks[1] + 0.1 * min(frames, tokens), peaks


def test_what_can_not_be_stored_is_one_line(tmp_path):
    videos = make_videos((3,))
    video = videos["video-0"]
    for name in ("../up", "", ".hidden", "a b", "a/b"):
        with pytest.raises(UserError, match="is no id of a video"):
            build(tmp_path, {name: video})
    with pytest.raises(UserError, match="can't be stored as 'int4' .did you mean 'int8'"):
        build(tmp_path, videos, "int4")
    with pytest.raises(UserError, match="has no frames"):
        build(tmp_path, {"v": Video(video.frames[:0], video.times[:0], 1.0)})
    with pytest.raises(
        UserError, match="video v: frames 0 to 2 are .* must be uint8 and each \\[4, 6, 3\\]"
    ):
        build(tmp_path, {"v": changed(video, frames=video.frames[:, 1:])})
    source = source_of("v", video)
    with pytest.raises(UserError, match="two videos have the id v"):
        build_bank(tmp_path, [source, source], encoder(), BATCH, SIZE, HASH)
    with pytest.raises(UserError, match="video v: the vision tower gives values that are not fin"):
        build(tmp_path, {"v": video}, encode=lambda f: encoder()(f) * np.float32(np.nan))
    with pytest.raises(ValueError, match="batch_frames"):
        build_bank(tmp_path, [source], encoder(), 0, SIZE, HASH)
    assert not contents(tmp_path)
    build(tmp_path, {"a": video}, "float32")
    build(tmp_path, {"b": video}, "int8")
    built = build(tmp_path, {"a": video}, "float32")
    key = dataclasses.replace(built.key, videos={"a": "", "b": ""})
    with pytest.raises(UserError, match="no bank of video c"):
        load(tmp_path, dataclasses.replace(key, videos={"c": ""}), {"c": video})
    key = dataclasses.replace(key, videos=dict.fromkeys("ab", built.key.videos["a"]))
    with pytest.raises(UserError, match="holds banks of several types"):
        bits(load(tmp_path, key, {"a": video, "b": video}))
    bank = load(tmp_path, key, {"a": video, "b": video}, dtype="float32")
    assert bank.padded().tokens.shape[0] == 2
