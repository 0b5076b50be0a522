"""A pytree's leaves as named plain arrays with checksums: what a checkpoint stores."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def named(tree: Any) -> dict[str, Any]:
    """The leaves by their path, "params/text/embed": a format that knows no container types."""
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in pairs}
    if len(named) != len(pairs):
        raise ValueError("two leaves of the state have the same path")
    return named


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def plain(leaf: Any) -> jax.Array:
    """A leaf as a plain array."""
    return jax.random.key_data(leaf) if _is_key(leaf) else jnp.asarray(leaf)


def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    """What `plain` makes of a leaf, and where it shall lie: as the leaf, or on the first device."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    raw = jax.eval_shape(plain, leaf)
    return jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=sharding)


def unplain(array: jax.Array, wanted: Any) -> jax.Array:
    """Undoes `plain`; leaves the array free to go anywhere if `wanted` names no place for it."""
    placed = getattr(wanted, "sharding", None) is not None and getattr(wanted, "committed", True)
    if not placed:
        array = jax.device_put(np.array(array))
    if not _is_key(wanted):
        return array
    implementation = []
    jax.eval_shape(lambda key: implementation.append(jax.random.key_impl(key)), wanted)
    return jax.random.wrap_key_data(array, impl=implementation[0])


def describe(arrays: dict[str, jax.Array]) -> dict[str, list[Any]]:
    """[dtype, shape, checksum] of each array."""
    sums = checksums(arrays)
    return {
        name: [str(array.dtype), list(array.shape), sums[name]] for name, array in arrays.items()
    }


def difference(
    saved: dict[str, list[Any]], target: dict[str, jax.ShapeDtypeStruct], partial: bool
) -> str:
    """Says how the first leaf that differs does, in name, type or shape; "" if none does.

    Args:
      saved: from `describe`.
      target: what is asked for; with `partial`, leaves that are only in `saved` are no difference.
    """
    wanted = {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in target.items()}
    for name in sorted(wanted.keys() | (set() if partial else saved.keys())):
        pair = [saved[name][:2] if name in saved else None, wanted.get(name)]
        if pair[0] != pair[1]:
            there, here = ["nothing" if leaf is None else f"{leaf[0]}{leaf[1]}" for leaf in pair]
            return f"{name} is {there} there, but {here} here"
    return ""


def checksums(arrays: dict[str, jax.Array]) -> dict[str, int]:
    """Of each array a sum over its 32-bit words, each times an odd number made from its place,
    modulo 2^32.

    Integer addition commutes, so any sharding gives the same sum; an odd factor has an inverse, so
    any change of one word changes it, and unequal factors tell words that changed places.
    """
    # NumPy saves a compilation for each shape; elsewhere the sums are made where the arrays lie.
    sums = {name: _host_sum(array) for name, array in arrays.items() if _is_here(array)}
    where = {name: array.sharding.device_set for name, array in arrays.items() if name not in sums}
    # One program for all: of several that add at once over processes, the CPU's collectives (Gloo)
    # take each other's messages and wait for ever.
    for devices in dict.fromkeys(frozenset(devices) for devices in where.values()):
        sums |= jax.device_get(
            _device_sums({name: arrays[name] for name in where if where[name] == devices})
        )
    return {name: int(sums[name]) for name in arrays}


def _is_here(array: jax.Array) -> bool:
    """Whether the host can read it without a transfer."""
    devices: Iterable[Any] = array.sharding.device_set
    return array.is_fully_addressable and all(device.platform == "cpu" for device in devices)


_FACTOR = 2 * 2654435761 % 2**32  # times a place, plus 1: odd, and spread over all bits


def _word_type(array: jax.Array) -> str:
    return f"uint{8 * min(array.dtype.itemsize, 4)}"


def _host_sum(array: jax.Array) -> np.unsignedinteger:
    words = np.asarray(array).reshape(-1).view(_word_type(array)).astype(np.uint32)
    place = np.arange(words.size, dtype=np.uint32)
    return np.sum(words * (place * np.uint32(_FACTOR) + np.uint32(1)), dtype=np.uint32)


@jax.jit
def _device_sums(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return jax.tree.map(_device_sum, arrays)


def _device_sum(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(array, jnp.dtype(_word_type(array))).astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        place = place * jnp.uint32(size % 2**32)
        place += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    return jnp.sum(words * (place * jnp.uint32(_FACTOR) + 1), dtype=jnp.uint32)
