"""Checksums: the same for every sharding and on host and device, different for any change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from medscope_jax.training import checkpoint_arrays as leaves

ARRAYS = [
    np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32),
    jnp.asarray(np.random.default_rng(1).normal(size=(16, 3)), jnp.bfloat16),
    np.arange(-20, 20, dtype=np.int8),
    np.array([True, False] * 4),
    np.float32(np.nan),
    np.zeros((0, 4), np.float32),
]


def checksum(array):
    return leaves.checksums({"": array})[""]


def on_devices(array):
    return int(leaves._device_sums({"": array})[""])


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: str(array.dtype))
def test_host_and_device_agree_for_any_sharding(array):
    mesh = Mesh(np.array(jax.devices()), ("x",), axis_types=(AxisType.Auto,))
    array = jnp.asarray(array)
    expected = leaves._host_sum(array)
    assert expected == on_devices(array) == checksum(array)
    if array.ndim and array.size and array.shape[0] % 8 == 0:
        sharded = jax.device_put(array, NamedSharding(mesh, PartitionSpec("x")))
        assert on_devices(sharded) == leaves._host_sum(sharded) == expected


def test_any_changed_bit_and_any_two_swapped_words_are_seen():
    array = np.random.default_rng(2).integers(0, 2**32, 64, dtype=np.uint32)
    expected = checksum(jnp.asarray(array))
    for place in range(64):
        for bit in range(32):
            changed = array.copy()
            changed[place] ^= np.uint32(1 << bit)
            assert checksum(jnp.asarray(changed)) != expected
        swapped = array.copy()
        swapped[[place, place - 1]] = swapped[[place - 1, place]]
        assert checksum(jnp.asarray(swapped)) != expected


def test_names_are_paths_and_differences_are_told():
    tree = {"params": {"w": jnp.ones((2, 3))}, "steps": [jnp.int32(1)]}
    assert list(leaves.named(tree)) == ["params/w", "steps/0"]
    saved = leaves.describe(leaves.named(tree))
    wanted = {name: leaves.abstract(leaf) for name, leaf in leaves.named(tree).items()}
    assert leaves.difference(saved, wanted, partial=False) == ""
    part = {"params/w": wanted["params/w"]}
    assert leaves.difference(saved, part, partial=True) == ""
    assert leaves.difference(saved, part, False) == "steps/0 is int32[] there, but nothing here"
