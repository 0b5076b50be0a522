"""The four published sizes of Qwen2.5-VL-Instruct, as their config.json files on the hub say.

| size | parameters | decoder: width, layers, heads / key-value heads | vision feed-forward |
|---|---|---|---|
| 3b | 3,754,622,976 | 2048, 36, 16 / 2, tied embeddings | 3420 |
| 7b | 8,292,166,656 | 3584, 28, 28 / 4 | 3420 |
| 32b | 33,452,718,336 | 5120, 64, 40 / 8 | 3456 |
| 72b | 73,410,777,344 | 8192, 80, 64 / 8 | 3456 |
"""

from collections.abc import Mapping

from medscope_jax.errors import UserError, closest
from medscope_jax.models.model_config import ModelConfig, TextConfig, VisionConfig

# vocabulary, width, feed-forward width, layers, heads, key-value heads, tied; vision feed-forward
_SIZES = {
    "3b": (151936, 2048, 11008, 36, 16, 2, True, 3420),
    "7b": (152064, 3584, 18944, 28, 28, 4, False, 3420),
    "32b": (152064, 5120, 27648, 64, 40, 8, False, 3456),
    "72b": (152064, 8192, 29568, 80, 64, 8, False, 3456),
}
PRESETS = tuple(_SIZES)


def preset(size: str, dtype: str = "bfloat16", remat: bool = False) -> ModelConfig:
    """The ModelConfig of a published size.

    Args:
        size: "3b", "7b", "32b" or "72b".
        dtype: of parameters and of activations.
        remat: recompute each layer in the backward pass.

    Raises:
        UserError: another size.
    """
    if size not in _SIZES:
        known = ", ".join(PRESETS)
        raise UserError(f"no published size {size!r}{closest(size, PRESETS)}; there are {known}")
    vocabulary, width, feed_forward, layers, heads, kv_heads, tied, vision = _SIZES[size]
    return ModelConfig(
        VisionConfig(
            depth=32,
            hidden_size=1280,
            intermediate_size=vision,
            num_heads=16,
            patch_size=14,
            spatial_merge_size=2,
            temporal_patch_size=2,
            window_size=112,
            fullatt_block_indexes=(7, 15, 23, 31),
            out_hidden_size=width,
        ),
        TextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=feed_forward,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            rms_norm_eps=1e-6,
            rope_theta=1e6,
            mrope_section=(16, 24, 24),
            tie_word_embeddings=tied,
        ),
        dtype=dtype,
        param_dtype=dtype,
        remat=remat,
    )


def published_size(section: Mapping) -> str:
    """Which of PRESETS has the shapes of a config's model section; "" if none has."""
    for size in PRESETS:
        model = preset(size)
        if all(
            value == getattr(getattr(model, tower), key)
            for tower in ("vision", "text")
            for key, value in section[tower].items()
            if key != "initializer_range"
        ):
            return size
    return ""
