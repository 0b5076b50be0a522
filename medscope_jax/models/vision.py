"""The vision tower: from frames of one size to a few tokens a frame.

All frames of a call share a static (height, width), so the window permutation is NumPy at trace
time and windowed attention is one batched dense attention. A frame never sees its neighbours.

Example: 2 x 3 merged tokens, windows of 2 x 2. Tokens are kept in window order:

    raster   0 1 2      window order  0 1 3 4 | 2 5        places  0 1 2 3
             3 4 5                                                 4 5 - -
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.distributed import FRAMES, constrain
from medscope_jax.errors import UserError
from medscope_jax.models.attention.dense import attend
from medscope_jax.models.layers import RMSNorm, SwiGLU, dense, precision, remat
from medscope_jax.models.model_config import ModelConfig, VisionConfig
from medscope_jax.models.rope import rotate, vision_tables

# Mean and standard deviation of CLIP's training images, channels RGB in [0, 1]: what Qwen's
# processor normalizes with.
IMAGE_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
IMAGE_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


class Grid(NamedTuple):
    """Static indices of one frame size; P patches, G = P / merge^2 tokens."""

    order: np.ndarray  # int [G]: raster index of each token in window order
    places: np.ndarray  # int [windows, size]: index of each window's patches; -1 where padding
    cos: np.ndarray  # float32 [P, head_dim / 2], in window order
    sin: np.ndarray


def frame_grid(config: ModelConfig, height: int, width: int) -> tuple[int, int]:
    """Merged tokens (h', w') of a frame of height x width pixels.

    Raises:
        UserError: a side is not a positive multiple of patch_size * spatial_merge_size.
    """
    unit = config.vision.patch_size * config.vision.spatial_merge_size
    if height <= 0 or width <= 0 or height % unit or width % unit:
        raise UserError(
            f"frames of {height}x{width} pixels do not split into {unit}-pixel tokens: resize them"
        )
    return height // unit, width // unit


def make_grid(vision: VisionConfig, rows: int, columns: int) -> Grid:
    """The Grid of a frame of rows x columns merged tokens."""
    merge = vision.spatial_merge_size
    side = vision.window_size // merge // vision.patch_size
    raster = np.arange(rows * columns).reshape(rows, columns)
    windows = [
        raster[top : top + side, left : left + side].ravel()
        for top in range(0, rows, side)
        for left in range(0, columns, side)
    ]
    order = np.concatenate(windows)
    lengths = np.array([window.size for window in windows]) * merge**2
    starts = np.cumsum(lengths) - lengths
    within = np.arange(lengths.max())
    places = np.where(within < lengths[:, None], starts[:, None] + within, -1)
    # A token's merge x merge patches stand together, in raster order.
    row = (order // columns)[:, None, None] * merge + np.arange(merge)[:, None]
    column = (order % columns)[:, None, None] * merge + np.arange(merge)
    row, column = (np.broadcast_to(a, (order.size, merge, merge)).ravel() for a in (row, column))
    cos, sin = vision_tables(row, column, vision.hidden_size // vision.num_heads)
    return Grid(order, places, cos, sin)


def pick(x: jax.Array, take: np.ndarray, back: np.ndarray) -> jax.Array:
    """x[:, take] for static indices, zero where -1; x itself where `take` changes nothing.

    back: the indices that undo it. The backward pass gathers by them, because the scatter that JAX
    would derive runs element by element on a CPU.
    """
    if np.array_equal(take, np.arange(x.shape[1])):
        return x

    def gather(x, index):
        out = x[:, np.maximum(index, 0)]
        empty = (index < 0).reshape((1, -1) + (1,) * (x.ndim - 2))
        return jnp.where(empty, 0, out) if empty.any() else out

    @jax.custom_vjp
    def run(x):
        return gather(x, take)

    run.defvjp(lambda x: (gather(x, take), None), lambda _, grad: (gather(grad, back),))
    return run(x)


class VisionAttention(nn.Module):
    """Attention within windows, or within the whole frame where `whole` is true."""

    config: ModelConfig
    grid: Grid

    @nn.compact
    def __call__(self, x: jax.Array, whole: jax.Array) -> jax.Array:
        """Attend x [N, P, D] -> [N, P, D]; whole is a bool scalar (traced)."""
        vision, grid = self.config.vision, self.grid
        frames, patches, width = x.shape
        exact = precision(self.config.dtype)
        qkv = dense(3 * width, True, self.config, "qkv")(x)
        qkv = qkv.reshape(frames, patches, 3, vision.num_heads, width // vision.num_heads)
        query, key, value = (qkv[:, :, i] for i in range(3))
        query, key = rotate(query, grid.cos, grid.sin), rotate(key, grid.cos, grid.sin)

        def dense_attention(query, key, value, allowed):
            key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
            return attend(query, key, value, allowed, exact)

        def frame_wide(query, key, value):
            return dense_attention(query, key, value, None)

        def windowed(query, key, value):
            windows, size = grid.places.shape
            take, back = grid.places.ravel(), np.flatnonzero(grid.places.ravel() >= 0)

            def split(a):
                return pick(a, take, back).reshape(frames * windows, size, *a.shape[2:])

            filled = grid.places >= 0
            allowed = None if filled.all() else jnp.tile(filled[:, None], (frames, 1, 1))
            out = dense_attention(split(query), split(key), split(value), allowed)
            return pick(out.reshape(frames, windows * size, *out.shape[2:]), back, take)

        if grid.places.shape[0] == 1:  # one window holds the frame: both kinds are the same
            out = frame_wide(query, key, value)
        else:
            out = jax.lax.cond(whole, frame_wide, windowed, query, key, value)
        return dense(width, True, self.config, "proj")(out.reshape(x.shape))


class VisionBlock(nn.Module):
    """One layer of the tower, in the shape that nn.scan wants."""

    config: ModelConfig
    grid: Grid

    @nn.compact
    def __call__(self, x: jax.Array, whole: jax.Array) -> tuple[jax.Array, None]:
        """x [N, P, D] through attention and the feed-forward."""
        vision = self.config.vision
        norm = (1e-6, self.config.dtype, self.config.param_dtype)
        attention = VisionAttention(self.config, self.grid, name="attn")
        x = constrain(x, FRAMES, None, None)
        x = x + attention(RMSNorm(*norm, name="norm1")(x), whole)
        split = (FRAMES, None, ())
        mlp = SwiGLU(self.config, vision.intermediate_size, True, split, name="mlp")
        return x + mlp(RMSNorm(*norm, name="norm2")(x)), None


class VisionTower(nn.Module):
    """Patches, blocks (parameters stacked), merger."""

    config: ModelConfig

    @nn.compact
    def __call__(self, frames: jax.Array) -> jax.Array:
        """Tokens [N, S, out_hidden_size] of frames [N, t, H, W, C] in 0..255.

        t is temporal_patch_size, or 1: the frame then fills every slot of the temporal patch.
        """
        config, vision = self.config, self.config.vision
        rows, columns = frame_grid(config, *frames.shape[2:4])
        grid = make_grid(vision, rows, columns)
        x = self.embed_patches(frames, grid, rows, columns)
        block = remat(VisionBlock, config)
        whole = np.isin(np.arange(vision.depth), vision.fullatt_block_indexes)
        x, _ = nn.scan(
            block,
            variable_axes={"params": 0, "intermediates": 0},  # the latter: tests capture states
            split_rngs={"params": True},
            length=vision.depth,
        )(config, grid, name="blocks")(x, whole)
        return self.merge(x, grid)

    def embed_patches(self, frames: jax.Array, grid: Grid, rows: int, columns: int) -> jax.Array:
        """Normalized pixels through the patch projection: [N, P, D] in window order."""
        vision = self.config.vision
        merge, patch = vision.spatial_merge_size, vision.patch_size
        count, span, *_, channels = frames.shape
        kernel = self.param(
            "patch_embed",
            nn.initializers.zeros,
            (channels, vision.temporal_patch_size, patch, patch, vision.hidden_size),
            self.config.param_dtype,
        )
        if span != vision.temporal_patch_size:
            kernel = kernel.sum(axis=1, keepdims=True)
        pixels = (frames.astype(jnp.float32) / 255 - IMAGE_MEAN) / IMAGE_STD
        pixels = pixels.reshape(count, span, rows, merge, patch, columns, merge, patch, channels)
        # to [N, row, column, merge row, merge column, C, t, patch row, patch column]
        pixels = pixels.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
        pixels = pixels.reshape(count, rows * columns, -1)
        pixels = pick(pixels, grid.order, np.argsort(grid.order))
        pixels = pixels.reshape(count, rows * columns * merge**2, -1).astype(self.config.dtype)
        kernel = kernel.reshape(-1, vision.hidden_size).astype(self.config.dtype)
        return jnp.matmul(pixels, kernel, precision=precision(self.config.dtype))

    def merge(self, x: jax.Array, grid: Grid) -> jax.Array:
        """Merge patches to tokens: [N, P, D] to [N, S, out_hidden_size], raster order."""
        config, vision = self.config, self.config.vision
        x = RMSNorm(1e-6, config.dtype, config.param_dtype, name="merger_norm")(x)
        width = vision.hidden_size * vision.spatial_merge_size**2
        x = x.reshape(x.shape[0], -1, width)
        x = dense(width, True, config, "merger_in")(x)
        x = jax.nn.gelu(x, approximate=False)
        x = dense(vision.out_hidden_size, True, config, "merger_out")(x)
        return pick(constrain(x, FRAMES, None, None), np.argsort(grid.order), grid.order)
