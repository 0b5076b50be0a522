"""Adapters in PEFT's format: names and shapes, exact round trips, and PEFT's own use of them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax import models
from medscope_jax.errors import UserError
from tests.models import model_cases
from tests.models.hf.peft_cases import import_peft

LORA = models.LoraConfig(rank=4, alpha=6.0)
CONFIG = dataclasses.replace(model_cases.tiny_config(), lora=LORA)
Q = "base_model.model.model.language_model.layers.{}.self_attn.q_proj.lora_{}.weight"


def random_adapters(lora=LORA):
    random = np.random.default_rng(3)
    shapes = models.adapter_shapes(CONFIG, lora)
    return jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(0, 0.1, leaf.shape), jnp.float32), shapes
    )


def assert_bitwise(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_names_and_shapes():
    adapters = random_adapters()
    tensors = models.peft_state_dict(adapters, CONFIG)
    assert len(tensors) == 3 * 7 * 2  # layers, projections, sides
    ours = adapters["text"]["layers"]["self_attn"]["q_proj"]
    for layer in range(3):
        np.testing.assert_array_equal(tensors[Q.format(layer, "A")], ours["lora_a"][layer].T)
        np.testing.assert_array_equal(tensors[Q.format(layer, "B")], ours["lora_b"][layer].T)
    down = "base_model.model.model.language_model.layers.2.mlp.down_proj.lora_{}.weight"
    assert tensors[down.format("A")].shape == (4, 80)
    assert tensors[down.format("B")].shape == (64, 4)
    for array in tensors.values():
        assert array.dtype == np.float32 and array.flags.c_contiguous
    with pytest.raises(UserError, match="have no adapters"):
        models.peft_state_dict({"text": {"layers": {}}}, CONFIG)


@pytest.mark.parametrize("spelling", ["model.language_model.", "model.", "language_model.model."])
def test_export_then_import_is_exact(spelling):
    """Also under other spellings, as JSON, and whatever the model's own adapters would be."""
    lora = models.LoraConfig(rank=3, alpha=2.5, targets=("k_proj", "down_proj"), base="int8")
    model = dataclasses.replace(CONFIG, lora=lora)
    whole = models.join_params(models.init_params(CONFIG, jax.random.key(0)), random_adapters(lora))
    tensors = {
        name.replace("model.language_model.", spelling): array
        for name, array in models.peft_state_dict(whole, model).items()
    }
    values = json.loads(json.dumps(models.adapter_config(model, "some/base")))
    assert values["base_model_name_or_path"] == "some/base"
    found, meaning = import_peft(tensors, values, model)
    assert meaning == lora
    assert_bitwise(found, random_adapters(lora))
    assert_bitwise(models.join_params(models.split_lora(whole)[0], found), whole)


def test_rank_stabilized_scales_are_known():
    values = models.adapter_config(CONFIG) | {"use_rslora": True, "lora_alpha": 8}
    _, meaning = import_peft(models.peft_state_dict(random_adapters(), CONFIG), values, CONFIG)
    assert meaning.scale == pytest.approx(8 / 4**0.5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"use_dora": True}, "use_dora=True, which is not known"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern"),
        ({"use_something_new": True}, "use_something_new=True"),
        ({"r": 8}, r"lora_A.weight is \(4, 64\), must be \(8, 64\)"),
    ],
)
def test_settings_that_are_not_known_are_one_line(change, message):
    tensors = models.peft_state_dict(random_adapters(), CONFIG)
    with pytest.raises(UserError, match=message) as error:
        import_peft(tensors, models.adapter_config(CONFIG) | change, CONFIG)
    assert "\n" not in str(error.value)


def test_wrong_tensors_are_all_named():
    tensors = models.peft_state_dict(random_adapters(), CONFIG)
    del tensors[Q.format(1, "A")]
    tensors[Q.format(2, "B")] = np.zeros((2, 2), np.float32)
    tensors[Q.format(9, "A")] = np.zeros((4, 64), np.float32)
    tensors["base_model.model.model.visual.blocks.0.attn.qkv.lora_A.weight"] = np.zeros((4, 32))
    with pytest.raises(UserError) as error:
        import_peft(tensors, models.adapter_config(CONFIG), CONFIG)
    message = str(error.value)
    assert f"missing {Q.format(1, 'A')}" in message
    assert f"{Q.format(2, 'B')} is (2, 2), must be (64, 4)" in message
    assert f"extra {Q.format(9, 'A')}" in message
    assert "extra base_model.model.model.visual.blocks.0.attn.qkv.lora_A" in message
    with pytest.raises(UserError, match="no tensor of the adapter is of a decoder's projection"):
        import_peft({}, models.adapter_config(CONFIG), CONFIG)


@pytest.mark.reference
def test_peft_and_transformers_give_our_logits(tmp_path):
    """PEFT loads our files onto the reference model: same logits, merged weights and tensors."""
    pytest.importorskip("torch", reason="the live comparison needs PyTorch")
    pytest.importorskip("transformers", reason="the live comparison needs transformers")
    peft = pytest.importorskip("peft", reason="the live comparison needs PEFT")
    from safetensors.numpy import load_file, save_file

    from tests.models import torch_reference

    weights = model_cases.random_state_dict(CONFIG, seed=1)
    params = models.join_params(models.import_hf(weights, CONFIG), random_adapters())
    frames = model_cases.random_frames(3, 28, 56, seed=3)
    conversations = [model_cases.random_conversation(CONFIG, 3, 2, n, n) for n in (30, 21)]
    rows = model_cases.pad_rows(conversations, 30)
    tokens, index, valid = map(jnp.asarray, rows)
    bank = models.encode_frames(params, CONFIG, frames).reshape(-1, 64)
    x = models.embed(params, CONFIG, tokens, index, bank)
    positions, _ = models.mrope_positions(index, valid, (1, 2), jnp.zeros(2, jnp.int32))
    hidden = models.forward(params, CONFIG, x, positions, valid)
    ours = np.asarray(models.logits(params, CONFIG, hidden))

    tensors = models.peft_state_dict(params, CONFIG)
    save_file(tensors, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    (tmp_path / "adapter_config.json").write_text(json.dumps(models.adapter_config(CONFIG)))
    reference = torch_reference.build(CONFIG, weights)
    plain = torch_reference.logits(reference, CONFIG, *rows, frames)
    adapted = peft.PeftModel.from_pretrained(reference, str(tmp_path)).eval()
    names = {name for name, module in adapted.named_modules() if hasattr(module, "lora_A")}
    assert len(names) == 21 and not any("visual" in name for name in names)
    theirs = torch_reference.logits(adapted.base_model.model, CONFIG, *rows, frames)
    assert np.abs(theirs - plain)[rows[2]].max() > 0.3
    np.testing.assert_allclose(ours[rows[2]], theirs[rows[2]], atol=1e-4)

    adapted.save_pretrained(str(tmp_path / "again"))
    written = load_file(tmp_path / "again" / "adapter_model.safetensors")
    values = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    found, meaning = import_peft(written, values, CONFIG)
    assert meaning == LORA
    assert_bitwise(found, random_adapters())

    merged = models.merge_lora(params, CONFIG)
    state = {k: v.numpy() for k, v in adapted.merge_and_unload().state_dict().items()}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        models.import_hf(state, CONFIG),
        merged,
    )
