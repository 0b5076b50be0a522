"""Hugging Face folders as the hub has them, of any size, for the tests of convert (no PyTorch)."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medscope_jax.models import ModelConfig, hf_shapes
from medscope_jax.models.hf import safetensors_io
from medscope_jax.models.hf.hf_config import hf_config
from tests.models import model_cases

COMPANIONS = {  # stand-ins: convert copies them as they are
    "tokenizer.json": '{"version": "1.0"}',
    "tokenizer_config.json": '{"chat_template": "é"}',
    "preprocessor_config.json": '{"min_pixels": 3136}',
    "generation_config.json": "{}",
}
STAMP = 4  # elements at each end of a sparse tensor that are not zero


def random_weights(config: ModelConfig, dtype: str, seed: int = 1) -> dict[str, np.ndarray]:
    """Random bits under the hub's names, so that every number must survive: NaNs, denormals too."""
    random = np.random.RandomState(seed)
    kind = np.dtype(dtype)
    weights = {}
    for name, shape in sorted(hf_shapes(config).items()):
        bits = random.bytes(int(np.prod(shape)) * kind.itemsize)
        weights[name] = np.frombuffer(bits, kind).reshape(shape)
    return weights


def plain_weights(config: ModelConfig, dtype: str, seed: int = 1) -> dict[str, np.ndarray]:
    """Weights that a model computes with."""
    drawn = model_cases.random_state_dict(config, seed)
    return {name: array.astype(np.dtype(dtype)) for name, array in drawn.items()}


def hub_config(config: ModelConfig, **changes) -> dict:
    """A config.json as the hub spells it."""
    heading = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl"}
    rest = {"torch_dtype": config.param_dtype, "use_sliding_window": False, "sliding_window": 32768}
    return {**heading, **hf_config(config), **rest, **changes}


def write_folder(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, np.ndarray],
    shard_bytes: int = safetensors_io.SHARD_BYTES,
    rename=lambda name: name,
) -> Path:
    """A whole Hugging Face folder of these weights; `rename` respells a hub name."""
    folder.mkdir(parents=True)
    planned = [
        safetensors_io.Planned(rename(name), array.dtype, array.shape, lambda a=array: [a])
        for name, array in weights.items()
    ]
    safetensors_io.write_folder(folder, planned, shard_bytes)
    (folder / "config.json").write_text(json.dumps(hub_config(config), indent=1))
    for name, text in COMPANIONS.items():
        (folder / name).write_text(text)
    return folder


def stamp(name: str, end: int, dtype: str) -> np.ndarray:
    """The STAMP values at the beginning (0) or the end (1) of a sparse tensor."""
    seed = zlib.crc32(f"{name} {end}".encode())
    return np.random.RandomState(seed).randint(1, 100, STAMP).astype(np.dtype(dtype))


def write_sparse_folder(folder: Path, config: ModelConfig, shard_bytes: int = 4 * 10**9) -> Path:
    """A model of any size that takes no disk: holes but for a stamp at both ends of each tensor."""
    write_folder(folder, config, {})
    (folder / safetensors_io.SINGLE).unlink()
    dtype = np.dtype(config.param_dtype)
    planned = [
        safetensors_io.Planned(name, dtype, shape, list)
        for name, shape in hf_shapes(config).items()
    ]
    shards = safetensors_io.plan_shards(planned, shard_bytes)
    for file, tensors in shards.items():
        start = safetensors_io.make_header(tensors)
        with (folder / file).open("wb") as stream:
            stream.write(start)
            end = len(start)
            for tensor in tensors:
                stream.seek(end)
                stream.write(stamp(tensor.name, 0, config.param_dtype).tobytes())
                end += tensor.size
                stream.seek(end - STAMP * dtype.itemsize)
                stream.write(stamp(tensor.name, 1, config.param_dtype).tobytes())
    safetensors_io.write_index(folder, shards)
    return folder
