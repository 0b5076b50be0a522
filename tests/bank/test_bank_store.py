"""Stored banks: the bits of make_bank, whatever was killed, damaged or changed on the way."""

import dataclasses
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.bank import make_bank
from medscope_jax.bank.bank_build import build_bank
from medscope_jax.bank.bank_codec import pack, unpack
from medscope_jax.bank.bank_key import Preprocessing, weights_hash
from medscope_jax.bank.bank_store import FrameSource, load_bank, source_of
from medscope_jax.errors import UserError
from medscope_jax.video import Video, pair_frames
from medscope_jax.video.lazy_frames import LazyFrames

HEIGHT, WIDTH, S, D, BATCH = 4, 6, 2, 8, 16
SIZE = Preprocessing(HEIGHT, WIDTH, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
LENGTHS = (3, 70, 1, 40, 5)
WEIGHT = np.random.default_rng(1).normal(size=(HEIGHT * WIDTH * 3, S * D)).astype(np.float32)
HASH = weights_hash({"weight": WEIGHT}, {"dtype": "float32"})


def make_videos(lengths=LENGTHS):
    rng = np.random.default_rng(0)
    return {
        f"video-{v}": Video(
            frames=rng.integers(0, 256, (n, HEIGHT, WIDTH, 3), dtype=np.uint8),
            times=np.arange(n) * 0.1 + v / 3,
            duration=n * 0.1 + 1 / 7,
        )
        for v, n in enumerate(lengths)
    }


def stamp_ids(times):
    return [[int(10 * t)] * (1 + int(10 * t) % 2) for t in times]


class LazyCopy(LazyFrames):
    """Frames that are an array only when they are asked for."""

    def __init__(self, frames):
        self._frames = frames

    @property
    def shape(self):
        return self._frames.shape

    def read(self, frames):
        return self._frames[frames]


def encoder(dtype="float32", seen=None):
    """Tokens that tell the batch: a frame's depend on its place and on every frame beside it."""

    def encode(frames):
        if seen is not None:
            seen.append(frames.shape)
        flat = frames.reshape(len(frames), -1) / np.float32(255) - 0.5
        place = np.arange(len(frames), dtype=np.float32)[:, None] / 64
        tokens = np.tanh(flat @ WEIGHT / 4 + place + flat.mean())
        return tokens.reshape(-1, S, D).astype(jnp.dtype(dtype))

    return encode


def build(folder, videos, dtype="bfloat16", encode=None, size=SIZE, weights=HASH):
    sources = (source_of(name, video) for name, video in videos.items())
    return build_bank(folder, sources, encode or encoder(), BATCH, size, weights, dtype)


def contents(folder):
    """The bytes of every file that a reader may see."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def load(folder, key, videos, names=None, *rest, **options):
    """load_bank of some of these videos, all of them by default."""
    sources = [source_of(name, videos[name]) for name in names or videos]
    return load_bank(folder, key, sources, stamp_ids, *rest, **options)


def bits(bank):
    return [
        (leaf.dtype.name, leaf.shape, np.asarray(leaf).tobytes())
        for leaf in jax.tree.leaves(bank.padded())
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stored_bank_is_make_banks_bit_for_bit(tmp_path, dtype):
    videos, seen = make_videos(), []
    built = build(tmp_path, videos, dtype, encoder(dtype, seen))
    assert set(seen) == {(BATCH, HEIGHT, WIDTH, 3)} and len(seen) == -(-sum(LENGTHS) // BATCH)
    assert (built.made, built.kept, built.error.relative_rms) == (len(videos), 0, 0)

    expected = make_bank(encoder(dtype), list(videos.values()), stamp_ids, BATCH)
    assert expected.tokens.dtype == jnp.dtype(dtype)
    assert bits(load(tmp_path, built.key, videos)) == bits(expected)
    wide = make_bank(encoder(dtype), list(videos.values()), stamp_ids, BATCH, 80, 5)
    assert bits(load(tmp_path, built.key, videos, None, 80, 5)) == bits(wide)

    again = build(tmp_path, videos, dtype, lambda frames: pytest.fail("encoded again"))
    assert (again.made, again.kept, again.key) == (0, len(videos), built.key)


def test_pairs_of_frames_are_stored_as_pairs(tmp_path):
    """Native video mode; an odd video's last frame stands for both of its pair."""
    videos = make_videos((3, 40, 1))
    in_pairs = []
    for video in videos.values():
        whole = [*video.frames, *video.frames[-1:]][: -(-len(video.frames) // 2) * 2]
        frames = np.stack([np.stack(pair) for pair in zip(whole[::2], whole[1::2], strict=True)])
        in_pairs.append(Video(frames, video.times[::2], video.duration))

    def encode(pairs):
        return encoder()(pairs.mean(axis=1).astype(np.float32))

    size = dataclasses.replace(SIZE, pairs=True)
    lazy = {name: changed(v, frames=LazyCopy(v.frames)) for name, v in videos.items()}
    sources = [source_of(name, pair_frames(video)) for name, video in lazy.items()]
    built = build_bank(tmp_path, sources, encode, BATCH, size, HASH, "float32")
    expected = make_bank(encode, in_pairs, stamp_ids, BATCH)
    in_pairs = dict(zip(videos, in_pairs, strict=True))
    assert bits(load(tmp_path, built.key, in_pairs)) == bits(expected)
    # The same video, paired before or while it is read.
    again = build(tmp_path, in_pairs, "float32", encode, size)
    assert (again.kept, again.key) == (3, built.key)
    with pytest.raises(UserError, match="of other preprocessing .pairs True there, False here.;"):
        load(tmp_path, dataclasses.replace(built.key, preprocessing=SIZE), in_pairs)
    with pytest.raises(UserError, match="must be uint8 and each .4, 6, 3."):
        build(tmp_path / "single", in_pairs)


def test_chosen_videos_are_read_without_the_others(tmp_path):
    videos = make_videos()
    built = build(tmp_path, videos, "float32")
    for name in ("video-0", "video-2", "video-4"):
        (tmp_path / f"{name}.array_record").unlink()
    (tmp_path / "index.json").unlink()
    bank = load(tmp_path, built.key, videos, ["video-3", "video-1"])
    whole = make_bank(encoder(), list(videos.values()), stamp_ids, BATCH)
    np.testing.assert_array_equal(bank.padded().tokens, whole.padded(np.array([3, 1])).tokens)
    np.testing.assert_array_equal(bank.length, [40, 70])
    with pytest.raises(UserError, match="no bank of video video-0; make it again"):
        bits(load(tmp_path, built.key, videos, ["video-1", "video-0"]))


def nearest_bfloat16(values):
    """Round half to even by integer arithmetic, as float32."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return rounded.astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_rounding_and_its_reported_error(tmp_path, dtype):
    """Of float32 tokens; errors computed anew, in float64, from what comes back."""
    videos = make_videos()
    exact = make_bank(encoder(), list(videos.values()), stamp_ids, BATCH).padded()
    built = build(tmp_path, videos, dtype)
    bank = load(tmp_path, built.key, videos, None, dtype="float32").padded()
    if dtype == "bfloat16":
        np.testing.assert_array_equal(bank.tokens, nearest_bfloat16(np.asarray(exact.tokens)))
    default = load(tmp_path, built.key, videos).padded()
    np.testing.assert_array_equal(
        default.tokens, np.asarray(bank.tokens).astype(ml_dtypes.bfloat16)
    )

    off = np.asarray(bank.tokens, np.float64) - np.asarray(exact.tokens, np.float64)
    whole = np.asarray(exact.tokens, np.float64)
    norms = [np.sqrt((a**2).sum(-1)) for a in (off, whole)]
    relative = norms[0] / np.where(norms[1] > 0, norms[1], 1)
    v, frame, token = np.unravel_index(relative.argmax(), relative.shape)
    error = built.error
    assert 1e-4 < error.relative_rms < (0.003 if dtype == "bfloat16" else 0.02)
    np.testing.assert_allclose(error.relative_rms, np.linalg.norm(off) / np.linalg.norm(whole))
    np.testing.assert_allclose(error.worst, relative.max())
    assert (built.worst, error.frame, error.token) == (f"video-{v}", frame, token)
    index = json.loads((tmp_path / "index.json").read_text())
    assert (index["dtype"], list(index["videos"])) == (dtype, list(videos))
    for v, (name, video) in enumerate(videos.items()):
        row = index["videos"][name]
        n = len(video.times)
        assert row["shape"] == [n, S, D] and row["content"] == built.key.videos[name]
        np.testing.assert_allclose(
            row["relative_rms"], np.linalg.norm(off[v, :n]) / np.linalg.norm(whole[v, :n])
        )
        np.testing.assert_allclose(row["worst_token"]["error"], relative[v].max())


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_int8_is_what_plain_loops_make_of_it(data):
    """Both ways of sharing factors, one value at a time; the nearer one is taken."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    n, s, d = (int(rng.integers(1, 5)) for _ in range(3))
    tokens = rng.normal(size=(n, s, d)).astype(np.float32)
    tokens *= np.exp(rng.normal(size=(n, s, 1)) * data.draw(st.sampled_from([0, 2, 10])))
    tokens *= np.exp(rng.normal(size=(1, 1, d)) * data.draw(st.sampled_from([0, 2, 10])))
    tokens = (tokens * (rng.random(tokens.shape) > 0.1)).astype(np.float32)

    off = {}
    for kind in ("token", "channel"):
        made = np.zeros_like(tokens)
        for place in np.ndindex(tokens.shape):
            group = tokens[place[:2]] if kind == "token" else tokens[..., place[2]]
            factor = np.float32(max(abs(float(x)) for x in group.ravel())) / np.float32(127)
            factor = factor if factor > 0 else np.float32(1)
            level = max(-127, min(127, round(float(tokens[place] / factor))))
            made[place] = np.float32(level) * factor
            if factor > 1e-35:  # above the denormal numbers
                assert abs(float(made[place]) - float(tokens[place])) <= 0.5001 * float(factor)
        off[kind] = ((made.astype(np.float64) - tokens) ** 2).sum(), made
    stored, kind = pack(tokens, "int8")
    other = {"token": "channel", "channel": "token"}[kind]
    np.testing.assert_array_equal(unpack(stored, tokens.shape, "int8", kind), off[kind][1])
    assert off[kind][0] <= off[other][0] * (1 + 1e-5) + 1e-30
    assert len(stored) == n * s * d + 4 * (n * s if kind == "token" else d)


def test_outliers_decide_whose_the_factors_are():
    tokens = np.random.default_rng(0).normal(size=(32, 4, 16)).astype(np.float32)
    by_channel, by_token = tokens.copy(), tokens.copy()
    by_channel[..., 3] *= 100
    by_token[5, 2] *= 100
    assert pack(by_channel, "int8")[1] == "channel" and pack(by_token, "int8")[1] == "token"


def changed(video, **values):
    return dataclasses.replace(video, **values)


def one_pixel(video):
    frames = video.frames.copy()
    frames[-1, 2, 3, 1] ^= 1
    return changed(video, frames=frames)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("another video", {"video": one_pixel}),
        ("another video", {"video": lambda v: changed(v, times=np.nextafter(v.times, 99))}),
        ("another video", {"video": lambda v: changed(v, duration=v.duration + 1e-9)}),
        ("other preprocessing .height 4 there, 6 here; width 6 there, 4 here.",
         {"size": dataclasses.replace(SIZE, height=WIDTH, width=HEIGHT)}),
        ("other preprocessing .mean", {"size": dataclasses.replace(SIZE, mean=(0.5, 0.4, 0.31))}),
        ("other weights of the vision tower", {"weights": "one bit"}),
        ("other weights of the vision tower", {"weights": "dtype"}),
    ],
)  # fmt: skip
def test_a_bank_of_something_else_is_refused_and_made_again(tmp_path, what, change):
    """Each of the three alone, by its name and by no other's."""
    videos = make_videos((3, 20))
    built = build(tmp_path, videos)
    size, weights, others = change.get("size", SIZE), HASH, dict(videos)
    if "video" in change:
        others["video-1"] = change["video"](videos["video-1"])
    if change.get("weights") == "one bit":
        weight = WEIGHT.copy()
        weight.view(np.uint32)[7, 3] ^= 1
        weights = weights_hash({"weight": weight}, {"dtype": "float32"})
    elif "weights" in change:
        weights = weights_hash({"weight": WEIGHT}, {"dtype": "bfloat16"})
    elsewhere = tmp_path / "elsewhere"
    if (size.height, size.width) != (HEIGHT, WIDTH):
        others = {
            name: changed(v, frames=v.frames.swapaxes(1, 2).copy()) for name, v in videos.items()
        }
        key = dataclasses.replace(built.key, preprocessing=size)
    else:
        key = build(elsewhere, others, size=size, weights=weights).key

    with pytest.raises(UserError, match=f"video video-1 was made of {what}.*; make it") as refusal:
        load(tmp_path, key, others, ["video-1"])
    text = str(refusal.value)
    assert "\n" not in text and len(re.findall(r"\b(?:an)?other ", text)) == 1
    remade = build(tmp_path, others, size=size, weights=weights)
    assert "video-1" in remade.remade and what.split(" .")[0] in remade.remade["video-1"]
    # A changed video leaves the others alone; changed settings concern them all.
    assert (remade.made, remade.kept) == ((1, 1) if "video" in change else (2, 0))
    load(tmp_path, remade.key, others)
    with pytest.raises(UserError, match=r"was made of"):
        load(tmp_path, built.key, videos, ["video-1"])


def test_weights_hash_sees_names_types_shapes_and_values():
    tree = {"a": np.zeros((2, 3), np.float32), "b": {"c": np.ones(4, ml_dtypes.bfloat16)}}
    others = [
        {**tree, "a": np.zeros((3, 2), np.float32)},
        {**tree, "a": np.zeros((2, 3), np.int32)},
        {"d": tree["a"], "b": tree["b"]},
        {**tree, "b": {"c": np.array([1, 1, 1, 1.0078125], ml_dtypes.bfloat16)}},
        {**tree, "a": -tree["a"]},
    ]
    hashes = [weights_hash(t, {"depth": 2}) for t in (tree, *others)]
    hashes += [weights_hash(tree, {"depth": 3})]
    assert len(set(hashes)) == len(hashes)
    arrays = jax.tree.map(jnp.asarray, {"b": tree["b"], "a": tree["a"]})
    assert weights_hash(arrays, {"depth": 2}) == hashes[0]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A finished int8 bank of two videos, one of two records; its key and bytes."""
    folder = tmp_path_factory.mktemp("bank")
    videos = make_videos((3, 40))
    built = build(folder, videos, "int8")
    expected = load(folder, built.key, videos)
    return folder, videos, built.key, contents(folder), bits(expected)


@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255), cut=st.booleans())
@settings(max_examples=150, deadline=None)
def test_damage_is_never_read_and_is_made_good(undisturbed, place, mask, cut):
    """A flipped byte or a lost end, anywhere: refused by name or without effect."""
    folder, videos, key, files, expected = undisturbed
    path = folder / "video-1.array_record"
    whole = files[path.name]
    at = int(place * len(whole))
    path.write_bytes(
        whole[:at] if cut else whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :]
    )
    try:
        assert bits(load(folder, key, videos)) == expected
        harmless = True
    except UserError as error:
        assert "the bank of video video-1 is damaged" in str(error) and "\n" not in str(error)
        harmless = False
    built = build(folder, videos, "int8")
    assert harmless == (not built.remade) and not (harmless and cut)
    if not harmless:
        assert list(built.remade) == ["video-1"] and "damaged" in built.remade["video-1"]
        assert contents(folder) == files
    path.write_bytes(whole)


def test_a_file_under_anothers_name_is_noticed(tmp_path):
    videos = make_videos((3, 3))
    built = build(tmp_path, videos)
    os.replace(tmp_path / "video-0.array_record", tmp_path / "video-1.array_record")
    with pytest.raises(UserError, match="video-1 was made of another video"):
        load(tmp_path, built.key, videos, ["video-1"])


JOB = """
import sys, time
from pathlib import Path
from tests.bank import test_bank_store as case
encode = case.encoder()
def slow(frames):
    print("batch", flush=True)
    time.sleep(0.04)
    return encode(frames)
case.build(Path(sys.argv[1]), case.make_videos(case.MANY), "int8", slow)
"""
MANY = (3, 40, 20, 1, 33, 7, 64, 18, 50, 2, 29, 31)


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
