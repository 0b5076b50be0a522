"""Adapters in PEFT's format: adapter_model.safetensors' tensors and adapter_config.json's values.

A layer's lora_a [in, rank] is PEFT's `lora_A.weight` [rank, in], lora_b [rank, out] is
`lora_B.weight` [out, rank], under the module's path in transformers' model:

    base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from medscope_jax.errors import UserError
from medscope_jax.models.config import PROJECTIONS, LoraConfig, ModelConfig
from medscope_jax.models.lora import LEAVES, adapter_shapes, split_lora

_PREFIX = "base_model.model."
_LAYERS = "model.language_model.layers"  # older models say model.layers; PEFT maps neither
_SIDES = dict(zip(LEAVES, ("lora_A", "lora_B"), strict=True))
_NAME = re.compile(
    r"(?:base_model\.model\.)?(?:model\.language_model|language_model\.model|model)\.layers\."
    r"(?P<layer>\d+)\.(?P<part>self_attn|mlp)\.(?P<name>\w+)\."
    r"(?P<side>lora_[AB])(?:\.default)?\.weight"
)
# Settings of PEFT that change what an adapter computes, and the only values known here.
_PLAIN = {
    "use_dora": False,
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "fan_in_fan_out": False,
    "lora_bias": False,
    "layer_replication": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
}


def peft_state_dict(params: Mapping, model: ModelConfig) -> dict[str, np.ndarray]:
    """PEFT's tensors (float32, contiguous) of the adapters in params; the rest is not looked at.

    Raises:
        UserError: there are no adapters.
    """
    layers = split_lora(params)[1].get("text", {}).get("layers")
    if not layers:
        raise UserError("these parameters have no adapters; export merged weights instead")
    tensors = {}
    for part, projections in layers.items():
        for name, pair in projections.items():
            for leaf, side in _SIDES.items():
                stack = np.asarray(pair[leaf], np.float32)
                for layer in range(model.text.num_hidden_layers):
                    path = f"{_PREFIX}{_LAYERS}.{layer}.{part}.{name}.{side}.weight"
                    tensors[path] = np.ascontiguousarray(stack[layer].T)
    return tensors


def adapter_config(model: ModelConfig, base: str | None = None) -> dict[str, Any]:
    """The values of adapter_config.json for a model's adapters.

    base: name or path of the model that they are for, as PEFT's base_model_name_or_path.
    """
    lora = model.lora
    alpha = int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha
    # A pattern, because the vision tower has modules of the same names.
    targets = rf"model(\.language_model)?\.layers\.\d+\.\w+\.({'|'.join(lora.targets)})"
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "modules_to_save": None,
        "fan_in_fan_out": False,
    }


def import_peft(
    tensors: Mapping[str, np.ndarray], values: Mapping[str, Any], model: ModelConfig
) -> tuple[dict, LoraConfig]:
    """The adapters (float32) of PEFT's tensors and adapter_config.json, and what they mean.

    Give the LoraConfig to the ModelConfig that they are used with, and join_params(params,
    adapters) to the model. Which projections are adapted is read from the tensors.

    Raises:
        UserError: one line that names every tensor that is missing, extra or of a wrong shape, or
            the setting of PEFT that is not known here.
    """
    variants = {n: False for n in values if n.startswith("use_") and n != "use_rslora"}
    for name, plain in {**_PLAIN, **variants}.items():
        if values.get(name, plain) not in (plain, None):
            raise UserError(f"adapter_config.json has {name}={values[name]!r}, which is not known")
    if not all(isinstance(values.get(name), int | float) for name in ("r", "lora_alpha")):
        raise UserError("adapter_config.json does not say r and lora_alpha")
    rank, alpha = values["r"], values["lora_alpha"]
    if values.get("use_rslora"):
        alpha *= math.sqrt(rank)  # its scale is alpha / sqrt(rank)
    matches = {path: _NAME.fullmatch(path) for path in tensors}
    found = {match.groups(): path for path, match in matches.items() if match}
    known = [name for names in PROJECTIONS.values() for name in names]
    targets = tuple(name for name in known if any(key[2] == name for key in found))
    if not targets:
        raise UserError("no tensor of the adapter is of a decoder's projection")
    base = model.lora.base if model.lora else LoraConfig.base
    lora = LoraConfig(rank=rank, alpha=float(alpha), targets=targets, base=base)
    problems, adapters, used = [], {}, set()
    for part, projections in adapter_shapes(model, lora)["text"]["layers"].items():
        for name, pair in projections.items():
            for leaf, shape in pair.items():
                stack = []
                for layer in range(shape.shape[0]):
                    key = (str(layer), part, name, _SIDES[leaf])
                    wanted, path = shape.shape[:0:-1], found.get(key)
                    if path is None:
                        where = f"{_PREFIX}{_LAYERS}.{layer}.{part}.{name}.{key[-1]}.weight"
                        problems.append(f"missing {where}")
                        continue
                    used.add(path)
                    if tensors[path].shape != wanted:
                        problems.append(f"{path} is {tensors[path].shape}, must be {wanted}")
                    stack.append(np.asarray(tensors[path], np.float32).T)
                if not problems:
                    branch = adapters.setdefault(part, {}).setdefault(name, {})
                    branch[leaf] = jnp.asarray(np.stack(stack))
    problems += [f"extra {path}" for path in tensors if path not in used]
    if problems:
        raise UserError("the adapter is not of this model: " + "; ".join(problems))
    return {"text": {"layers": adapters}}, lora
