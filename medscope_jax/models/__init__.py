"""Qwen2.5-VL in Flax: vision tower, decoder, M-RoPE, and Hugging Face weights in and out.

Flax stays inside this room; others see frozen configs, plain parameter trees and functions.
"""

from medscope_jax.models.config import ModelConfig, TextConfig, VisionConfig, model_config
from medscope_jax.models.huggingface import export_hf, hf_config, hf_shapes, import_hf
from medscope_jax.models.language import Cache
from medscope_jax.models.qwen import (
    count_params,
    embed,
    encode_frames,
    encode_pairs,
    forward,
    forward_cached,
    init_cache,
    init_params,
    logits,
    param_shapes,
    put_rows,
    repeat_rows,
    take_rows,
)
from medscope_jax.models.rope import mrope_positions
from medscope_jax.models.vision import frame_grid

__all__ = [
    "Cache",
    "ModelConfig",
    "TextConfig",
    "VisionConfig",
    "count_params",
    "embed",
    "encode_frames",
    "encode_pairs",
    "export_hf",
    "forward",
    "forward_cached",
    "frame_grid",
    "hf_config",
    "hf_shapes",
    "import_hf",
    "init_cache",
    "init_params",
    "logits",
    "model_config",
    "mrope_positions",
    "param_shapes",
    "put_rows",
    "repeat_rows",
    "take_rows",
]
