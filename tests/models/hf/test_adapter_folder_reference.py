"""Adapters that PEFT itself writes: its own logits after `convert import`, or a refusal."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax import convert, models
from medscope_jax.errors import UserError
from tests.models import model_cases, weights_cases

pytestmark = pytest.mark.reference
CONFIG = model_cases.tiny_config()
DECODER = r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(folder, its Hugging Face weights, rows to compute, frames)."""
    pytest.importorskip("torch", reason="the live comparison needs PyTorch")
    pytest.importorskip("transformers", reason="the live comparison needs transformers")
    pytest.importorskip("peft", reason="the live comparison needs PEFT")
    folder = tmp_path_factory.mktemp("peft")
    weights = weights_cases.plain_weights(CONFIG, "float32")
    weights_cases.write_folder(folder / "hf", CONFIG, weights)
    convert.import_folder(folder / "hf", folder / "base")
    frames = model_cases.random_frames(3, 28, 56, seed=3)
    conversations = [model_cases.random_conversation(CONFIG, 3, 2, n, n) for n in (30, 21)]
    return folder, weights, model_cases.pad_rows(conversations, 30), frames


def theirs(world, name, trained=True, **options):
    """(PEFT's logits of an adapter made with these options, the folder that it was saved to)."""
    import peft
    import torch

    from tests.models import torch_reference

    folder, weights, rows, frames = world
    torch.manual_seed(1)
    options = {"r": 4, "lora_alpha": 6, "target_modules": DECODER, **options}
    adapted = peft.get_peft_model(
        torch_reference.build(CONFIG, weights), peft.LoraConfig(**options)
    )
    with torch.no_grad():
        for key, value in adapted.named_parameters():
            if "lora_" in key and trained:
                value.add_(torch.randn_like(value) * 0.1)
    saved = folder / name
    adapted.save_pretrained(saved)
    loaded = peft.PeftModel.from_pretrained(torch_reference.build(CONFIG, weights), str(saved))
    return torch_reference.logits(loaded.base_model.model, CONFIG, *rows, frames), saved


def ours(world, saved):
    """Our logits of the same adapter, imported by the command line onto the imported base."""
    target = saved.with_name(saved.name + "_ck")
    flags = ["--source", saved, "--base", world[0] / "base", "--target", target]
    convert.main(["import", *map(str, flags)])
    return logits(world, target)


def logits(world, target):
    """Our logits of a weights folder."""
    _, _, rows, frames = world
    config = dataclasses.replace(models.read_model(target), dtype="float32")
    params = models.load_params(target, models.weight_shapes(config))
    tokens, index, valid = map(jnp.asarray, rows)
    bank = models.encode_frames(params, config, frames).reshape(-1, 64)
    inputs = models.embed(params, config, tokens, index, bank)
    positions, _ = models.mrope_positions(index, valid, (1, 2), jnp.zeros(2, jnp.int32))
    hidden = models.forward(params, config, inputs, positions, valid)
    return np.asarray(models.logits(params, config, hidden))


@pytest.mark.parametrize(
    "name, options",
    [
        ("plain", {}),
        ("gaussian", {"init_lora_weights": "gaussian"}),
        ("no_start", {"init_lora_weights": False}),
        ("orthogonal", {"init_lora_weights": "orthogonal"}),
        ("mica", {"init_lora_weights": "mica"}),
        ("stabilized", {"use_rslora": True}),
        ("no_modules", {"modules_to_save": [], "lora_dropout": 0.1}),
        ("some", {"target_modules": ["q_proj", "v_proj"]}),
        (
            "excluded",
            {"target_modules": ["up_proj", "o_proj"], "exclude_modules": r".*visual.*"},
        ),
        ("all_linear", {"target_modules": "all-linear", "exclude_modules": r".*visual.*"}),
    ],
)
def test_pefts_own_logits(world, name, options):
    expected, saved = theirs(world, name, **options)
    rows = world[2]
    plain, _ = theirs(world, f"{name}_untrained", trained=False)
    assert np.abs(expected - plain)[rows[2]].max() > 0.1
    np.testing.assert_allclose(ours(world, saved)[rows[2]], expected[rows[2]], atol=1e-4)


@pytest.mark.parametrize(
    "name, options",
    [
        ("pissa", {"init_lora_weights": "pissa"}),
        ("olora", {"init_lora_weights": "olora"}),
        ("use_dora", {"use_dora": True}),
        ("rank_pattern", {"rank_pattern": {"q_proj": 2}}),
        ("alpha_pattern", {"alpha_pattern": {"q_proj": 2}}),
        ("layers_to_transform", {"layers_to_transform": [0], "target_modules": ["q_proj"]}),
        ("modules_to_save", {"modules_to_save": ["lm_head"]}),
        ("bias", {"bias": "lora_only"}),
        ("lora_bias", {"lora_bias": True, "target_modules": ["q_proj"]}),
        ("visual", {"target_modules": "all-linear"}),
        ("embed_tokens", {"target_modules": ["q_proj", "embed_tokens"]}),
    ],
)
def test_what_is_not_known_is_named(world, name, options):
    _, saved = theirs(world, name, **options)
    with pytest.raises(UserError, match=name) as error:
        ours(world, saved)
    assert "merge" in str(error.value) and "\n" not in str(error.value)


def test_the_remedies_work(world):
    """PiSSA made plain by PEFT gives its logits; so does what PEFT merges, as a whole model."""
    import peft
    import torch

    from tests.models import torch_reference

    folder, weights, rows, frames = world
    torch.manual_seed(2)
    options = {"r": 4, "lora_alpha": 6, "target_modules": DECODER, "init_lora_weights": "pissa"}
    adapted = peft.get_peft_model(
        torch_reference.build(CONFIG, weights), peft.LoraConfig(**options)
    )
    adapted.peft_config["default"].init_lora_weights = True
    adapted.save_pretrained(folder / "start")
    with torch.no_grad():
        for key, value in adapted.named_parameters():
            if "lora_" in key:
                value.add_(torch.randn_like(value) * 0.1)
    expected = torch_reference.logits(adapted.base_model.model, CONFIG, *rows, frames)
    adapted.peft_config["default"].init_lora_weights = "pissa"
    adapted.save_pretrained(
        folder / "converted", path_initial_model_for_weight_conversion=folder / "start"
    )
    values = json.loads((folder / "converted" / "adapter_config.json").read_text())
    assert values["init_lora_weights"] is True and values["r"] == 8
    found = ours(world, folder / "converted")
    np.testing.assert_allclose(found[rows[2]], expected[rows[2]], atol=1e-4)
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    convert.import_folder(folder / "merged", folder / "merged_ck")
    found = logits(world, folder / "merged_ck")
    np.testing.assert_allclose(found[rows[2]], expected[rows[2]], atol=1e-4)
