"""The hash of a vision tower."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from medscope_jax.bank.bank_key import weights_hash


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
