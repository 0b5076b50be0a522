"""Static shapes of the model: frozen, hashable dataclasses that are safe as jit's static arguments.

Field names are those of Hugging Face's Qwen2_5_VL configs, so that a reader finds them again.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from medscope_jax.errors import UserError, closest
from medscope_jax.models.hf.config_limits import check_fields

DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Shape of the vision tower; patch_size and window_size are in pixels."""

    depth: int = 2  # blocks
    hidden_size: int = 64
    intermediate_size: int = 128
    num_heads: int = 4
    in_channels: int = 3
    patch_size: int = 14  # pixels a side
    spatial_merge_size: int = 2  # patches a side that become one token
    temporal_patch_size: int = 2  # frames a patch
    window_size: int = 112  # pixels a side of an attention window
    fullatt_block_indexes: tuple[int, ...] = (1,)  # blocks that attend over the whole frame
    out_hidden_size: int = 128  # width of a visual token: the decoder's hidden_size
    tokens_per_second: int = 2  # steps of M-RoPE's time axis a second of native video
    initializer_range: float = 0.02

    def __post_init__(self):
        """Reject values of a wrong type or out of range, in one line that names the field."""
        check_fields(self, "vision.")


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Shape of the decoder."""

    vocab_size: int = 512
    hidden_size: int = 128
    intermediate_size: int = 384
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    mrope_section: tuple[int, int, int] = (4, 6, 6)  # frequencies for time, height, width
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02

    def __post_init__(self):
        """Reject values of a wrong type or out of range, in one line that names the field."""
        check_fields(self, "text.")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


# The decoder's projections, by the part of a layer that has them.
PROJECTIONS = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
BASES = ("float32", "bfloat16", "int8")
REMAT_POLICIES = ("full", "attention", "dots")
ATTENTION = ("xla", "splash", "cudnn")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (Hu et al., 2021) on projections of the decoder, and their frozen base.

    An adapted projection is x @ kernel + (x @ lora_a) @ lora_b * alpha / rank.
    """

    rank: int = 64
    alpha: float = 128.0
    targets: tuple[str, ...] = PROJECTIONS["self_attn"] + PROJECTIONS["mlp"]
    base: str = "bfloat16"  # what frozen weights are kept in; "int8" is for the decoder's kernels

    def __post_init__(self):
        """Reject values that cannot work, in one line that says which."""
        known = PROJECTIONS["self_attn"] + PROJECTIONS["mlp"]
        check_fields(self, "lora.")
        _require(self.alpha > 0, f"lora.alpha is {self.alpha}; it must be positive")
        _require(len(self.targets) > 0, "lora.targets is empty; for no adapters set lora.rank=0")
        for name in self.targets:
            shown = name[:60]
            _require(
                name in known, f"unknown name {shown!r} in lora.targets{closest(shown, known)}"
            )
        _require(
            self.base in BASES, f"lora.base is {self.base!r}; choose one of {', '.join(BASES)}"
        )

    @property
    def scale(self) -> float:
        """The factor of an adapter's product: alpha / rank."""
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The whole model: its two towers, and how it computes.

    Attributes:
        dtype: of activations and matrix products.
        param_dtype: of stored parameters.
        remat: recompute each layer in the backward pass, which trades time for memory.
        remat_policy: what is kept all the same, see layers.remat.
        lora: what the adapters of a parameter tree mean, see lora.py; None: it has none.
        attention: the program of the decoder's self-attention, one of ATTENTION. It depends on the
            devices (see attention.dispatch.for_mesh) and is not stored with a model.
    """

    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: bool = False
    remat_policy: str = "full"
    lora: LoraConfig | None = None
    attention: str = "xla"

    def __post_init__(self):
        """Reject shapes that cannot work, in one line that says which."""
        text, vision = self.text, self.vision
        check_fields(self, "")
        choices = {"remat_policy": REMAT_POLICIES, "attention": ATTENTION}
        choices |= dict.fromkeys(("dtype", "param_dtype"), DTYPES)
        for name, known in choices.items():
            value = getattr(self, name)
            shown = repr(value)[:60]
            _require(value in known, f"{name} is {shown}; choose one of {', '.join(known)}")
        _require(
            text.hidden_size % text.num_attention_heads == 0,
            "text.hidden_size must be a multiple of num_attention_heads",
        )
        _require(
            text.num_attention_heads % text.num_key_value_heads == 0,
            "text.num_attention_heads must be a multiple of num_key_value_heads",
        )
        _require(
            len(text.mrope_section) == 3 and 2 * sum(text.mrope_section) == text.head_dim,
            f"text.mrope_section must be three numbers of sum {text.head_dim // 2}",
        )
        _require(
            vision.hidden_size % (4 * vision.num_heads) == 0,
            "vision.hidden_size must be a multiple of 4 * num_heads",
        )
        _require(
            vision.window_size >= vision.patch_size * vision.spatial_merge_size,
            "vision.window_size must hold at least one merged token",
        )
        _require(
            vision.out_hidden_size == text.hidden_size,
            "vision.out_hidden_size must equal text.hidden_size",
        )


def model_config(section: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig that a config file's section describes.

    Args:
        section: mapping (dict or ml_collections ConfigDict) with the fields of ModelConfig, where
            `vision`, `text` and `lora` are mappings themselves. Left out: the field's default,
            except vision.out_hidden_size, which follows text.hidden_size. lora.rank 0: no adapters;
            lora.targets may be one string of names.

    Raises:
        UserError: an unknown key (the closest known one is named) or an impossible shape.
    """
    values = dict(section)
    text = _build(TextConfig, _section(values, "text"), "text.")
    vision = {"out_hidden_size": text.hidden_size, **_section(values, "vision")}
    values |= {"vision": _build(VisionConfig, vision, "vision."), "text": text}
    lora = _section(values, "lora") or {"rank": 0}
    if isinstance(lora.get("targets"), str):
        lora["targets"] = lora["targets"].split()
    if lora.get("rank") != 0:
        values["lora"] = _build(LoraConfig, lora, "lora.")
    return _build(ModelConfig, values, "")


def _section(values: dict, name: str) -> dict:
    """Takes a section's values out of all, {} where there are none."""
    section = values.pop(name, None)
    _require(
        section is None or hasattr(section, "keys"),
        f"{name} is {repr(section)[:60]}; it must be a section of values",
    )
    return dict(section or {})


_Config = TypeVar("_Config", VisionConfig, TextConfig, LoraConfig, ModelConfig)


def _build(kind: type[_Config], values: dict, prefix: str) -> _Config:
    known = [field.name for field in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            raise UserError(f"unknown model key {prefix}{key[:60]}{closest(key[:60], known)}")
    given: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values.items()
    }
    return kind(**given)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)
