"""The small modules of both towers.

Modules declare names and shapes; init_params draws the values (their initializers are constants).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from medscope_jax.distributed import constrain
from medscope_jax.models.model_config import ModelConfig


def precision(dtype: jax.typing.DTypeLike) -> jax.lax.Precision | None:
    """Products of float32 matrices must be float32: TPUs and GPUs would round their inputs."""
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None


def remat(block: type[nn.Module], config: ModelConfig) -> type[nn.Module]:
    """The block; with config.remat, one whose activations are computed anew in the backward pass.

    config.remat_policy says what is kept: with "full" each layer's input alone, with "attention"
    attention's output too, so that attention runs once, with "dots" the result of every matrix
    product.
    """
    if not config.remat:
        return block
    policies = jax.checkpoint_policies
    policy = {
        "full": None,
        "attention": policies.save_only_these_names("attention"),
        "dots": policies.dots_with_no_batch_dims_saveable,
    }[config.remat_policy]
    return nn.remat(block, prevent_cse=False, policy=policy)


class Dense(nn.Module):
    """x @ kernel (+ bias) in the ModelConfig's dtypes.

    Only kernel and bias are declared; parameters may have more beside the kernel. With
    `kernel_scale` [features], the kernel is int8 and each output channel has this factor. `lora_a`
    [in, rank] and `lora_b` [rank, features] are an adapter, as of the ModelConfig's lora.
    """

    features: int
    use_bias: bool
    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map x [..., in] to [..., features]."""
        config, zeros = self.config, nn.initializers.zeros
        shape, dtype = (x.shape[-1], self.features), config.dtype
        bias = None
        kernel = self.param("kernel", zeros, shape, config.param_dtype)
        if self.use_bias:
            bias = self.param("bias", zeros, shape[1:], config.param_dtype)
        x, kernel = x.astype(dtype), kernel.astype(dtype)
        bias = None if bias is None else bias.astype(dtype)
        more: list[Any] = [
            self.get_variable("params", name) for name in ("kernel_scale", "lora_a", "lora_b")
        ]
        scale, lora_a, lora_b = more
        if scale is None:
            y = product(x, kernel)
        else:
            # Integers up to 127 are exact in bfloat16; the factor multiplies the float32 sum.
            y = (product(x, kernel, jnp.float32) * scale).astype(dtype)
        if lora_a is not None:
            if config.lora is None:
                raise ValueError("the parameters have adapters, but the ModelConfig has no lora")
            inner = product(x, lora_a.astype(dtype)) * config.lora.scale
            y += product(inner, lora_b.astype(dtype))
        if bias is not None:
            y += bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return y


def product(
    x: jax.Array, matrix: jax.Array, result: jax.typing.DTypeLike | None = None
) -> jax.Array:
    """x [..., in] @ matrix [in, out] of one dtype; `result` is the dtype of the sums."""
    return jax.lax.dot_general(
        x,
        matrix,
        (((x.ndim - 1,), (0,)), ((), ())),
        precision=precision(x.dtype),
        preferred_element_type=result,
    )


def dense(features: int, use_bias: bool, config: ModelConfig, name: str) -> Dense:
    """A projection to `features`, see Dense."""
    return Dense(features, use_bias, config, name=name)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis; statistics in float32."""

    eps: float
    dtype: str
    param_dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalize x [..., D]."""
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.eps)
        return x.astype(self.dtype) * weight.astype(self.dtype)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)): the feed-forward half of a block in both towers.

    split: mesh axes that rows, positions and width are split over in here, as of constrain.
    """

    config: ModelConfig
    intermediate_size: int
    use_bias: bool
    split: tuple[tuple[str, ...] | None, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map x [B, L, D] to [B, L, D]."""
        width, rest = self.intermediate_size, (self.use_bias, self.config)
        gate = constrain(dense(width, *rest, "gate_proj")(x), *self.split)
        up = constrain(dense(width, *rest, "up_proj")(x), *self.split)
        inner = constrain(jax.nn.silu(gate) * up, *self.split)
        return dense(x.shape[-1], *rest, "down_proj")(inner)
