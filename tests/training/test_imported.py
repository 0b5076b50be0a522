"""Training that starts from imported weights: a hub's folder in, a hub's folder out."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from medscope_jax import ask, convert, train
from medscope_jax.config import load_config
from medscope_jax.data.open_suite import open_suite
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import UserError
from medscope_jax.models import export_hf, read_model
from medscope_jax.models.hf import safetensors_io
from medscope_jax.training.config_checks import check_config
from medscope_jax.training.from_config import with_vocabulary
from medscope_jax.training.imported import (
    imported_params,
    keep_companions,
    read_companions,
    with_checkpoint_shapes,
)
from medscope_jax.training.workdir import Workdir
from tests.dialogue import qwen_cases
from tests.models import model_cases, weights_cases

# A byte-level vocabulary of some hundred words spells the protocol in more tokens than the suite's.
ROOM = {
    "dialogue.frame_format": "<{time:.1f}s><|vision_start|>{frame}<|vision_end|>",
    "dialogue.length": 2600,
    "dialogue.clip_length": 1400,
    "rollout.turn_tokens": 8,
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A tiny model of the family as it would come from the hub; tests only read it."""
    folder = tmp_path_factory.mktemp("hub")
    config = model_cases.tiny_config()
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocab_size=1000))
    weights_cases.write_folder(
        folder / "hf", config, weights_cases.plain_weights(config, "bfloat16")
    )
    (folder / "hf" / "tokenizer.json").write_bytes(qwen_cases.tiny())
    return folder / "hf"


@pytest.fixture(scope="module")
def checkpoint(hub):
    """The weights folder of `hub`."""
    convert.import_folder(hub, hub.parent / "checkpoint")
    return hub.parent / "checkpoint"


def of_hub(folder):
    """Name -> float32 array of a Hugging Face folder, read by this project's own reader."""
    tensors, problems = safetensors_io.read_folder(folder)
    assert not problems
    return {name: tensor.read().astype(np.float32) for name, tensor in tensors.items()}


def arguments(micro_arguments, checkpoint, **changes):
    given = [*micro_arguments, f"--config.model.checkpoint={checkpoint}"]
    return given + [f"--config.{key}={value}" for key, value in {**ROOM, **changes}.items()]


def config_of(given):
    spec, *overrides = (argument.removeprefix("--config") for argument in given)
    overrides = [override.removeprefix(".") for override in overrides]
    return with_checkpoint_shapes(load_config(spec.removeprefix("="), overrides))


def test_what_came_beside_the_weights_is_checked(checkpoint, tmp_path):
    workdir = Workdir(tmp_path)
    keep_companions(checkpoint, workdir)
    read_companions(workdir)
    file = workdir.pretrained / "tokenizer.json"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="tokenizer.json is not what .* delete that folder and"):
        read_companions(workdir)
    shutil.rmtree(workdir.pretrained)  # as it says
    keep_companions(checkpoint, workdir)
    read_companions(workdir)


@pytest.mark.parametrize("rank, dtype", [(0, "float32"), (4, "bfloat16")])
def test_the_start_is_the_imported_model(hub, checkpoint, micro_arguments, rank, dtype):
    """Whole weights train in param_dtype; under adapters the base is what the folder holds."""
    config = config_of(arguments(micro_arguments, checkpoint, **{"model.lora.rank": rank}))
    model = with_vocabulary(config.model, config.dialogue.vocab_size)
    source = read_model(checkpoint)
    assert (model.text, model.vision) == (source.text, source.vision)
    assert model.text.vocab_size == 1000  # as many rows as there are, not rounded up
    params = imported_params(checkpoint, model, make_mesh({}, jax.devices()[:1]))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {dtype}
    ours = export_hf(params, model)
    for name, array in of_hub(hub).items():
        np.testing.assert_array_equal(np.asarray(ours[name], np.float32), array, name)


def test_conversations_are_measured_with_the_imported_tokenizer(checkpoint, micro_arguments):
    """Its tokens are shorter than the suite's own, and a run that would not fit is refused."""
    mesh = make_mesh({}, jax.devices()[:1])
    config = config_of(arguments(micro_arguments, checkpoint))
    check_config(config, mesh, open_suite(config, Path()))
    short = config_of(arguments(micro_arguments, checkpoint, **{"dialogue.length": 600}))
    with pytest.raises(UserError, match=r"config\.dialogue\.length: an episode of \d+ tokens"):
        check_config(short, mesh, open_suite(short, Path()))


def test_no_weights_there(tmp_path, micro_arguments, refusal):
    given = arguments(micro_arguments, tmp_path / "nowhere")
    line = refusal(train.main, [*given, "--workdir", tmp_path / "run"])
    assert "has no model.json" in line and "convert import" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_trained_saved_exported_asked(
    hub, checkpoint, micro_arguments, tmp_path, capsys, recording
):
    """The whole way with adapters, after which the imported folder is no longer needed."""
    there = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, there)
    changes = {"model.lora.rank": 2, "model.lora.base": "float32", "warm_up.lora": True}
    changes |= {"warm_up.train_vision": False, "evaluation.traces": 1}
    given = arguments(micro_arguments, there, **changes)
    train.main([*given, "--workdir", str(tmp_path / "run")])
    shutil.rmtree(there)
    convert.main(["save", "--source", str(tmp_path / "run"), "--target", str(tmp_path / "saved")])
    assert "rl, " in capsys.readouterr().out
    export = ["export", "--source", str(tmp_path / "saved"), "--target"]
    convert.main([*export, str(tmp_path / "merged")])
    convert.main([*export, str(tmp_path / "adapter"), "--adapter"])

    before, after = of_hub(hub), of_hub(tmp_path / "merged")
    adapted = {
        name for name in before if "_proj" in name and "layers" in name and "bias" not in name
    }
    changed = {name for name, array in before.items() if not np.array_equal(array, after[name])}
    assert changed == adapted
    tensors = safetensors_io.read_header(tmp_path / "adapter" / "adapter_model.safetensors")
    scale = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    scale = scale["lora_alpha"] / scale["r"]
    name = "model.layers.0.mlp.up_proj"
    low, high = (
        next(t.read() for n, t in tensors.items() if f"layers.0.mlp.up_proj.lora_{ab}" in n)
        for ab in "AB"
    )
    expected = before[f"{name}.weight"] + scale * high @ low
    np.testing.assert_allclose(after[f"{name}.weight"], expected, rtol=1e-5, atol=1e-6)

    question = ["--video", str(recording), "--question", "What is it?"]
    ask.main(["--checkpoint", str(tmp_path / "saved"), *question])
    assert "answer" in capsys.readouterr().out
