"""Qwen2.5-VL weights in and out.

    python -m medscope_jax.convert import --source HF_FOLDER --target CKPT
    python -m medscope_jax.convert import --source PEFT_FOLDER --base CKPT --target ADAPTED
    python -m medscope_jax.convert save --source RUN --target CKPT [--best]
    python -m medscope_jax.convert export --source CKPT --target HF_FOLDER [--adapter]

`import` makes a weights folder (models/weights.py) of a Hugging Face folder's safetensors shards,
or of PEFT's folder of an adapter, which then points to the weights that it goes on;
`save` makes one of a training run's newest model, or of its best one in validation, which passes
through memory as a whole;
`export` makes a folder in the hub's form, with adapters merged into their kernels, or PEFT's folder
of the adapters alone; a tokenizer without a chat template is given one with tools and frames.
Numbers that are not merged are kept bit for bit. A few hundred MB of a model of any size are in
memory at a time, nothing is written before all names, shapes and dtypes are known to be right, and
the target appears when it is whole.
"""

import functools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from tqdm import tqdm

from medscope_jax.buckets import reaching
from medscope_jax.config import parse_arguments, run_main
from medscope_jax.copies import check_free, local_copy, new_target
from medscope_jax.dialogue import CHAT_TEMPLATE, load_qwen_tokenizer
from medscope_jax.dialogue.bpe_files import TOKENIZER, VOCAB
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import UserError, closest
from medscope_jax.files import check_local
from medscope_jax.models import plain_kernels, weights
from medscope_jax.models.hf import safetensors_io
from medscope_jax.models.hf import tensors as huggingface
from medscope_jax.models.hf.adapter_folder import import_adapter, is_adapter
from medscope_jax.models.hf.hf_config import hf_config_text
from medscope_jax.models.hf.hub_folder import cast, open_hub_folder
from medscope_jax.models.hf.peft import adapter_config, peft_state_dict
from medscope_jax.models.lora import LEAVES, adapter_shapes, merged_kernel
from medscope_jax.models.model_config import ModelConfig
from medscope_jax.models.qwen import count_params, param_shapes
from medscope_jax.paths import to_path
from medscope_jax.training.run import make_run
from medscope_jax.training.stage import best_model, newest_model
from medscope_jax.training.workdir import read_workdir
from medscope_jax.visible import shown

_BLOCK_BYTES = 128 * 2**20  # of one tensor in memory
Advance = Callable[[int], None]  # is told how many bytes more are done


def import_folder(
    source: Path,
    target: Path,
    advance: Advance = lambda size: None,
    tell: Callable[[str], None] = lambda line: None,
) -> ModelConfig:
    """Makes the weights folder `target` of a Hugging Face folder; returns what model it is.

    `tell` is given a line for each thing that is read otherwise than the files say it.

    Raises:
        UserError: `source` is not a whole, plain Qwen2.5-VL model (every missing, extra, cut off or
            misshapen tensor is named, up to 20 of them), or `target` exists.
    """
    check_free(target)
    opened = open_hub_folder(source)
    config, tensors = opened.config, opened.tensors
    for note in opened.notes:
        tell(note)
    try:
        load_qwen_tokenizer(source, config.text.vocab_size)
    except UserError as error:
        tell(f"the weights are imported, but can't be asked before this is mended: {error}")
    shapes = param_shapes(config)
    with new_target(target) as partial:
        stores = weights.create_arrays(partial, shapes)
        for path, leaf in huggingface.leaves(shapes):
            sources = [
                (tensors[name], layer) for name, layer in huggingface.places(path, leaf.shape)
            ]
            _fill(stores[path], path, sources, advance)
        weights.write_model(partial, config, source)
    return config


def export_folder(
    source: Path,
    target: Path,
    advance: Advance = lambda size: None,
    shard_bytes: int = safetensors_io.SHARD_BYTES,
) -> ModelConfig:
    """Makes the Hugging Face folder `target` of a weights folder; returns what model it is.

    Raises:
        UserError: `source` is no weights folder or is damaged, or `target` exists.
    """
    check_free(target)
    config = weights.read_model(source)
    stores = weights.open_arrays(source, weights.weight_shapes(config))
    sizes, planned = huggingface.hf_shapes(config), []
    for path, leaf in huggingface.leaves(param_shapes(config)):
        for name, layer in huggingface.places(path, leaf.shape):
            blocks = functools.partial(
                _read, source, stores, path, layer, sizes[name][0], config, advance
            )
            planned.append(safetensors_io.Planned(name, leaf.dtype, sizes[name], blocks))
    planned.sort(key=lambda tensor: _natural(tensor.name))
    with new_target(target) as partial:
        safetensors_io.write_folder(partial, planned, shard_bytes)
        weights.copy_companions(source, partial)
        (partial / "config.json").write_text(hf_config_text(config, source / "config.json"))
        _add_chat_template(partial)
    return config


