"""The weights as rollouts read them: on a mesh of their own, and in fewer bytes.

A decode step reads all weights for a few tokens. Split over more chips than training splits heads
over, each chip reads less of them:

    trained     fsdp 64 x context 2 x tensor 2     key-value heads  0 | 1
    rolled out  fsdp 64 x context 1 x tensor 4                      0 | 0 | 1 | 1

Where there are fewer key-value heads than parts, each is there several times, with as many fewer
query heads: the same attention. The same devices stand in the same order, so that the weights move
between neighbours, once for all rollouts of a step.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from medscope_jax.distributed import param_shardings
from medscope_jax.errors import UserError
from medscope_jax.models import ModelConfig, int8_kernels

_KEY_VALUE = ("k_proj", "v_proj")


def rollout_mesh(mesh: Mesh, tensor: int) -> Mesh:
    """The mesh of rollouts whose heads are split into `tensor` parts (0: as the mesh's).

    The context axis makes room for them, and where that is not enough the fsdp axis, too.

    Raises:
        UserError: the mesh's devices do not split so.
    """
    sizes = dict(mesh.shape)
    if tensor in (0, sizes["tensor"]):
        return mesh
    times, rest = divmod(tensor, sizes["tensor"])
    inner = sizes["context"] * sizes["fsdp"]
    if rest or inner % times:
        raise UserError(
            f"config.rollout.tensor is {tensor}; it must be a multiple of mesh.tensor, "
            f"{sizes['tensor']}, by a divisor of mesh.fsdp x mesh.context, {inner}"
        )
    if sizes["context"] % times == 0:
        sizes["context"] //= times
    else:
        sizes |= {"fsdp": inner // times, "context": 1}
    sizes["tensor"] = tensor
    return Mesh(mesh.devices.reshape(*sizes.values()), tuple(sizes), axis_types=mesh.axis_types)


def rollout_model(model: ModelConfig, mesh: Mesh) -> ModelConfig:
    """The model whose key-value heads the mesh's tensor axis divides.

    Raises:
        UserError: neither divides the other, or the axis does not divide the query heads.
    """
    text, tensor = model.text, mesh.shape["tensor"]
    heads = max(tensor, text.num_key_value_heads)
    if heads % tensor or heads % text.num_key_value_heads or text.num_attention_heads % heads:
        raise UserError(
            f"config.rollout.tensor is {tensor}; heads must split so: the model has "
            f"{text.num_key_value_heads} key-value heads and {text.num_attention_heads} query heads"
        )
    return dataclasses.replace(model, text=dataclasses.replace(text, num_key_value_heads=heads))


def place_weights(params: dict, model: ModelConfig, mesh: Mesh, dtype: str) -> dict:
    """The decoder's parameters as rollouts on a mesh read them.

    Args:
        params: the model's, on any mesh of the same devices in the same order.
        model: theirs, with as many key-value heads as it has.
        mesh: the rollouts'.
        dtype: "" as they are, or "int8": kernels of the decoder's layers in int8.
    """
    leaves, tree = jax.tree.flatten(params)
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return weights_program(tree, shapes, model, mesh, dtype)(params)


@functools.cache
def weights_program(
    tree: Any, shapes: tuple, model: ModelConfig, mesh: Mesh, dtype: str
) -> Callable[[dict], dict]:
    """The compiled place_weights, of parameters whose tree has leaves of these shapes."""
    text = rollout_model(model, mesh).text
    times = text.num_key_value_heads // model.text.num_key_value_heads

    def place(params: dict) -> dict:
        decoder = {"text": params["text"]}
        decoder = int8_kernels(decoder) if dtype == "int8" else decoder
        return _repeat_heads(decoder, times, text.head_dim)

    placed = jax.eval_shape(place, jax.tree.unflatten(tree, shapes))
    return jax.jit(place, out_shardings=param_shardings(placed, mesh))


def _repeat_heads(params: dict, times: int, width: int) -> dict:
    """params in which each key-value head, of so many channels, stands `times` times."""

    def repeat(path: tuple[str, ...], leaf: jax.Array) -> jax.Array:
        # All but an adapter's first factor ends in the channels of the heads.
        if times == 1 or path[-2] not in _KEY_VALUE or path[-1] == "lora_a":
            return leaf
        heads = leaf.reshape(*leaf.shape[:-1], -1, width)
        return jnp.repeat(heads, times, axis=-2).reshape(*leaf.shape[:-1], -1)

    return unflatten_dict({p: repeat(p, x) for p, x in flatten_dict(params).items()})
