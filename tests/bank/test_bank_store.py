"""Stored banks: the bits of make_bank, and never read of something else or damaged."""

import dataclasses
import os
import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.bank import make_bank
from medscope_jax.bank.bank_build import build_bank
from medscope_jax.bank.bank_key import weights_hash
from medscope_jax.bank.bank_store import source_of
from medscope_jax.errors import UserError
from medscope_jax.video import Video, pair_frames
from tests.bank.stored_cases import (
    BATCH,
    HASH,
    HEIGHT,
    LENGTHS,
    SIZE,
    WEIGHT,
    WIDTH,
    LazyCopy,
    bits,
    build,
    changed,
    contents,
    encoder,
    load,
    make_videos,
    stamp_ids,
)


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
