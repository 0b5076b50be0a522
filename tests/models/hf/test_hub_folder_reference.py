"""The forms that fine-tunes come in, against transformers: the same tensors, to the bit."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest

from medscope_jax.models.hf import safetensors_io
from medscope_jax.models.hf.hub_folder import HEAD, TABLE, cast, open_hub_folder
from tests.models import model_cases, weights_cases
from tests.models.hf.test_hub_folder import SPELLINGS, change_json

torch = pytest.importorskip("torch", reason="the live comparison needs PyTorch")
transformers = pytest.importorskip("transformers", reason="it compares with transformers")
pytestmark = pytest.mark.reference


def base_of(tied, dtype="float32", seed=1):
    config = model_cases.tiny_config(tied=tied)
    config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
    return config, weights_cases.plain_weights(config, dtype, seed)


def check(folder):
    """That transformers finds all tensors of a folder, and that ours are its."""
    model, report = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True
    )
    assert not report["missing_keys"], report
    opened = open_hub_folder(folder)
    dtype = np.dtype(opened.config.param_dtype)
    assert str(model.dtype) == f"torch.{dtype.name}"
    theirs = model.state_dict()
    ours = {n: cast(t, t.read(), dtype) for n, t in opened.tensors.items()}
    if opened.config.text.tie_word_embeddings:
        ours[HEAD] = ours[TABLE]
    prefixes = {
        "visual.": "model.visual.",
        "model.": "model.language_model.",
        "lm_head.": "lm_head.",
    }
    spelled = {
        name.replace(hub, prefix, 1): array
        for name, array in ours.items()
        for hub, prefix in prefixes.items()
        if name.startswith(hub)
    }
    assert spelled.keys() == theirs.keys()
    for name, array in spelled.items():
        bits = theirs[name].contiguous().view(torch.uint8).numpy()
        assert bits.tobytes() == array.tobytes(), name
    return opened


@pytest.mark.parametrize("stated", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("part", ["norm", "visual", "embed_tokens"])
def test_mixed_types(stated, part, tmp_path):
    config, base = base_of(tied=False)
    mixed = {n: a if part in n else a.astype(ml_dtypes.bfloat16) for n, a in base.items()}
    folder = weights_cases.write_folder(tmp_path / "hf", config, mixed)
    change_json(folder / "config.json", lambda values: values.update(torch_dtype=stated))
    assert check(folder).config.param_dtype == stated


@pytest.mark.parametrize("head", ["only", "same", "other", "same in another type"])
def test_a_stored_head_of_a_tied_model(head, tmp_path):
    config, base = base_of(tied=True, dtype="bfloat16")
    stored = base[TABLE]
    if head == "only":
        del base[TABLE]
    if head == "other":
        stored = (stored * 2).astype(stored.dtype)
    if head == "same in another type":
        stored = stored.astype(np.float32)
    opened = check(weights_cases.write_folder(tmp_path / "hf", config, {**base, HEAD: stored}))
    assert opened.config.text.tie_word_embeddings == (head != "other")


def test_an_index_that_names_an_absent_head(tmp_path):
    config, base = base_of(tied=True)
    folder = weights_cases.write_folder(tmp_path / "hf", config, base, shard_bytes=60_000)
    index = json.loads((folder / safetensors_io.INDEX).read_text())
    index["weight_map"][HEAD] = max(index["weight_map"].values())
    (folder / safetensors_io.INDEX).write_text(json.dumps(index))
    check(folder)


def test_an_index_whose_shards_are_gone(tmp_path):
    config, base = base_of(tied=True)
    folder = weights_cases.write_folder(tmp_path / "hf", config, base, shard_bytes=60_000)
    for shard in folder.glob("*.safetensors"):
        shard.unlink()
    tuned = weights_cases.plain_weights(config, "float32", seed=2)
    single = weights_cases.write_folder(tmp_path / "one", config, tuned) / safetensors_io.SINGLE
    (folder / safetensors_io.SINGLE).write_bytes(single.read_bytes())
    check(folder)


@pytest.mark.parametrize("spelling", ["hub", "transformers 5", "without its head"])
def test_names_in_every_spelling(spelling, tmp_path):
    config, base = base_of(tied=spelling == "without its head")
    base["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    check(weights_cases.write_folder(tmp_path / "hf", config, base, rename=SPELLINGS[spelling]))
