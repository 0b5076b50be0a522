"""The decoder: Qwen2.5-VL's language model over embeddings, with an optional key-value cache."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from medscope_jax.distributed import BATCH, SEQUENCE, STREAM, TENSOR, constrain
from medscope_jax.models.attention.dense import Joined, Packed
from medscope_jax.models.attention.dispatch import attend_cache, attend_self
from medscope_jax.models.cache import Cache, join_layers, split_layers, write
from medscope_jax.models.layers import RMSNorm, SwiGLU, dense, precision, remat
from medscope_jax.models.model_config import ModelConfig
from medscope_jax.models.rope import mrope_tables, rotate


class Context(NamedTuple):
    """What every layer of one call shares."""

    cos: jax.Array  # float32 [B, N, head_dim / 2]
    sin: jax.Array
    # Without a cache: the real inputs, bool [B, N], or how B rows are packed or joined.
    valid: jax.Array | Packed | Joined | None
    start: jax.Array | None  # int32 [B], with a cache: position of input 0
    num_inputs: jax.Array | None  # int32 [B], with a cache: inputs to write


class Attention(nn.Module):
    """Grouped-query attention with biases on q, k and v."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, layer: jax.Array | int, cache: Cache | None, context: Context
    ) -> tuple[jax.Array, Cache | None]:
        """(attention's output [B, N, D] for x [B, N, D], the cache with this layer's inputs)."""
        text = self.config.text
        head = text.head_dim

        def project(name: str, heads: int) -> jax.Array:
            out = dense(heads * head, True, self.config, name)(x)
            return constrain(out.reshape(*x.shape[:-1], heads, head), BATCH, SEQUENCE, TENSOR, None)

        query = rotate(project("q_proj", text.num_attention_heads), context.cos, context.sin)
        key = rotate(project("k_proj", text.num_key_value_heads), context.cos, context.sin)
        value = project("v_proj", text.num_key_value_heads)
        if cache is None:
            assert context.valid is not None
            out = attend_self(query, key, value, context.valid, self.config)
        else:
            assert context.start is not None and context.num_inputs is not None
            cache = write(cache, layer, key, value, context.start, context.num_inputs)
            out = attend_cache(query, cache, layer, context.start, context.num_inputs, self.config)
        out = out.reshape(x.shape[:-1] + (-1,))
        out = dense(text.hidden_size, False, self.config, "o_proj")(out)
        return out, cache


def _stream(cache: Cache | None) -> tuple[str, ...]:
    """Mesh axes that the residual stream's positions are split over; in a rollout, context alone.

    There each device's rows are in a loop of their own, at another turn: an exchange of positions
    along tensor (a collective permute, which waits for all devices) would wait for ever.
    """
    return STREAM if cache is None else SEQUENCE


class Block(nn.Module):
    """One decoder layer, in the shape that nn.scan wants: (carry, layer index, shared) -> carry."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, carry: tuple[jax.Array, Cache | None], layer: jax.Array | int, context: Context
    ) -> tuple[tuple[jax.Array, Cache | None], None]:
        """Run on carry = (x [B, N, D], cache or None); layer: its index in the cache."""
        x, cache = carry
        text = self.config.text
        norm = (text.rms_norm_eps, self.config.dtype, self.config.param_dtype)
        out, cache = Attention(self.config, name="self_attn")(
            RMSNorm(*norm, name="input_layernorm")(x), layer, cache, context
        )
        stream = _stream(cache)
        x = constrain(x + out, BATCH, stream, None)
        split = (BATCH, SEQUENCE, TENSOR)
        mlp = SwiGLU(self.config, text.intermediate_size, False, split, name="mlp")
        x = x + mlp(RMSNorm(*norm, name="post_attention_layernorm")(x))
        return (constrain(x, BATCH, stream, None), cache), None


class LanguageModel(nn.Module):
    """Token embedding, decoder layers (parameters stacked), final norm, head."""

    config: ModelConfig

    def setup(self) -> None:
        """Declare the parameters; parameter names follow Hugging Face's."""
        config, text = self.config, self.config.text
        layers = text.num_hidden_layers
        block = remat(Block, config)
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=layers,
            unroll=layers if layers <= 4 else 1,
        )(config)
        self.norm = RMSNorm(text.rms_norm_eps, config.dtype, config.param_dtype)
        init = nn.initializers.zeros
        table = (text.vocab_size, text.hidden_size)
        self.embed_tokens = self.param("embed_tokens", init, table, config.param_dtype)
        if not text.tie_word_embeddings:
            self.lm_head = self.param("lm_head", init, table[::-1], config.param_dtype)

    def __call__(
        self, embeddings: jax.Array, context: Context, cache: Cache | None = None
    ) -> tuple[jax.Array, Cache | None]:
        """(hidden states [B, N, D] after the final norm, the cache with the new inputs)."""
        x = constrain(embeddings.astype(self.config.dtype), BATCH, _stream(cache), None)
        if cache is not None and isinstance(cache.k, tuple):
            x, cache = self.layer_by_layer(x, context, cache)
        else:
            layers = jnp.arange(self.config.text.num_hidden_layers)
            (x, cache), _ = self.layers((x, cache), layers, context)
        return self.norm(x), cache

    def layer_by_layer(
        self, x: jax.Array, context: Context, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """The layers one after the other, each with its own part of the cache."""
        block, parts = Block(self.config, parent=None), []
        for layer, part in enumerate(split_layers(cache)):
            weights = jax.tree.map(lambda w, i=layer: w[i], self.layers.variables["params"])
            (x, part), _ = block.apply({"params": weights}, (x, part), 0, context)
            parts.append(part)
        return x, join_layers(parts)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Rows [..., D] of the embedding table; ids outside the vocabulary are clipped."""
        return jnp.take(self.embed_tokens, tokens, axis=0, mode="clip").astype(self.config.dtype)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Float32 scores [..., V] of hidden states [..., D]."""
        tied = self.config.text.tie_word_embeddings
        head = self.embed_tokens.T if tied else self.lm_head
        return jnp.matmul(
            hidden,
            head.astype(self.config.dtype),
            precision=precision(self.config.dtype),
            preferred_element_type=jnp.float32,
        )


def make_context(
    config: ModelConfig,
    positions: jax.Array,
    valid: jax.Array | Packed | Joined | None = None,
    start: jax.Array | None = None,
    count: jax.Array | None = None,
) -> Context:
    """The Context of positions [3, B, N], and of valid [B, N] or, with a cache, start and count."""
    text = config.text
    cos, sin = mrope_tables(positions, text.head_dim, text.rope_theta, text.mrope_section)
    return Context(cos, sin, valid, start, count)
