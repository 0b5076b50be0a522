"""The decoder: Qwen2.5-VL's language model over embeddings, with an optional key-value cache."""

from typing import NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from medscope_jax.models.attention import attend
from medscope_jax.models.config import ModelConfig
from medscope_jax.models.layers import RMSNorm, SwiGLU, dense, precision
from medscope_jax.models.rope import mrope_tables, rotate


class Cache(flax.struct.PyTreeNode):
    """Keys (rotated) and values of what each row has seen; slot i of a row is its i-th input.

    k, v: [layers, B, M, K, head_dim] in the model's dtype.
    """

    k: jax.Array
    v: jax.Array


class Context(NamedTuple):
    """What every layer of one call shares."""

    cos: jax.Array  # float32 [B, N, head_dim / 2]
    sin: jax.Array
    allowed: jax.Array  # bool [B, N, M]: query n may look at key m
    slots: jax.Array | None  # int32 [B, N]: cache slot of input n; M where it is not to be written


class Attention(nn.Module):
    """Grouped-query attention with biases on q, k and v."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x, layer, cache: Cache | None, context: Context):
        """Attend from x [B, N, D]; returns ([B, N, D], cache with this layer's slots written)."""
        text = self.config.text
        head = text.head_dim

        def project(name: str, heads: int) -> jax.Array:
            out = dense(heads * head, True, text.initializer_range, self.config, name)(x)
            return out.reshape(*x.shape[:-1], heads, head)

        query = rotate(project("q_proj", text.num_attention_heads), context.cos, context.sin)
        key = rotate(project("k_proj", text.num_key_value_heads), context.cos, context.sin)
        value = project("v_proj", text.num_key_value_heads)
        if cache is not None:
            rows = jnp.arange(x.shape[0])[:, None]
            # mode "drop": padding inputs carry slot M, which is out of bounds on purpose.
            put = {"mode": "drop", "unique_indices": False}
            cache = Cache(
                cache.k.at[layer, rows, context.slots].set(key, **put),
                cache.v.at[layer, rows, context.slots].set(value, **put),
            )
            key = jax.lax.dynamic_index_in_dim(cache.k, layer, keepdims=False)
            value = jax.lax.dynamic_index_in_dim(cache.v, layer, keepdims=False)
        out = attend(query, key, value, context.allowed).reshape(x.shape[:-1] + (-1,))
        out = dense(text.hidden_size, False, text.initializer_range, self.config, "o_proj")(out)
        return out, cache


class Block(nn.Module):
    """One decoder layer, in the shape that nn.scan wants: (carry, layer index, shared) -> carry."""

    config: ModelConfig

    @nn.compact
    def __call__(self, carry, layer, context: Context):
        """Run layer `layer` on carry = (x [B, N, D], cache or None)."""
        x, cache = carry
        text = self.config.text
        norm = (text.rms_norm_eps, self.config.dtype, self.config.param_dtype)
        out, cache = Attention(self.config, name="self_attn")(
            RMSNorm(*norm, name="input_layernorm")(x), layer, cache, context
        )
        x = x + out
        mlp = SwiGLU(self.config, text.intermediate_size, False, text.initializer_range, name="mlp")
        x = x + mlp(RMSNorm(*norm, name="post_attention_layernorm")(x))
        return (x, cache), None


class LanguageModel(nn.Module):
    """Token embedding, decoder layers (parameters stacked), final norm, head."""

    config: ModelConfig

    def setup(self):
        """Declare the parameters; parameter names follow Hugging Face's."""
        config, text = self.config, self.config.text
        layers = text.num_hidden_layers
        block = nn.remat(Block, prevent_cse=False) if config.remat else Block
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=layers,
            unroll=layers if layers <= 4 else 1,
        )(config)
        self.norm = RMSNorm(text.rms_norm_eps, config.dtype, config.param_dtype)
        init = nn.initializers.normal(text.initializer_range)
        table = (text.vocab_size, text.hidden_size)
        self.embed_tokens = self.param("embed_tokens", init, table, config.param_dtype)
        if not text.tie_word_embeddings:
            self.lm_head = self.param("lm_head", init, table[::-1], config.param_dtype)

    def __call__(self, embeddings, context: Context, cache: Cache | None = None):
        """Hidden states [B, N, D] after the final norm, and the cache with new slots written."""
        layers = jnp.arange(self.config.text.num_hidden_layers)
        x = embeddings.astype(self.config.dtype)
        (x, cache), _ = self.layers((x, cache), layers, context)
        return self.norm(x), cache

    def embed(self, tokens):
        """Rows [..., D] of the embedding table; ids outside the vocabulary are clipped."""
        return jnp.take(self.embed_tokens, tokens, axis=0, mode="clip").astype(self.config.dtype)

    def logits(self, hidden):
        """Float32 scores [..., V] of hidden states [..., D]."""
        tied = self.config.text.tie_word_embeddings
        head = self.embed_tokens.T if tied else self.lm_head
        return jnp.matmul(
            hidden,
            head.astype(self.config.dtype),
            precision=precision(self.config.dtype),
            preferred_element_type=jnp.float32,
        )


def make_context(config: ModelConfig, positions, allowed, slots=None) -> Context:
    """The Context of positions [3, B, N], allowed [B, N, M] and, with a cache, slots [B, N]."""
    text = config.text
    cos, sin = mrope_tables(positions, text.head_dim, text.rope_theta, text.mrope_section)
    return Context(cos, sin, allowed, slots)
