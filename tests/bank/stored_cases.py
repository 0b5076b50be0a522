"""Stored banks that tests are made of: small videos, and an encoder that tells its batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.bank.bank_build import build_bank
from medscope_jax.bank.bank_key import Preprocessing, weights_hash
from medscope_jax.bank.bank_store import load_bank, source_of
from medscope_jax.video import Video
from medscope_jax.video.lazy_frames import LazyFrames

HEIGHT, WIDTH, S, D, BATCH = 4, 6, 2, 8, 16
SIZE = Preprocessing(HEIGHT, WIDTH, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
LENGTHS = (3, 70, 1, 40, 5)
MANY = (3, 40, 20, 1, 33, 7, 64, 18, 50, 2, 29, 31)
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


def changed(video, **values):
    return dataclasses.replace(video, **values)
