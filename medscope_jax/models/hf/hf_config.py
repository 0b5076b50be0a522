"""Hugging Face's config.json of Qwen2.5-VL to our ModelConfig and back.

It is spelled in three ways: the hub's of 2025 (the decoder's fields at the top, `rope_scaling` of
type "mrope"), transformers 4's (those fields again in `text_config`), and transformers 5's
(`text_config` with `rope_parameters`). Whatever equals a default of transformers may be left out.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medscope_jax.errors import UserError, one_line
from medscope_jax.models.model_config import DTYPES, ModelConfig, TextConfig, VisionConfig
from medscope_jax.strict_json import read_json_object

MODEL_TYPE = "qwen2_5_vl"
QUANTIZED = "weights are quantized ({}): take the model that they were made of"
_DEFAULT_SECTION = (16, 24, 24)
# transformers' defaults, as far as they are not ours.
_VISION_DEFAULTS = {
    "depth": 32,
    "hidden_size": 3584,
    "intermediate_size": 3420,
    "num_heads": 16,
    "fullatt_block_indexes": (7, 15, 23, 31),
    "out_hidden_size": 3584,
    "tokens_per_second": 4,
}
_VISION_ALIASES = {"num_attention_heads": "num_heads", "num_hidden_layers": "depth"}
_TEXT_DEFAULTS = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
}
# Ids of Qwen's tokenizer that the model's code asks its config for.
_TOKEN_IDS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}


def read_hf_config(file: Path) -> ModelConfig:
    """The model that a config.json describes; dtypes are left at their defaults.

    Raises:
        UserError: no such file, another model's, or one with a feature that is not supported here
            (other rotary scaling, sliding windows, quantized weights).
    """
    values = read_json_object(file)
    try:
        return from_hf_config(values)
    except UserError as error:
        raise UserError(f"{file}: {one_line(error)}") from error


def from_hf_config(values: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a config.json's values.

    Raises:
        UserError: as read_hf_config.
    """
    kind = values.get("model_type")
    if kind != MODEL_TYPE:
        raise UserError(f"a {str(kind or 'nameless')[:60]} model, not Qwen2.5-VL ({MODEL_TYPE})")
    nested, vision = _section(values, "text_config"), _section(values, "vision_config")
    for section in (values, nested, vision):
        quantization = _section(section, "quantization_config")
        if quantization:
            method = str(quantization.get("quant_method", "in some way"))[:60]
            raise UserError(QUANTIZED.format(method))
    text = nested or values
    for name, section in (("vision_config", vision), ("decoder", text)):
        activation = section.get("hidden_act", "silu")
        if activation != "silu":
            raise UserError(f"{name} has hidden_act {str(activation)[:60]}, not silu")
    for alias, name in _VISION_ALIASES.items():
        if alias in vision and vision[alias] != vision.get(name):
            raise UserError(
                f"vision_config has {alias} {repr(vision[alias])[:60]}, for transformers another "
                f"name of {name}: give the one number as {name} alone"
            )
    ties = [section.get("tie_word_embeddings") for section in (values, nested)]
    if wrong := [tie for tie in ties if tie is not None and not isinstance(tie, bool)]:
        raise UserError(f"tie_word_embeddings is {repr(wrong[0])[:60]}; it must be true or false")
    text = _TEXT_DEFAULTS | dict(text) | {"tie_word_embeddings": any(ties)} | _rotary(text)
    if text["num_key_value_heads"] is None:
        text["num_key_value_heads"] = text["num_attention_heads"]
    config = ModelConfig(
        VisionConfig(**_pick(VisionConfig, _VISION_DEFAULTS | dict(vision))),
        TextConfig(**_pick(TextConfig, text)),
    )
    _refuse_sliding(text, config.text.num_hidden_layers)
    return config


def stated_dtype(file: Path) -> str | None:
    """The dtype of a config.json's weights, as NumPy's name; None where it is none of DTYPES.

    Raises:
        UserError: it is not a name.
    """
    values = read_json_object(file)
    sections = (values, _section(values, "text_config"))
    said = (section.get(key) for section in sections for key in ("dtype", "torch_dtype"))
    name = next((value for value in said if value is not None), "")
    if not isinstance(name, str):
        raise UserError(f"{file}: dtype is {repr(name)[:60]}; it must be the name of a type")
    name = name.removeprefix("torch.")
    return name if name in DTYPES else None


