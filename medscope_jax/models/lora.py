"""LoRA: low-rank adapters as leaves of the parameter tree, beside the kernels that they adapt.

    text/layers/mlp/up_proj/kernel  [layers, in, out]    frozen: float32, bfloat16 or int8
                           /kernel_scale [layers, out]   where the kernel is int8 (see quantize.py)
                           /lora_a  [layers, in, rank]   float32, trained
                           /lora_b  [layers, rank, out]  float32, trained

A tree with adapters can be used wherever one without can: `Dense` adds the adapters that it finds.
All functions here are pure and take the tree or a part of it, nested dicts with the same paths.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.models.model_config import PROJECTIONS, LoraConfig, ModelConfig
from medscope_jax.models.quantize import dequantize

LEAVES = ("lora_a", "lora_b")


def adapter_shapes(model: ModelConfig, lora: LoraConfig) -> dict:
    """The adapters of a model as a tree of ShapeDtypeStructs; allocates nothing."""
    text = model.text
    heads, kv_heads = (
        count * text.head_dim for count in (text.num_attention_heads, text.num_key_value_heads)
    )
    width, inner = text.hidden_size, text.intermediate_size
    sizes = {
        "q_proj": (width, heads),
        "k_proj": (width, kv_heads),
        "v_proj": (width, kv_heads),
        "o_proj": (heads, width),
        "gate_proj": (width, inner),
        "up_proj": (width, inner),
        "down_proj": (inner, width),
    }

    def adapter(name: str) -> dict:
        shapes = (sizes[name][0], lora.rank), (lora.rank, sizes[name][1])
        return {
            leaf: jax.ShapeDtypeStruct((text.num_hidden_layers, *shape), jnp.float32)
            for leaf, shape in zip(LEAVES, shapes, strict=True)
        }

    layers = {}
    for part, names in PROJECTIONS.items():
        adapters = {name: adapter(name) for name in names if name in lora.targets}
        if adapters:
            layers[part] = adapters
    return {"text": {"layers": layers}}


def add_lora(params: Mapping, model: ModelConfig, key: jax.Array) -> dict:
    """params with new adapters of model.lora, which do not change what the model computes.

    As PEFT draws them: lora_a from U(-1 / sqrt(in), 1 / sqrt(in)), which is Kaiming's with a slope
    of sqrt(5), and lora_b is zero.

    Raises:
        ValueError: params have adapters already.
    """
    if split_lora(params)[1]:
        raise ValueError("the parameters have adapters already")
    assert model.lora is not None
    leaves, tree = jax.tree_util.tree_flatten_with_path(adapter_shapes(model, model.lora))
    # One draw serves all leaves: compiling a generator for each would take seconds.
    sizes = np.cumsum([leaf.size if path[-1].key == "lora_a" else 0 for path, leaf in leaves])
    draws = jnp.split(jax.random.uniform(key, (sizes[-1],), minval=-1, maxval=1), sizes[:-1])

    def value(path, leaf, draw):
        if path[-1].key == "lora_b":
            return jnp.zeros(leaf.shape, leaf.dtype)
        return draw.reshape(leaf.shape) * leaf.shape[1] ** -0.5

    values = [value(*leaf, draw) for leaf, draw in zip(leaves, draws, strict=True)]
    return join_params(params, jax.tree.unflatten(tree, values))


def split_lora(params: Mapping) -> tuple[dict, dict]:
    """(the base, the adapters), {} where there are none; nothing is copied, see join_params."""
    base, adapters = {}, {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            base[name], part = split_lora(value)
            if part:
                adapters[name] = part
        else:
            (adapters if name in LEAVES else base)[name] = value
    return base, adapters


def join_params(params: Mapping, part: Mapping) -> dict:
    """params with the leaves of `part` added, or put in place of those with the same path."""
    joined = dict(params)
    for name, value in part.items():
        inside = isinstance(value, Mapping)
        joined[name] = join_params(joined.get(name, {}), value) if inside else value
    return joined


def pick_params(params: Mapping, like: Mapping) -> dict:
    """The leaves of params whose paths `like` has."""
    return {
        name: pick_params(params[name], value) if isinstance(value, Mapping) else params[name]
        for name, value in like.items()
    }


def merge_lora(params: Mapping, model: ModelConfig) -> dict:
    """The parameters without adapters that compute the same.

    A kernel becomes kernel + lora_a @ lora_b * alpha / rank, added up in float32, and is stored in
    model.param_dtype, which rounds it where that is bfloat16. int8 kernels are dequantized before
    they are merged; those without an adapter stay int8.
    """
    base, adapters = split_lora(params)
    return _merge(base, adapters, model) if adapters else base


def merged_kernel(
    kernel: jax.Array | np.ndarray,
    lora_a: jax.Array | np.ndarray,
    lora_b: jax.Array | np.ndarray,
    scale: float,
) -> jax.Array:
    """kernel + lora_a @ lora_b * scale in float32; of one layer, or of a stack of them."""
    change = jnp.matmul(lora_a, lora_b, precision=jax.lax.Precision.HIGHEST)
    return jnp.asarray(kernel, jnp.float32) + change * scale


def _merge(base: dict, adapters: Mapping, model: ModelConfig) -> dict:
    merged = dict(base)
    if "lora_a" in adapters:
        kernel = dequantize(base["kernel"], merged.pop("kernel_scale", None))
        assert model.lora is not None  # it says what the adapters' scale is
        lora_a, lora_b = (adapters[name] for name in LEAVES)
        kernel = merged_kernel(kernel, lora_a, lora_b, model.lora.scale)
        return merged | {"kernel": kernel.astype(model.param_dtype)}
    return merged | {name: _merge(base[name], part, model) for name, part in adapters.items()}
