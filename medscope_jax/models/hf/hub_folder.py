"""A Hugging Face folder of weights as one model: which tensors it has, and in which type.

transformers reads whole fine-tunes in many forms: some tensors in another type, the tied embedding
stored as the head, a head of its own beside a tied embedding. They are read here as transformers
reads them, with a note for the user; anything else is refused.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np

from medscope_jax.errors import UserError
from medscope_jax.models.hf import safetensors_io
from medscope_jax.models.hf import tensors as huggingface
from medscope_jax.models.hf.hf_config import QUANTIZED, read_hf_config, stated_dtype
from medscope_jax.models.hf.preprocessor import check_preprocessor
from medscope_jax.models.hf.safetensors_header import DTYPES, Tensor
from medscope_jax.models.model_config import DTYPES as MODEL_DTYPES
from medscope_jax.models.model_config import ModelConfig
from medscope_jax.models.weights import shorten

HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"
# Tensors that stand beside quantized ones: of fp8, GPTQ, AWQ, compressed-tensors, bitsandbytes.
_QUANTIZED = re.compile(
    r"\.(qweight|qzeros|g_idx|scales|SCB|absmax|nested_absmax|quant_map|nested_quant_map|"
    r"quant_state\..*|weight_format|weight_(zero_point|packed|shape)\w*|\w*_scale\w*)"
)
_BLOCK = 2**24  # elements that are compared at a time


@dataclasses.dataclass(frozen=True)
class HubFolder:
    """A checked folder; nothing of its tensors is in memory."""

    config: ModelConfig  # with the dtype that the tensors are to be cast to
    tensors: dict[str, Tensor]  # the model's, by the hub's names
    notes: list[str]  # for the user, a line for each departure from what the files say


def open_hub_folder(source: Path) -> HubFolder:
    """The model of a Hugging Face folder.

    Where all tensors are of one type, that is the model's, whatever config.json says. Where they
    are of several, it is the type that config.json states, or the widest.

    Raises:
        UserError: `source` is not a whole, plain Qwen2.5-VL model: every missing, extra, cut off or
            misshapen tensor is named, up to 20 of them.
    """
    file = source / "config.json"
    config = read_hf_config(file)
    check_preprocessor(source, config.vision)
    tied = config.text.tie_word_embeddings
    found, problems = safetensors_io.read_folder(source, optional=(HEAD,) if tied else ())
    tensors: dict[str, Tensor] = {}
    for name, tensor in found.items():
        hub = huggingface.hub_name(name)
        if hub in tensors:
            problems.append(f"{hub} is there in both spellings of its name")
        tensors[hub] = tensor
    _refuse_quantized(source, config, tensors)
    kinds = {tensors[name].kind for name in _known(config) if name in tensors}
    stated = stated_dtype(file)
    dtype = _common_dtype({DTYPES[kind].name for kind in kinds}, stated)
    notes: list[str] = []
    if tied and HEAD in tensors and not problems:
        config, tensors = _settle_head(config, tensors, dtype, notes)
    problems += huggingface.differences({name: t.shape for name, t in tensors.items()}, config)
    if not tied and (HEAD in tensors) != (TABLE in tensors):
        problems.append(
            f"{HEAD} and {TABLE} are two, unless config.json has tie_word_embeddings true: write "
            "it there if the model was made so"
        )
    if problems:
        raise UserError(f"{source} is not a whole model: {shorten(problems)}")
    wanted = {name: tensors[name] for name in huggingface.hf_shapes(config)}
    if stated not in (None, dtype):
        notes.append(f"all tensors are {dtype} and stay it, though config.json says {stated}")
    changed = sum(tensor.dtype.name != dtype for tensor in wanted.values())
    if changed:
        why = "config.json's dtype" if dtype == stated else "the widest that a model may have"
        notes.append(f"{changed} of {len(wanted)} tensors are cast to {dtype}, {why}")
    return HubFolder(dataclasses.replace(config, dtype=dtype, param_dtype=dtype), wanted, notes)


def cast(tensor: Tensor, block: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rows of a tensor in another type, rounded to the nearest.

    Raises:
        UserError: a number is too large for that type.
    """
    if block.dtype == dtype:
        return block
    with np.errstate(over="ignore"):
        values = block.astype(dtype)
    if not np.array_equal(np.isfinite(values), np.isfinite(block)):
        raise UserError(
            f"{tensor.file} has numbers that are too large for {dtype.name}: "
            "state another dtype in its config.json"
        )
    return values


def _settle_head(
    config: ModelConfig, tensors: dict[str, Tensor], dtype: str, notes: list[str]
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The model and tensors of a folder that ties the head to the embedding and stores a head."""
    head, table = tensors[HEAD], tensors.get(TABLE)
    if table is None:
        notes.append(f"{HEAD} is the embedding too: config.json ties them, there is no {TABLE}")
        return config, {name: t for name, t in tensors.items() if name != HEAD} | {TABLE: head}
    if head.shape == table.shape and _same(head, table, np.dtype(dtype)):
        return config, tensors
    notes.append(f"{HEAD} is used: config.json ties it to the embedding, but their numbers differ")
    text = dataclasses.replace(config.text, tie_word_embeddings=False)
    return dataclasses.replace(config, text=text), tensors


def _same(one: Tensor, other: Tensor, dtype: np.dtype) -> bool:
    """Whether two tensors of a shape have the same bits once they are cast."""
    rows = max(1, _BLOCK // max(1, int(np.prod(one.shape[1:]))))
    for start in range(0, one.shape[0] if one.shape else 1, rows):
        blocks = (cast(part, part.read(start, start + rows), dtype) for part in (one, other))
        if len({block.tobytes() for block in blocks}) > 1:
            return False
    return True


def _common_dtype(there: set[str], stated: str | None) -> str:
    """The one type that a folder's tensors are read in, of the types that are there."""
    if len(there) == 1 and there <= set(MODEL_DTYPES):
        return there.pop()
    return stated or "float32"  # the widest: neither of the 16-bit types holds the other


def _known(config: ModelConfig) -> set[str]:
    """The hub's names of the tensors that a folder of the model may have."""
    return {*huggingface.hf_shapes(config), HEAD}


def _refuse_quantized(source: Path, config: ModelConfig, tensors: dict[str, Tensor]) -> None:
    known = _known(config)
    for name, tensor in tensors.items():
        mark = name not in known and _QUANTIZED.search(name)
        if mark or (name in known and tensor.kind not in DTYPES):
            raise UserError(f"{source}: {QUANTIZED.format(f'{name} of {tensor.kind}')}")
