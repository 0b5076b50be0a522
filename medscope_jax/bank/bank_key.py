"""What a stored bank belongs to: its videos, the preprocessing and the vision tower's weights.

A bank that is read under another key would be silently wrong, so each stored video carries the
three, and a reader says which of them differs.
"""

import dataclasses
import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

_BYTES = 16  # of a hash


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a frame becomes what the vision tower computes with.

    Attributes:
      height, width: pixels of a frame.
      mean, std: what each channel, scaled to 0..1, is normalized with.
      pairs: False: a frame alone fills every slot of a temporal patch; True: frames go in pairs.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pairs: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input of the tower: [H, W, 3] of a frame, [2, H, W, 3] of a pair."""
        return (2,) * self.pairs + (self.height, self.width, 3)

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values: tuples are lists, as json.loads gives them."""
        fields = vars(self).items()  # compared at every read of a stored bank: asdict copies deeply
        return {k: list(value) if isinstance(value, tuple) else value for k, value in fields}


@dataclasses.dataclass(frozen=True)
class BankKey:
    """What a bank must have been made of to be read.

    Attributes:
      preprocessing: of the frames.
      weights: weights_hash of the vision tower.
      videos: video_hash of each video that may be read, by id.
    """

    preprocessing: Preprocessing
    weights: str
    videos: Mapping[str, str]


def video_hasher(times: np.ndarray, duration: float) -> hashlib.blake2b:
    """A running hash of a video, to be updated with the bytes of its frames in their order.

    times [T] and duration in seconds, as float64. The frames' size is the preprocessing's.
    """
    hasher = hashlib.blake2b(digest_size=_BYTES)
    hasher.update(np.ascontiguousarray(times, "<f8").tobytes())
    hasher.update(struct.pack("<d", duration))
    return hasher


def video_hash(times: np.ndarray, duration: float, blocks: Iterable[np.ndarray]) -> str:
    """The hash of a video whose frames come in blocks uint8 [n, H, W, 3], however it is cut.

    Of pixels, not of the file: what a decoder of another version makes of it is another video.
    """
    hasher = video_hasher(times, duration)
    for block in blocks:
        hasher.update(np.ascontiguousarray(block).reshape(-1).data)
    return hasher.hexdigest()


def weights_hash(params: Any, config: Mapping[str, Any]) -> str:
    """The hash of a vision tower: names, types, shapes and bytes of its parameters, and its config.

    Args:
      params: tree of arrays, each of which this process sees in whole; read one at a time.
      config: what else decides its numbers (shape, computing dtype), as JSON can say it.
    """
    hasher = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=_BYTES)
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        array = np.ascontiguousarray(leaf)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        hasher.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        hasher.update(array.reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()


def differences(stored: Mapping[str, Any], key: BankKey, content: str | None) -> list[str]:
    """Which of the three differ between what a file was made of and a key; empty if none does.

    Args:
      stored: preprocessing, weights and content of a stored video.
      content: the hash that the video should have; None: not to be compared.
    """
    found = []
    if content is not None and stored["content"] != content:
        found.append("another video (frames or times differ)")
    there, here = stored["preprocessing"], key.preprocessing.to_json()
    changed = [name for name in here if there.get(name) != here[name]]
    if changed:
        values = (f"{name} {there.get(name)} there, {here[name]} here" for name in changed)
        found.append(f"other preprocessing ({'; '.join(values)})")
    if stored["weights"] != key.weights:
        found.append("other weights of the vision tower")
    return found
