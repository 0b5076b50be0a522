"""Adapters in PEFT's format: adapter_model.safetensors' tensors and adapter_config.json's values.

A layer's lora_a [in, rank] is PEFT's `lora_A.weight` [rank, in], lora_b [rank, out] is
`lora_B.weight` [out, rank], under the module's path in transformers' model:

    base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from medscope_jax.errors import UserError
from medscope_jax.models.hf.peft_config import adapted, read_settings
from medscope_jax.models.lora import LEAVES, adapter_shapes, split_lora
from medscope_jax.models.model_config import PROJECTIONS, LoraConfig, ModelConfig
from medscope_jax.models.weights import shorten

_PREFIX = "base_model.model."
_DECODER = "model.language_model"  # older models say model; PEFT maps neither
_SIDES = dict(zip(LEAVES, ("lora_A", "lora_B"), strict=True))
_SPELLINGS = (  # the decoder, the vision tower, the head; in transformers' models of some years
    (_DECODER, "model.visual", "lm_head"),
    ("model", "visual", "lm_head"),
    ("language_model.model", "visual", "language_model.lm_head"),
)
_VISION = (  # modules of the vision tower that PEFT can adapt, {} a block
    *("blocks.{}.attn.qkv", "blocks.{}.attn.proj", "blocks.{}.mlp.gate_proj"),
    *("blocks.{}.mlp.up_proj", "blocks.{}.mlp.down_proj", "patch_embed.proj"),
    *("merger.mlp.0", "merger.mlp.2"),
)
_HEADS = ("embed_tokens", "lm_head")


def peft_state_dict(params: Mapping, model: ModelConfig) -> dict[str, np.ndarray]:
    """PEFT's tensors (float32, contiguous) of the adapters in params; other parameters are ignored.

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
                    path = f"{_PREFIX}{_DECODER}.layers.{layer}.{part}.{name}.{side}.weight"
                    tensors[path] = np.ascontiguousarray(stack[layer].T)
    return tensors


def adapter_config(model: ModelConfig, base: str | None = None) -> dict[str, Any]:
    """The values of adapter_config.json for a model's adapters.

    base: name or path of the model that they are for, as PEFT's base_model_name_or_path.
    """
    lora = model.lora
    assert lora is not None
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
    adapters) to the model.

    Raises:
        UserError: as plan_peft.
    """
    shapes = {name: array.shape for name, array in tensors.items()}
    lora, places = plan_peft(shapes, values, model)
    adapters: dict = {}
    for path, names in places.items():
        branch = adapters
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        stack = [np.asarray(tensors[name], np.float32).T for name in names]
        branch[path[-1]] = jnp.asarray(np.stack(stack))
    return adapters, lora


def plan_peft(
    shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, Any], model: ModelConfig
) -> tuple[LoraConfig, dict[tuple[str, ...], list[str]]]:
    """The LoraConfig of an adapter, and the tensors of each of our leaves.

    Args:
        shapes: of the tensors in adapter_model.safetensors, by name.
        values: adapter_config.json's.
        model: that the adapter is for.

    Returns:
        (LoraConfig, path of each of our stacked leaves -> its tensor in each layer, transposed).

    Raises:
        UserError: an unknown setting, modules that can't be adapted here, or tensors that are
            missing, extra or of a wrong shape: all are named in one line.
    """
    settings = read_settings(values)
    modules = _modules(model)
    given = {}
    for name in shapes:
        side = next((side for side in _SIDES.values() if f".{side}." in name), "")
        plain = name.removeprefix(_PREFIX).replace(".default.weight", ".weight")
        given[modules.get(plain.removesuffix(f".{side}.weight")), side] = name
    if not any(isinstance(module, tuple) for module, _ in given):
        raise UserError("no tensor of the adapter is of a decoder's projection")
    heads = [name for name, module in modules.items() if module in _HEADS]
    kept = set(adapted(settings, list(modules), heads))
    # A pattern may be meant for one spelling of the names: what it leaves out there is left out.
    wider = set(adapted(settings._replace(excluded=[]), list(modules), heads))
    chosen = {modules[name] for name in kept} - {modules[name] for name in wider - kept}
    if others := sorted(module for module in chosen if isinstance(module, str)):
        raise UserError(
            f"the adapter is for {shorten(others, 5)}, too, and only projections of the decoder's "
            "layers can have one here: merge it by PEFT (merge_and_unload) and import the result"
        )
    targets = tuple(
        name
        for part, names in PROJECTIONS.items()
        for name in names
        if any(module[1:] == (part, name) for module in chosen)
    )
    if not targets:
        raise UserError("target_modules of adapter_config.json names no projection of the decoder")
    base = model.lora.base if model.lora else LoraConfig.base
    lora = LoraConfig(rank=settings.rank, alpha=settings.alpha, targets=targets, base=base)
    places: dict[tuple[str, ...], list[str]] = {}
    problems, layers = [], range(model.text.num_hidden_layers)
    for part, projections in adapter_shapes(model, lora)["text"]["layers"].items():
        for name, pair in projections.items():
            for leaf, shape in pair.items():
                sources = [given.get(((i, part, name), _SIDES[leaf])) for i in layers]
                places["text", "layers", part, name, leaf] = [s for s in sources if s is not None]
                wanted = shape.shape[:0:-1]
                for layer, found in enumerate(sources):
                    if (layer, part, name) not in chosen:
                        problems.append(f"layer {layer}'s {name} is not in target_modules")
                    elif found is None:
                        where = f"{_DECODER}.layers.{layer}.{part}.{name}.{_SIDES[leaf]}.weight"
                        problems.append(f"missing {_PREFIX}{where}")
                    elif tuple(shapes[found]) != wanted:
                        problems.append(f"{found} is {tuple(shapes[found])}, must be {wanted}")
    used = {name for names in places.values() for name in names}
    problems += [f"extra {name}" for name in shapes if name not in used]
    if problems:
        raise UserError(f"the adapter is not of this model: {shorten(problems)}")
    return lora, places


def _modules(model: ModelConfig) -> dict[str, tuple[int, str, str] | str]:
    """The modules that PEFT can adapt, by each spelling of their paths.

    A decoder's projection is (layer, part, projection), any other module its name.
    """
    modules: dict[str, tuple[int, str, str] | str] = {}
    for decoder, vision, head in _SPELLINGS:
        for layer in range(model.text.num_hidden_layers):
            for part, names in PROJECTIONS.items():
                for name in names:
                    modules[f"{decoder}.layers.{layer}.{part}.{name}"] = (layer, part, name)
        for block in range(model.vision.depth):
            for name in _VISION:
                modules[f"{vision}.{name.format(block)}"] = f"visual.{name.format(block)}"
        modules |= {f"{decoder}.embed_tokens": _HEADS[0], head: _HEADS[1]}
    return modules
