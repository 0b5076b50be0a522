"""The small modules that both towers are made of.

Modules declare names and shapes; init_params draws the values (their initializers are constants).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from medscope_jax.models.config import ModelConfig


def precision(dtype: str) -> jax.lax.Precision | None:
    """Products of float32 matrices must be float32: TPUs and GPUs would round their inputs."""
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None


def dense(features: int, use_bias: bool, config: ModelConfig, name: str) -> nn.Dense:
    """x @ kernel (+ bias) in the ModelConfig's dtypes."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        precision=precision(config.dtype),
        kernel_init=nn.initializers.zeros,
        name=name,
    )


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
    """down(silu(gate(x)) * up(x)): the feed-forward half of a block in both towers."""

    config: ModelConfig
    intermediate_size: int
    use_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map x [..., D] to [..., D]."""
        width, rest = self.intermediate_size, (self.use_bias, self.config)
        gate = dense(width, *rest, "gate_proj")(x)
        up = dense(width, *rest, "up_proj")(x)
        return dense(x.shape[-1], *rest, "down_proj")(jax.nn.silu(gate) * up)
