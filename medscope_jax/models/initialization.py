"""Initial parameters of a model without pretrained weights: able to copy, with ordered times.

A laptop's model has minutes of training, and must first learn to find the frame that shows
something and to copy that frame's time. Three changes of a random model shorten this: value and
output projections that undo each other, so that attending to a token makes it likelier to be
written (after the mimetic initialization of Trockman and Kolter, 2023); a few heads that attend a
fixed number of positions back; and embeddings of times that lie along a curve, so that near times
are alike.
"""

import jax
import jax.numpy as jnp

from medscope_jax.models import ModelConfig

_EMBEDDING_SPREAD = 0.1  # standard deviation of the embedding table
_DOWN_GAIN, _VISUAL_GAIN = 0.2, 0.25
_COPY_GAIN = 0.1  # of one head's output to its input, where it attends to a single token
# Positions that each head of the first layers attends back; 0: a head that is left as it is.
_OFFSETS = ((1, 2, 3, 0), (1, 0, 3, 0))
_LOOK_BACK = 3.5  # size of the biases: about 10 times the weight of a neighbouring position
_SHORTEST, _LONGEST = 2.5, 500.0  # seconds, periods of the curve's waves


def with_balanced_scales(params: dict) -> dict:
    """Parameters whose random layers add little to a token's own embedding.

    With one standard deviation for all parameters, the feed-forward layers of a narrow model add
    three times the norm of a token's embedding to the residual stream, and a visual token has eight
    times the norm of a word.
    """
    text, vision = params["text"], params["vision"]
    table = text["embed_tokens"]
    layers = text["layers"]
    down = layers["mlp"]["down_proj"]
    mlp = layers["mlp"] | {"down_proj": down | {"kernel": down["kernel"] * _DOWN_GAIN}}
    text = text | {
        "embed_tokens": table * (_EMBEDDING_SPREAD / jnp.std(table)),
        "layers": layers | {"mlp": mlp},
    }
    merger = vision["merger_out"]
    vision = vision | {"merger_out": merger | {"kernel": merger["kernel"] * _VISUAL_GAIN}}
    return params | {"text": text, "vision": vision}


def with_copying_heads(params: dict, model: ModelConfig, key: jax.Array) -> dict:
    """Parameters whose heads' output projections are their value projections, transposed."""
    text = model.text
    heads, kv_heads, width = text.num_attention_heads, text.num_key_value_heads, text.head_dim
    layers = params["text"]["layers"]
    attention = layers["self_attn"]
    shape = (text.num_hidden_layers, text.hidden_size, kv_heads * width)
    # Layer by layer: a batched decomposition shares its work among the host's threads, which
    # deadlock where each of several CPU devices holds one and waits for another.
    value = jax.lax.map(lambda drawn: jnp.linalg.qr(drawn)[0], jax.random.normal(key, shape))
    output = value.reshape(*shape[:2], kv_heads, width)
    output = jnp.repeat(output, heads // kv_heads, axis=2).reshape(*shape[:2], heads * width)
    dtype = attention["v_proj"]["kernel"].dtype
    changed = {
        "v_proj": attention["v_proj"] | {"kernel": value.astype(dtype)},
        "o_proj": {"kernel": (_COPY_GAIN * output.swapaxes(1, 2)).astype(dtype)},
    }
    text = params["text"] | {"layers": layers | {"self_attn": attention | changed}}
    return params | {"text": text}


def with_local_heads(params: dict, model: ModelConfig) -> dict:
    """Parameters whose first layers have heads that attend a fixed number of positions back.

    So a frame's stamp has access to what its frame shows and to the stamp before it. Only biases
    are set: rotated by the position, they score cos(frequency * (distance - offset)), summed over
    frequencies, which is largest at the offset.
    """
    text = model.text
    layers = params["text"]["layers"]
    attention = layers["self_attn"]
    width, group = text.head_dim, text.num_attention_heads // text.num_key_value_heads
    frequency = text.rope_theta ** (-jnp.arange(width // 2) * 2.0 / width)
    query, key = attention["q_proj"]["bias"], attention["k_proj"]["bias"]
    straight = _LOOK_BACK * jnp.concatenate([jnp.ones(width // 2), jnp.zeros(width // 2)])
    for layer, offsets in enumerate(_OFFSETS[: text.num_hidden_layers]):
        for head, offset in enumerate(offsets[: text.num_attention_heads]):
            if not offset:
                continue
            angle = frequency * offset
            turned = _LOOK_BACK * jnp.concatenate([jnp.cos(angle), -jnp.sin(angle)])
            place, shared = head * width, head // group * width
            query = query.at[layer, place : place + width].set(turned.astype(query.dtype))
            key = key.at[layer, shared : shared + width].set(straight.astype(key.dtype))
    changed = {
        "q_proj": attention["q_proj"] | {"bias": query},
        "k_proj": attention["k_proj"] | {"bias": key},
    }
    text = params["text"] | {"layers": layers | {"self_attn": attention | changed}}
    return params | {"text": text}


def tick_embeddings(seconds: jax.Array, width: int, key: jax.Array) -> jax.Array:
    """Points [N, width] on a smooth curve for times [N] in seconds, with unit mean square.

    Sines and cosines of logarithmically spaced periods, turned by a random rotation so that they
    use all of the width and no unit stands for time alone.

    width: even.
    """
    waves = width // 2
    periods = jnp.geomspace(_SHORTEST, _LONGEST, waves)
    angles = 2 * jnp.pi * seconds[:, None] / periods
    curve = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1) * jnp.sqrt(2.0)
    rotation, _ = jnp.linalg.qr(jax.random.normal(key, (width, width)))
    return curve @ rotation


def with_ticks(params: dict, ids: jax.Array, seconds: jax.Array, key: jax.Array) -> dict:
    """Parameters whose embedding rows `ids` [N] are those of times [N], scaled as the others."""
    table = params["text"]["embed_tokens"]
    points = tick_embeddings(seconds, table.shape[1], key) * jnp.std(table)
    text = {**params["text"], "embed_tokens": table.at[ids].set(points.astype(table.dtype))}
    return {**params, "text": text}
