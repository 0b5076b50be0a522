"""A small model for the tests of convert, and what of a folder must be the same to the bit."""

import dataclasses

import jax
import numpy as np

from medscope_jax.models.hf import safetensors_io
from tests.models import model_cases


def tiny(dtype="bfloat16", **changes):
    return dataclasses.replace(model_cases.tiny_config(**changes), dtype=dtype, param_dtype=dtype)


def bits(folder):
    """The bytes, dtype and shape of every tensor of a Hugging Face folder."""
    found, problems = safetensors_io.read_folder(folder)
    assert not problems
    return {name: (t.kind, t.shape, t.read().tobytes()) for name, t in found.items()}


def same_bits(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