def hf_config(config: ModelConfig) -> dict:
    """Keyword arguments that build the same model's `transformers.Qwen2_5_VLConfig`.

    They are spelled as the hub does, which every version of transformers and vLLM reads.
    """
    text, vision = dataclasses.asdict(config.text), dataclasses.asdict(config.vision)
    vision = {name: list(v) if isinstance(v, tuple) else v for name, v in vision.items()}
    section = list(text.pop("mrope_section"))
    last = config.text.vocab_size - 1
    ids: dict[str, int | None] = dict(_TOKEN_IDS)
    if last < max(_TOKEN_IDS.values()):  # a tiny model: its last ids, and no end of text
        ids = {name: last - place for place, name in enumerate(_TOKEN_IDS)}
        ids |= {"bos_token_id": None, "eos_token_id": None}
    return {
        **text,
        "hidden_act": "silu",
        "rope_scaling": {"type": "mrope", "mrope_section": section},
        "vision_config": {**vision, "hidden_act": "silu"},
        **ids,
    }


def hf_config_text(config: ModelConfig, kept: Path | None = None) -> str:
    """The text of an exported model's config.json.

    Args:
        config: of the exported model; param_dtype is the dtype of its tensors.
        kept: a config.json to keep, fields that we do not know included, where it describes the
            same model; its dtype is set to the exported one's.
    """
    dtype = {"torch_dtype": config.param_dtype}
    if kept is not None and kept.is_file():
        there = read_hf_config(kept)
        if (there.text, there.vision) == (config.text, config.vision):
            values = json.loads(kept.read_text())
            stated = values.get("dtype", values.get("torch_dtype"))
            if stated == config.param_dtype:
                return kept.read_text()
            values.pop("dtype", None)
            return json.dumps({**values, **dtype}, indent=2) + "\n"
    heading = {"architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": MODEL_TYPE}
    return json.dumps({**heading, **dtype, **hf_config(config)}, indent=2) + "\n"


def _pick(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields, with lists as tuples, checked to be of their kind."""
    picked = {}
    for field in dataclasses.fields(kind):
        if field.name not in values:
            continue
        value = values[field.name]
        value = tuple(value) if isinstance(value, list) else value
        wanted = type(field.default)
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        if not fits:
            shown = repr(value)[:60]
            raise UserError(f"{field.name} is {shown}; expected such as {field.default!r}")
        picked[field.name] = value
    return picked


def _rotary(text: Mapping[str, Any]) -> dict[str, Any]:
    rope = _section(text, "rope_scaling") or _section(text, "rope_parameters")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        kind = str(kind)[:60]
        raise UserError(f"rotary scaling of type {kind} is not supported, only the plain one")
    return {
        "rope_theta": rope.get("rope_theta", text.get("rope_theta", 1e6)),
        "mrope_section": rope.get("mrope_section", _DEFAULT_SECTION),
    }


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object of this name, {} where there is none; UserError where it is something else."""
    section = values.get(name)
    if section is not None and not isinstance(section, Mapping):
        raise UserError(f"{name} is {str(section)[:60]!r}; it must be an object")
    return section or {}


def _refuse_sliding(text: Mapping[str, Any], layers: int) -> None:
    first = text.get("max_window_layers", 80)
    if type(first) is not int:
        raise UserError(f"max_window_layers is {repr(first)[:60]}; it must be a whole number")
    sliding = text.get("use_sliding_window")
    if sliding not in (None, True, False):
        raise UserError(f"use_sliding_window is {repr(sliding)[:60]}; it must be true or false")
    windowed = sliding and first < layers
    kinds = text.get("layer_types")
    if windowed or "sliding_attention" in str(kinds):
        raise UserError("sliding-window attention is not supported")
    others = (
        [kind for kind in kinds if kind != "full_attention"] if isinstance(kinds, list) else [kinds]
    )
    if kinds is not None and others:
        raise UserError(
            f"layer_types is or has {repr(others[0])[:60]}; only full_attention is supported"
        )