def export_adapter(source: Path, target: Path) -> int:
    """Makes PEFT's folder `target` of a weights folder's adapters; returns their parameters.

    Raises:
        UserError: `source` is no weights folder, is damaged or has no adapters; `target` exists.
    """
    check_free(target)
    config = weights.read_model(source)
    if config.lora is None:
        raise UserError(f"{source} has no adapters: leave out --adapter to export all weights")
    adapters = weights.load_params(source, adapter_shapes(config, config.lora))
    tensors = peft_state_dict(adapters, config)
    planned = [
        safetensors_io.Planned(name, array.dtype, array.shape, functools.partial(list, [array]))
        for name, array in tensors.items()
    ]
    with new_target(target) as partial:
        safetensors_io.write_file(partial / "adapter_model.safetensors", planned)
        text = json.dumps(adapter_config(config), indent=2) + "\n"
        (partial / "adapter_config.json").write_text(text)
    return sum(array.size for array in tensors.values())


def save_run(source: Path, target: Path, best: bool = False) -> tuple[str, int]:
    """Makes the weights folder `target` of a training run; returns (model, its parameters).

    The model is the last finished one, rl or else sft, or with `best` the one of all its steps that
    was best in validation; it passes through memory as a whole.
    Adapters stay beside their kernels, so that an export can merge them or hand out them alone;
    int8 kernels are written as the float32 ones that they stand for, those the adapters were
    trained on. The tokenizer of imported weights goes along; a run from random weights has one of
    SentencePiece's, which stays in the run.

    Raises:
        UserError: `source` is no run or has no finished model, or `target` exists.
    """
    check_free(target)
    workdir, config = read_workdir(source)
    run = make_run(config, workdir, make_mesh({}, jax.devices()[:1]))
    name, params = (best_model if best else newest_model)(run, workdir)
    params = plain_kernels(params)
    like = local_copy(workdir.pretrained) if config.model.checkpoint else None
    weights.save_params(target, params, run.model, like)
    return name, sum(leaf.size for leaf in jax.tree.leaves(params))


def _add_chat_template(folder: Path) -> None:
    """Adds our chat template to a hub's folder that has a tokenizer and none of its own."""
    config = folder / "tokenizer_config.json"
    named = config.is_file() and '"chat_template"' in config.read_text(errors="replace")
    has_tokenizer = any((folder / name).is_file() for name in (TOKENIZER, VOCAB))
    if has_tokenizer and not named and not any(folder.glob("chat_template.*")):
        shutil.copyfile(CHAT_TEMPLATE, folder / CHAT_TEMPLATE.name)


def _fill(
    store: ts.TensorStore,
    path: huggingface.Path,
    sources: list[tuple[safetensors_io.Tensor, int | None]],
    advance: Advance,
) -> None:
    """Writes one of our arrays: a small stack at once, anything else block by block."""
    dtype = store.dtype.numpy_dtype
    if sources[0][1] is not None and weights.is_one_chunk(store):
        layers = [cast(tensor, tensor.read(), dtype) for tensor, _ in sources]
        stack = np.stack([huggingface.to_ours(path, layer) for layer in layers])
        store.write(stack).result()
        advance(stack.nbytes)
        return
    for tensor, layer in sources:
        place = store if layer is None else store[layer]
        for start, stop in _blocks(place, path, tensor.shape[0]):
            block = cast(tensor, tensor.read(start, stop), dtype)
            _rows(place, path, start, stop).write(huggingface.to_ours(path, block)).result()
            advance(block.nbytes)


def _read(
    source: Path,
    stores: dict[huggingface.Path, ts.TensorStore],
    path: huggingface.Path,
    layer: int | None,
    rows: int,
    config: ModelConfig,
    advance: Advance,
) -> Iterator[np.ndarray]:
    """The hub's tensor of one of our arrays, cut along its first axis; adapters are merged."""
    paths = [path]
    if path[-1] == "kernel" and (*path[:-1], LEAVES[0]) in stores:
        paths += [(*path[:-1], name) for name in LEAVES]
    place, *pair = (stores[at] if layer is None else stores[at][layer] for at in paths)
    for start, stop in _blocks(place, path, rows):
        try:
            block = _rows(place, path, start, stop).read().result()
            if pair:
                assert config.lora is not None  # or there were no adapters
                low, high = pair[0].read().result(), pair[1][:, start:stop].read().result()
                block = np.asarray(merged_kernel(block, low, high, config.lora.scale))
        except (OSError, ValueError) as error:
            raise weights.damage(source, error) from error
        block = block.astype(config.param_dtype, copy=False)
        yield huggingface.to_theirs(path, block)
        advance(block.nbytes)


