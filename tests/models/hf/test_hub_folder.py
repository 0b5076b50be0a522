"""Hugging Face folders in the forms that fine-tunes come in: read as meant, or refused by name."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest

from medscope_jax import convert, models
from medscope_jax.errors import UserError
from medscope_jax.models.hf import safetensors_io
from medscope_jax.models.hf.hub_folder import open_hub_folder
from medscope_jax.training import pretrained
from tests.models import model_cases, weights_cases

HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"


def drawn(tied=True, dtype="bfloat16", seed=1):
    """A config and plain weights of it."""
    config = model_cases.tiny_config(tied=tied)
    config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
    return config, weights_cases.plain_weights(config, dtype, seed)


def values_of(opened):
    return {name: tensor.read().astype(np.float32) for name, tensor in opened.tensors.items()}


def change_json(file, change):
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def test_two_sets_of_weights_are_refused_and_named(tmp_path):
    config, base = drawn()
    tuned = weights_cases.plain_weights(config, "bfloat16", seed=2)
    folder = weights_cases.write_folder(tmp_path / "hf", config, base, shard_bytes=50_000)
    single = weights_cases.write_folder(tmp_path / "one", config, tuned) / safetensors_io.SINGLE
    (folder / safetensors_io.SINGLE).write_bytes(single.read_bytes())
    message = "model.safetensors and the shards of model.safetensors.index.json"
    with pytest.raises(UserError, match=message):
        open_hub_folder(folder)
    next(folder.glob("model-*")).unlink()  # some shards are still there
    with pytest.raises(UserError, match=message):
        open_hub_folder(folder)
    for shard in folder.glob("model-*"):
        shard.unlink()
    read = values_of(open_hub_folder(folder))  # only the index is left of the shards
    assert read.keys() == tuned.keys()
    for name, array in tuned.items():
        np.testing.assert_array_equal(read[name], array.astype(np.float32), name)


def test_an_index_may_name_the_single_file(tmp_path):
    config, base = drawn()
    folder = weights_cases.write_folder(tmp_path / "hf", config, base)
    places = dict.fromkeys(base, safetensors_io.SINGLE)
    (folder / safetensors_io.INDEX).write_text(json.dumps({"weight_map": places}))
    assert open_hub_folder(folder).tensors.keys() == base.keys()


@pytest.mark.parametrize("stated, dtype", [("bfloat16", "bfloat16"), (None, "float32")])
def test_mixed_types_are_cast_and_told(stated, dtype, tmp_path, capsys):
    """To what config.json states, or to the widest."""
    config, base = drawn(dtype="float32")
    norms = [name for name in base if "norm" in name or "ln_q" in name]
    mixed = {n: a if n in norms else a.astype(ml_dtypes.bfloat16) for n, a in base.items()}
    folder = weights_cases.write_folder(tmp_path / "hf", config, mixed)
    change_json(folder / "config.json", lambda values: values.update(torch_dtype=stated))
    changed = len(norms) if stated else len(base) - len(norms)
    why = "config.json's dtype" if stated else "the widest that a model may have"
    convert.main(["import", "--source", str(folder), "--target", str(tmp_path / "ck")])
    line = f"{folder}: {changed} of {len(base)} tensors are cast to {dtype}, {why}"
    assert capsys.readouterr().out.splitlines()[0] == line
    model = models.read_model(tmp_path / "ck")
    assert (model.dtype, model.param_dtype) == (dtype, dtype)
    loaded = models.load_params(tmp_path / "ck", models.param_shapes(model))
    for name, array in models.export_hf(loaded, model).items():
        assert array.tobytes() == mixed[name].astype(np.dtype(dtype)).tobytes(), name


def test_one_type_that_config_json_does_not_say(tmp_path):
    """It stays, and a line says so."""
    config, base = drawn(dtype="float32")
    folder = weights_cases.write_folder(tmp_path / "hf", config, base)
    assert not open_hub_folder(folder).notes
    change_json(folder / "config.json", lambda values: values.update(torch_dtype="bfloat16"))
    opened = open_hub_folder(folder)
    assert opened.config.param_dtype == "float32"
    assert opened.notes == ["all tensors are float32 and stay it, though config.json says bfloat16"]


@pytest.mark.parametrize("name", [HEAD, TABLE])
def test_one_of_two_that_are_not_tied(name, tmp_path):
    config, base = drawn(tied=False)
    del base[name]
    folder = weights_cases.write_folder(tmp_path / "hf", config, base)
    with pytest.raises(UserError, match=f"missing {name}; .*tie_word_embeddings true: write it"):
        open_hub_folder(folder)
    change_json(folder / "config.json", lambda values: values.update(tie_word_embeddings=True))
    assert open_hub_folder(folder).config.text.tie_word_embeddings  # as the remedy says


def test_a_shard_that_is_a_link_to_nothing(tmp_path):
    folder = weights_cases.write_folder(tmp_path / "hf", *drawn(), shard_bytes=50_000)
    shard = min(folder.glob("model-*"))
    shard.unlink()
    shard.symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=f"shard {shard.name} is missing"):
        convert.main(["import", "--source", str(folder), "--target", str(tmp_path / "ck")])


def test_a_dtype_that_is_no_name(tmp_path):
    folder = weights_cases.write_folder(tmp_path / "hf", *drawn())
    change_json(folder / "config.json", lambda values: values.update(torch_dtype=[16]))
    with pytest.raises(UserError, match="config.json: dtype is .16.; it must be the name"):
        open_hub_folder(folder)


def test_float64_and_numbers_that_are_too_large(tmp_path):
    config, base = drawn(dtype="float32")
    wide = {name: array.astype(np.float64) for name, array in base.items()}
    folder = weights_cases.write_folder(tmp_path / "wide", config, wide)
    change_json(folder / "config.json", lambda values: values.pop("torch_dtype"))
    opened = open_hub_folder(folder)
    assert opened.config.param_dtype == "float32" and "cast to float32" in opened.notes[0]
    mixed = {**base, "model.norm.weight": base["model.norm.weight"].astype(np.float16)}
    mixed[TABLE] = mixed[TABLE] * np.float32(1e6)
    folder = weights_cases.write_folder(tmp_path / "large", config, mixed)
    change_json(folder / "config.json", lambda values: values.update(torch_dtype="float16"))
    with pytest.raises(UserError, match="too large for float16: state another dtype"):
        convert.import_folder(folder, tmp_path / "ck")
    assert not (tmp_path / "ck").exists()


def test_a_tied_model_stored_as_its_head(tmp_path):
    config, base = drawn()
    table = base.pop(TABLE)
    folder = weights_cases.write_folder(tmp_path / "hf", config, {**base, HEAD: table})
    opened = open_hub_folder(folder)
    assert opened.config == config and HEAD in opened.notes[0]
    assert opened.tensors[TABLE].read().tobytes() == table.tobytes()


@pytest.mark.parametrize("same", [True, False])
def test_a_head_beside_a_tied_flag(same, tmp_path):
    """Used where its numbers differ, as transformers does."""
    config, base = drawn()
    head = base[TABLE] if same else (base[TABLE] * 2).astype(base[TABLE].dtype)
    opened = open_hub_folder(
        weights_cases.write_folder(tmp_path / "hf", config, {**base, HEAD: head})
    )
    assert opened.config.text.tie_word_embeddings == same
    assert (HEAD in opened.tensors) == (not same) and bool(opened.notes) == (not same)
    wrong = {**base, HEAD: head[:5]}
    with pytest.raises(UserError, match="lm_head.weight is .5, 64., must be .96, 64."):
        open_hub_folder(weights_cases.write_folder(tmp_path / "wrong", config, wrong))


@pytest.mark.parametrize("tied", [True, False])
def test_an_index_that_names_an_absent_head(tied, tmp_path):
    config, base = drawn(tied)
    base.pop(HEAD, None)
    folder = weights_cases.write_folder(tmp_path / "hf", config, base, shard_bytes=50_000)

    def name_it(index):
        index["weight_map"][HEAD] = max(index["weight_map"].values())

    change_json(folder / safetensors_io.INDEX, name_it)
    if tied:
        assert open_hub_folder(folder).tensors.keys() == base.keys()
    else:
        with pytest.raises(UserError, match="lm_head.weight is not in model-0.*missing lm_head"):
            open_hub_folder(folder)


@pytest.mark.parametrize(
    "names, dtype",
    [
        (("weight_scale",), np.float32),  # fp8
        (("weight_scale_inv",), np.float32),
        (("weight", "weight_packed", "weight_shape"), np.float32),  # compressed-tensors
        (("qweight", "qzeros", "scales", "g_idx"), np.float16),  # GPTQ, AWQ
        (("weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4"), np.float32),
        (("weight", "SCB"), np.float32),
        (("weight", "k_scale"), np.float32),  # of a cache in fp8
        (("weight", "input_global_scale"), np.float32),  # NVFP4
    ],
)
def test_quantized_folders_are_called_so(names, dtype, tmp_path):
    config, base = drawn()
    weight = base.pop("model.layers.1.mlp.up_proj.weight")
    extra = {f"model.layers.1.mlp.up_proj.{name}": np.ones(3, dtype) for name in names}
    folder = weights_cases.write_folder(tmp_path / "hf", config, {**base, **extra})
    told = "quantized .model.layers.1.mlp.up_proj.*take the model that they were made of"
    with pytest.raises(UserError, match=told):
        open_hub_folder(folder)
    kept = {**base, "model.layers.1.mlp.up_proj.weight": weight}
    folder = weights_cases.write_folder(tmp_path / "eight", config, kept)
    file = folder / safetensors_io.SINGLE
    file.write_bytes(file.read_bytes().replace(b'"BF16"', b'"I16" ', 1))
    with pytest.raises(UserError, match="quantized .* of I16"):
        open_hub_folder(folder)


SPELLINGS = {
    "hub": lambda name: name,
    "transformers 5": lambda name: (
        f"model.{name}"
        if name.startswith("visual")
        else name.replace("model.", "model.language_model.", 1)
    ),
    "without its head": lambda name: name.replace("model.", "language_model.", 1),
    "nested": lambda name: name if name.startswith("visual") else f"language_model.{name}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_names_in_every_spelling(spelling, tmp_path):
    config, base = drawn(tied=spelling == "without its head")
    computed = ("model.layers.0.self_attn.rotary_emb.inv_freq", "visual.rotary_pos_emb.inv_freq")
    base |= {name: np.ones(4, np.float32) for name in computed}
    rename = SPELLINGS[spelling]
    opened = open_hub_folder(
        weights_cases.write_folder(tmp_path / "hf", config, base, rename=rename)
    )
    for name in computed:
        del base[name]
    assert opened.tensors.keys() == base.keys() and opened.config == config
    assert all(opened.tensors[n].read().tobytes() == a.tobytes() for n, a in base.items())


PLAIN = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "rescale_factor": 0.00392156862745098,
    "resample": 3,
    "do_normalize": True,
    "do_rescale": True,
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "patch_size": 14,
    "merge_size": 2,
    "min_pixels": 784,
    "max_pixels": 28 * 28 * 40,
}


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    config, base = drawn()
    folder = weights_cases.write_folder(tmp_path_factory.mktemp("plain") / "hf", config, base)
    (folder / "preprocessor_config.json").unlink()
    return folder


def with_files(plain_folder, tmp_path, **files):
    """The folder with other processor files, its weights linked."""
    for file in plain_folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    for name, values in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(values))
    return tmp_path


@pytest.mark.parametrize(
    "key, value",
    [
        ("image_mean", [0.5, 0.5, 0.5]),
        ("image_mean", 0.5),
        ("image_std", [0.26862954, 0.26130258]),
        ("image_std", ["a", "b", "c"]),
        ("rescale_factor", 1 / 127.5),
        ("do_normalize", False),
        ("do_rescale", 0),
        ("do_rescale", None),  # transformers then leaves the step out
        ("image_processor_type", "CLIPImageProcessor"),
        ("resample", 2),
        ("patch_size", 16),
        ("merge_size", 1),
        ("temporal_patch_size", 1),
        ("min_pixels", "many"),
        ("max_pixels", 10**30),
        ("max_pixels", 100),
        ("size", [1, 2]),
    ],
)
def test_frames_prepared_otherwise_are_refused_by_key(plain_folder, tmp_path, key, value):
    changed = {**PLAIN, key: value}
    folder = with_files(plain_folder, tmp_path, preprocessor_config=changed)
    with pytest.raises(UserError, match=f"preprocessor_config.json has .*{key}"):
        open_hub_folder(folder)
    # transformers takes these files' sections before that one.
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": PLAIN}))
    (folder / "video_preprocessor_config.json").write_text(json.dumps(PLAIN))
    open_hub_folder(folder)
    if not key.startswith(("m", "size", "image_p")) or key == "merge_size":
        nested = {"image_processor": PLAIN, "video_processor": changed}
        (folder / "processor_config.json").write_text(json.dumps(nested))
        with pytest.raises(UserError, match=f"/processor_config.json has {key}"):
            open_hub_folder(folder)


def test_the_folders_most_pixels_are_kept_to(plain_folder, tmp_path):
    folder = with_files(plain_folder, tmp_path, preprocessor_config=PLAIN)
    config = open_hub_folder(folder).config
    assert pretrained.most_pixels(folder) == 28 * 28 * 40
    size = pretrained.frame_size(config, 720, 1280, pretrained.most_pixels(folder))
    assert size[0] * size[1] <= 28 * 28 * 40 < 224 * 224
    assert pretrained.most_pixels(plain_folder) == 224 * 224
    size = {"shortest_edge": 224 * 224 + 1, "longest_edge": 10**6}
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": size}))
    with pytest.raises(UserError, match="min_pixels 50,177"):
        pretrained.most_pixels(folder)
