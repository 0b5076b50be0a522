"""Frozen weights in fewer bytes: bfloat16, and int8 with one factor for each output channel.

Only weights are rounded, never activations: x @ kernel becomes (x @ int8 kernel) * kernel_scale.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from medscope_jax.models.model_config import PROJECTIONS

_LARGEST = 127  # -128 is not used, so that signs are symmetric


def quantize(kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(int8 [..., in, out], float32 factors [..., out]) of a kernel [..., in, out].

    The largest weight of a channel becomes +-127; others are off by half a factor at most.
    """
    kernel = kernel.astype(jnp.float32)
    largest = jnp.max(jnp.abs(kernel), axis=-2)
    scale = jnp.where(largest > 0, largest / _LARGEST, 1.0)
    return jnp.round(kernel / scale[..., None, :]).astype(jnp.int8), scale


def dequantize(kernel: jax.Array, scale: jax.Array | None) -> jax.Array:
    """The float32 kernel that int8 and factors stand for; without factors, the kernel itself."""
    if scale is None:
        return kernel
    return kernel.astype(jnp.float32) * scale[..., None, :]


def freeze(params: Mapping, base: str) -> dict:
    """params (without adapters) as a frozen base: all of it in bfloat16 or float32, or in int8.

    base: as in LoraConfig. With "int8" the decoder's kernels are int8 and all else (embeddings,
        head, norms, biases, vision tower) is bfloat16. int8 kernels are not rounded again.
    """
    if base == "int8":
        return cast_params(int8_kernels(params), "bfloat16")
    return cast_params(plain_kernels(params), base)


def plain_kernels(params: Mapping) -> dict:
    """params with int8 kernels dequantized to float32."""
    result: dict = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            result[name] = plain_kernels(value)
        elif name == "kernel":
            result[name] = dequantize(value, params.get("kernel_scale"))
        elif name != "kernel_scale":
            result[name] = value
    return result


def cast_params(params: Mapping, dtype: str) -> dict:
    """params in another dtype; int8 kernels and their factors stay as they are."""

    def leaf(path, value):
        stays = value.dtype == jnp.int8 or path[-1].key == "kernel_scale"
        return value if stays else value.astype(dtype)

    return jax.tree_util.tree_map_with_path(leaf, params)


def rounding_error(params: Mapping, frozen: Mapping) -> jax.Array:
    """Relative root-mean-square distance of the decoder's frozen kernels from params'. A scalar."""
    off: jax.Array | float = 0.0
    whole: jax.Array | float = 0.0
    for part, names in PROJECTIONS.items():
        for name in names:
            kernels = (
                dequantize(branch["kernel"], branch.get("kernel_scale")).astype(jnp.float32)
                for branch in (tree["text"]["layers"][part][name] for tree in (params, frozen))
            )
            kernel, rounded = kernels
            off += jnp.sum(jnp.square(kernel - rounded))
            whole += jnp.sum(jnp.square(kernel))
    return jnp.sqrt(off / whole)


def int8_kernels(params: Mapping) -> dict:
    """params with the kernels of the decoder's layers in int8, those that are not yet; all else as
    it is."""

    def quantized(projection: Mapping) -> dict:
        if "kernel_scale" in projection:
            return dict(projection)
        kernel, scale = quantize(projection["kernel"])
        return {**projection, "kernel": kernel, "kernel_scale": scale}

    layers = dict(params["text"]["layers"])
    for part, names in PROJECTIONS.items():
        layers[part] = {**layers[part], **{name: quantized(layers[part][name]) for name in names}}
    return {**params, "text": {**params["text"], "layers": layers}}