def _blocks(place: ts.TensorStore, path: huggingface.Path, rows: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of rows of the hub's tensor: whole chunks of ours, within _BLOCK_BYTES."""
    chunks: Any = place.chunk_layout.write_chunk.shape  # never None, once an array is there
    chunk = chunks[huggingface.first_axis(path)]
    row_bytes = place.size // rows * place.dtype.numpy_dtype.itemsize
    step = max(1, _BLOCK_BYTES // (row_bytes * chunk)) * chunk
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def _rows(place: ts.TensorStore, path: huggingface.Path, start: int, stop: int) -> ts.TensorStore:
    """The part of our array that holds rows start to stop of the hub's tensor."""
    return place[..., start:stop] if huggingface.first_axis(path) == -1 else place[start:stop]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts names by layer: 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


COMMANDS = ("import", "save", "export")


def main(argv: Sequence[str]) -> None:
    """Converts as a command line says."""
    command = argv[0] if argv else ""
    if command not in (*COMMANDS, "--help", "-h"):
        raise UserError(
            f"say what to do first: {', '.join(COMMANDS)}; not {command!r}"
            f"{closest(command, COMMANDS)}"
        )
    options = {
        "--source": {"required": True, "metavar": "DIR", "help": "what to convert"},
        "--target": {"required": True, "metavar": "DIR", "help": "the folder to make"},
    }
    if command not in ("save", "export"):
        text = "of PEFT's adapter: the weights folder that it goes on"
        options["--base"] = {"metavar": "CKPT", "help": text}
    if command not in ("import", "save"):
        text = "export the adapters alone, in PEFT's format"
        options["--adapter"] = {"action": "store_true", "help": text}
    if command not in ("import", "export"):
        text = "of all validated checkpoints the best, in place of the newest model"
        options["--best"] = {"action": "store_true", "help": text}
    flags = parse_arguments(__doc__, argv[command in COMMANDS :], options)
    jax.config.update("jax_platforms", "cpu")  # accelerators, if any, have nothing to do with it
    source, target = to_path(flags.source, "--source"), to_path(flags.target, "--target")
    if command == "import":
        check_local(flags.base or "", "--base")
    with reaching(source):
        there = source.is_dir()
    if not there:
        raise UserError(f"--source {source} is no folder")
    source = source if command == "save" else local_copy(source)
    if command == "export" and flags.adapter:
        print(f"{export_adapter(source, target):,} parameters of adapters: {shown(target)}")
        return
    if command == "import" and (is_adapter(source) or flags.base):
        lora, notes = import_adapter(source, flags.base and Path(flags.base), target)
        for note in notes:
            print(f"{shown(source)}: {shown(note)}")
        names = " ".join(lora.targets)
        where = f"on the weights in {shown(flags.base)}: {shown(target)}"
        print(f"adapters of rank {lora.rank} on {names}, {where}")
        return
    if command == "save":
        name, count = save_run(source, target, flags.best)
        print(f"{name}, {count:,} parameters: {shown(target)}")
        return
    kind = {"unit": "B", "unit_scale": True, "leave": False, "disable": None}
    with tqdm(desc=f"{command}ing", total=_size(source), **kind) as bar:
        if command == "import":
            config = import_folder(
                source, target, bar.update, lambda note: bar.write(f"{shown(source)}: {note}")
            )
        else:
            config = export_folder(source, target, bar.update)
    print(f"{count_params(config):,} parameters in {config.param_dtype}: {shown(target)}")


def _size(folder: Path) -> int | None:
    """Bytes to convert, near enough for a progress bar; None where that is not known yet."""
    if (folder / weights.MODEL).is_file():
        config = weights.read_model(folder)
        return count_params(config) * np.dtype(config.param_dtype).itemsize
    files = (file for file in folder.glob("*.safetensors") if file.is_file())  # no dangling link
    return sum(file.stat().st_size for file in files) or None


if __name__ == "__main__":
    run_main(main)
