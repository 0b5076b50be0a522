"""Qwen2.5-VL in Flax: vision tower, decoder, M-RoPE, and Hugging Face weights in and out.

Flax stays inside this room; others see frozen configs, plain parameter trees and functions.
"""

from medscope_jax.models.attention.dense import Joined, Packed
from medscope_jax.models.attention.dispatch import for_mesh
from medscope_jax.models.cache import Cache, Prefix, init_cache, put_rows, take_rows
from medscope_jax.models.hf.hf_config import hf_config
from medscope_jax.models.hf.peft import adapter_config, import_peft, peft_state_dict
from medscope_jax.models.hf.tensors import export_hf, hf_shapes, import_hf
from medscope_jax.models.lora import (
    adapter_shapes,
    add_lora,
    join_params,
    merge_lora,
    pick_params,
    split_lora,
)
from medscope_jax.models.model_config import (
    LoraConfig,
    ModelConfig,
    TextConfig,
    VisionConfig,
    model_config,
)
from medscope_jax.models.presets import PRESETS, preset
from medscope_jax.models.quantize import (
    cast_params,
    freeze,
    int8_kernels,
    plain_kernels,
    rounding_error,
)
from medscope_jax.models.qwen import (
    count_params,
    embed,
    encode_frames,
    forward,
    forward_cached,
    init_params,
    logits,
    param_shapes,
)
from medscope_jax.models.rope import joined_positions, mrope_positions
from medscope_jax.models.vision import frame_grid
from medscope_jax.models.weights import load_params, read_model, save_params, weight_shapes

__all__ = [
    "PRESETS",
    "Cache",
    "Prefix",
    "Joined",
    "LoraConfig",
    "ModelConfig",
    "Packed",
    "TextConfig",
    "VisionConfig",
    "adapter_config",
    "adapter_shapes",
    "add_lora",
    "cast_params",
    "count_params",
    "embed",
    "encode_frames",
    "export_hf",
    "for_mesh",
    "forward",
    "forward_cached",
    "frame_grid",
    "freeze",
    "int8_kernels",
    "hf_config",
    "hf_shapes",
    "import_hf",
    "import_peft",
    "init_cache",
    "init_params",
    "join_params",
    "joined_positions",
    "load_params",
    "logits",
    "merge_lora",
    "model_config",
    "mrope_positions",
    "param_shapes",
    "peft_state_dict",
    "pick_params",
    "plain_kernels",
    "preset",
    "put_rows",
    "read_model",
    "rounding_error",
    "save_params",
    "split_lora",
    "take_rows",
    "weight_shapes",
]
