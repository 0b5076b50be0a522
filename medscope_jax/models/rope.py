"""Rotary positions: three axes (time, height, width) in the decoder, two in the vision tower.

M-RoPE positions of a frame of 1 x 2 tokens between two words (grid (1, 2)):

    token   the  f0s0 f0s1  cut  <pad>
    time     0    1    1     3    0
    height   0    1    1     3    0
    width    0    1    2     3    0
"""

import jax
import jax.numpy as jnp
import numpy as np


def inverse_frequencies(dim: int, theta: float) -> np.ndarray:
    """float32 [dim / 2]: theta ** -(2 i / dim), the usual rotary frequencies.

    Rounded to float32 at the steps where PyTorch's are: the last bit of a frequency is worth 0.008
    radians at position 131,072.
    """
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    # NumPy's own float32 power is off by a bit in a quarter of its results.
    powers = np.power(np.float64(theta), exponents.astype(np.float64)).astype(np.float32)
    return np.float32(1) / powers


def mrope_positions(
    visual_index: jax.Array, valid: jax.Array, grid: tuple[int, int], start: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """M-RoPE positions of conversations, or pieces of them, whose frames are images of one size.

    A text token advances all three axes by one. The S = h' w' tokens of a frame are at
    (base, base + row, base + column), and the next token is at base + max(h', w'). A frame may be
    cut between two calls: its base is not advanced before its last token.

    Args:
        visual_index: int32 [B, L], t * S + s for token s of a frame t, or -1 for text.
        valid: bool [B, L]; padding advances nothing and gets position 0.
        grid: (h', w') merged tokens of one frame, static.
        start: int32 [B], the first position of each row (0 for a whole conversation).

    Returns:
        positions int32 [3, B, L] and next int32 [B], the `start` of what follows. Equal to
        Qwen2.5-VL's get_rope_index with each frame as its own image.
    """
    height, width = grid
    is_frame = visual_index >= 0
    token = jnp.where(is_frame, visual_index % (height * width), 0)
    block_end = token == height * width - 1
    advance = jnp.where(is_frame, jnp.where(block_end, max(height, width), 0), 1)
    advance = jnp.where(valid, advance, 0)
    after = start[:, None] + jnp.cumsum(advance, axis=1)
    base = after - advance
    positions = jnp.stack([base, base + token // width, base + token % width])
    return jnp.where(valid, positions, 0).astype(jnp.int32), after[:, -1].astype(jnp.int32)


def joined_positions(
    visual_index: jax.Array, segment: jax.Array, grid: tuple[int, int]
) -> jax.Array:
    """M-RoPE positions int32 [3, B, L] of rows of several conversations, each from 0 on.

    As mrope_positions of each conversation in a row of its own:

        segment     1  1  2  2  2  0
        time        0  1  0  1  2  0

    Args:
        visual_index: int32 [B, L], a frame's tokens being t * S + s for any t; -1 for text.
        segment: int32 [B, L], see models.Joined.
    """
    rows, valid = len(segment), segment > 0
    positions, _ = mrope_positions(visual_index, valid, grid, jnp.zeros((rows,), jnp.int32))
    begins = segment > jnp.pad(jax.lax.cummax(segment, axis=1), [(0, 0), (1, 0)])[:, :-1]
    # Time never falls along a row, so that the last beginning's is the largest up to here.
    before = jax.lax.cummax(jnp.where(begins, positions[0], 0), axis=1)
    return jnp.where(valid, positions - before, 0)


def mrope_tables(
    positions: jax.Array, head_dim: int, theta: float, section: tuple[int, int, int]
) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine, float32 [B, L, head_dim / 2], of positions [3, B, L].

    The first section[0] frequencies turn with time, the next with height, the last with width.
    """
    frequencies = np.split(inverse_frequencies(head_dim, theta), np.cumsum(section)[:-1])
    places = positions.astype(jnp.float32)[..., None]
    angles = jnp.concatenate(
        [place * freq for place, freq in zip(places, frequencies, strict=True)], axis=-1
    )
    return jnp.cos(angles), jnp.sin(angles)


def vision_tables(
    rows: np.ndarray, columns: np.ndarray, head_dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine, float32 [P, head_dim / 2], of patches at rows, columns [P] (host)."""
    freq = inverse_frequencies(head_dim // 2, 10000.0)
    angles = np.concatenate(
        [rows[:, None].astype(np.float32) * freq, columns[:, None].astype(np.float32) * freq],
        axis=-1,
    )
    return np.cos(angles), np.sin(angles)


def rotate(x: jax.Array, cos: jax.Array | np.ndarray, sin: jax.Array | np.ndarray) -> jax.Array:
    """Turn x [..., heads, head_dim] by tables [..., head_dim / 2], in float32, back in x's dtype.

    Channel i pairs with channel i + head_dim / 2, as in the Hugging Face layout of weights.
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
