"""Import of a PEFT adapter's folder as a weights folder: the adapters, and the path of the base."""

import dataclasses
from pathlib import Path

import numpy as np

from medscope_jax.copies import check_free, new_target
from medscope_jax.errors import UserError
from medscope_jax.models import weights
from medscope_jax.models.hf.peft import plan_peft
from medscope_jax.models.hf.peft_config import FILE
from medscope_jax.models.hf.safetensors_header import DTYPES, Tensor, read_header
from medscope_jax.models.lora import adapter_shapes
from medscope_jax.models.model_config import LoraConfig
from medscope_jax.models.weight_arrays import create_arrays, is_one_chunk
from medscope_jax.strict_json import read_json_object

_TENSORS, _PICKLED = "adapter_model.safetensors", "adapter_model.bin"


def is_adapter(folder: Path) -> bool:
    """Whether PEFT wrote the folder."""
    return (folder / FILE).exists() or (folder / _TENSORS).exists() or (folder / _PICKLED).exists()


def import_adapter(source: Path, base: Path | None, target: Path) -> tuple[LoraConfig, list[str]]:
    """Makes the weights folder `target` of PEFT's folder `source`.

    Args:
        source: with adapter_config.json and adapter_model.safetensors.
        base: the weights folder that the adapter is for. Its path is stored, nothing is copied.
        target: the new folder.

    Returns:
        (the adapters' LoraConfig, notes for the user).

    Raises:
        UserError: a file is missing or broken, a setting or tensor is unknown, the adapter is
            another model's, `base` is no whole model, or `target` exists.
    """
    check_free(target)
    if not is_adapter(source):
        raise UserError(
            f"--base is for an adapter of PEFT's, and {source} has no {FILE}: leave it out"
        )
    if base is None:
        raise UserError(
            f"{source} holds an adapter of PEFT's: name the weights folder that it goes on with "
            "--base (if there is a whole model beside it, move one of the two elsewhere)"
        )
    model = weights.read_model(base)
    if model.lora is not None or weights.base_of(base):
        raise UserError(
            f"--base {base} holds only a part of a model, or adapters already: export it, import "
            "what comes of it, and name that folder"
        )
    values, tensors = read_json_object(source / FILE), _read_tensors(source)
    lora, places = plan_peft({name: t.shape for name, t in tensors.items()}, values, model)
    shapes = adapter_shapes(model, lora)
    with new_target(target) as partial:
        stores = create_arrays(partial, shapes)
        for path, names in places.items():
            layers = (tensors[name].read().astype(np.float32).T for name in names)
            if is_one_chunk(stores[path]):
                stores[path].write(np.stack(list(layers))).result()
                continue
            for layer, array in enumerate(layers):
                stores[path][layer].write(array).result()
        weights.write_model(partial, dataclasses.replace(model, lora=lora), base, base)
    return lora, _notes(values, source, base)


def _read_tensors(source: Path) -> dict[str, Tensor]:
    """The tensors of an adapter by name, not yet read."""
    if not (source / _TENSORS).exists() and (source / _PICKLED).exists():
        raise UserError(
            f"{source / _PICKLED} is pickled, which can run any code, and is not read: load the "
            "adapter by PEFT, save it by save_pretrained, and name the folder that comes of it"
        )
    tensors = read_header(source / _TENSORS)
    problems = [f"{name} is cut off" for name, tensor in tensors.items() if tensor.cut]
    known = f"must be {' or '.join(DTYPES)}"
    problems += [f"{n} is {t.kind}, {known}" for n, t in tensors.items() if t.kind not in DTYPES]
    if problems:
        raise UserError(f"{source / _TENSORS}: {weights.shorten(problems)}")
    return tensors


def _notes(values: dict, source: Path, base: Path) -> list[str]:
    notes = []
    named = values.get("base_model_name_or_path")
    if named and Path(str(named)).name != base.resolve().name:
        notes.append(f"the adapter says that it was made for {str(named)[:200]!r}: is that {base}?")
    if any((source / name).exists() for name in ("tokenizer.json", "vocab.json")):
        notes.append("the tokenizer beside the adapter is not taken: the base's is")
    return notes
