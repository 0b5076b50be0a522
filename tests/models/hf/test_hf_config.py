"""config.json in every spelling that the family's folders have."""

import json

import pytest

from medscope_jax import models
from medscope_jax.errors import UserError
from medscope_jax.models.hf.hf_config import from_hf_config, hf_config_text, read_hf_config
from tests.models import model_cases, weights_cases

TEXT = {
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "use_sliding_window": False,
    "sliding_window": 32768,
    "vocab_size": 152064,
}
VISION = {
    "depth": 32,
    "hidden_act": "silu",
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_chans": 3,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "spatial_patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
    "temporal_patch_size": 2,
}
ROPE = {"rope_theta": 1000000.0}
HUB = {
    "model_type": "qwen2_5_vl",
    **TEXT,
    **ROPE,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vision_config": VISION,
}
SCALING_4 = {"type": "default", "rope_type": "default", "mrope_section": [16, 24, 24]}
NESTED_4 = {  # transformers 4 writes the decoder's fields twice
    **HUB,
    "rope_scaling": SCALING_4,
    "text_config": {**TEXT, **ROPE, "rope_scaling": SCALING_4, "model_type": "qwen2_5_vl_text"},
    "vision_config": {**VISION, "in_channels": 3, "initializer_range": 0.02},
}
NESTED_5 = {
    "model_type": "qwen2_5_vl",
    "dtype": "bfloat16",
    "tie_word_embeddings": False,
    "text_config": {
        **TEXT,
        "layer_types": ["full_attention"] * 28,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1000000.0,
            "mrope_section": [16, 24, 24],
        },
    },
    "vision_config": VISION,
}
SPARSE = {  # some versions leave out what equals a default
    **HUB,
    "vision_config": {"hidden_size": 1280, "in_chans": 3, "tokens_per_second": 2},
}


@pytest.mark.parametrize("values", [HUB, NESTED_4, NESTED_5, SPARSE])
def test_every_spelling_is_the_same_model(values):
    config = from_hf_config(values)
    expected = models.preset("7b")
    assert (config.text, config.vision) == (expected.text, expected.vision)


def test_defaults_are_those_of_transformers():
    vision = from_hf_config({**HUB, "vision_config": {}}).vision
    assert (vision.hidden_size, vision.tokens_per_second, vision.depth) == (3584, 4, 32)


def test_tied_in_either_place():
    assert not from_hf_config(NESTED_5).text.tie_word_embeddings
    assert from_hf_config({**NESTED_5, "tie_word_embeddings": True}).text.tie_word_embeddings
    inner = {**NESTED_5["text_config"], "tie_word_embeddings": True}
    assert from_hf_config({**NESTED_5, "text_config": inner}).text.tie_word_embeddings


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_written_is_read_back(tied, tmp_path):
    for config in (model_cases.tiny_config(tied=tied), models.preset("72b", dtype="float32")):
        file = tmp_path / "config.json"
        file.write_text(hf_config_text(config))
        assert read_hf_config(file) == config


def test_a_kept_config_stays_as_it_is(tmp_path):
    config = model_cases.tiny_config()
    file = tmp_path / "config.json"
    file.write_text(json.dumps(weights_cases.hub_config(config, eos_token_id=[1, 2], extra="ü")))
    assert hf_config_text(config, file) == file.read_text()
    half = models.ModelConfig(config.vision, config.text, param_dtype="bfloat16")
    values = json.loads(hf_config_text(half, file))
    assert (values["torch_dtype"], values["extra"]) == ("bfloat16", "ü")
    other = json.loads(hf_config_text(model_cases.tiny_config(kv_heads=1), file))
    assert other["num_key_value_heads"] == 1 and "extra" not in other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen2_vl"}, "a qwen2_vl model, not Qwen2.5-VL"),
        ({"model_type": None}, "a nameless model, not Qwen2.5-VL"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantized \(awq\)"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "type yarn is not supported"),
        ({"use_sliding_window": True, "max_window_layers": 20}, "sliding-window"),
        ({"vision_config": {**VISION, "hidden_act": "gelu"}}, "vision_config has hidden_act gelu"),
        # transformers reads it as num_heads, and whichever comes last counts.
        ({"vision_config": {**VISION, "num_attention_heads": 8}}, "has num_attention_heads 8, for"),
        ({"vision_config": {"num_hidden_layers": 24}}, "has num_hidden_layers 24, for .* of depth"),
        (
            {"layer_types": ["full_attention", "chunked"]},
            "layer_types is or has .chunked.; only full",
        ),
        ({"layer_types": "full_attention"}, "layer_types is or has .full_attention."),
        ({"hidden_size": "3584"}, "hidden_size is '3584'; expected such as"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_key_value_heads": 3}, "must be a multiple of num_key_value_heads"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 2]}}, "mrope_section must be"),
        ({"vision_config": [1]}, "vision_config is '.1.'; it must be an object"),
        ({"vision_config": {**VISION, "quantization_config": {"bits": 4}}}, "are quantized"),
        ({"quantization_config": "awq"}, "quantization_config is 'awq'; it must be an object"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'; it must be true or"),
        ({"use_sliding_window": "no"}, "use_sliding_window is 'no'; it must be true or false"),
        ({"max_window_layers": None, "use_sliding_window": True}, "max_window_layers is None"),
        ({"rope_scaling": 2}, "rope_scaling is '2'; it must be an object"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000; it must be from 1 to 1,024"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000; it must be from 1"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; it must be from 1"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0; it must be from 0"),
    ],
)
def test_a_config_that_can_not_be_run(change, message, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**HUB, **change}))
    with pytest.raises(UserError, match=message) as error:
        read_hf_config(file)
    assert "config.json: " in str(error.value) and "\n" not in str(error.value)


def test_a_config_that_can_not_be_read(tmp_path):
    with pytest.raises(UserError, match="can't be read: No such file"):
        read_hf_config(tmp_path / "config.json")
    doubled = '{"model_type": "qwen2_5_vl", "model_type": "qwen2_5_vl"}'
    for text in ('{"model_type"', "[]", "\0", "[" * 100_000, doubled, '{"a": NaN}', '{"a": 1e999}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="config.json"):
            read_hf_config(tmp_path / "config.json")


@pytest.mark.reference
@pytest.mark.parametrize("values", [HUB, NESTED_4, NESTED_5, SPARSE])
def test_transformers_understands_the_same(values):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.Qwen2_5_VLConfig.from_dict(json.loads(json.dumps(values)))
    ours, expected = theirs.to_dict(), models.preset("7b")
    config = from_hf_config(ours)
    assert (config.text, config.vision) == (expected.text, expected.vision)


@pytest.mark.reference
def test_transformers_reads_what_we_write(tmp_path):
    transformers = pytest.importorskip("transformers")
    for size in models.PRESETS:
        config = models.preset(size)
        (tmp_path / "config.json").write_text(hf_config_text(config))
        theirs = transformers.AutoConfig.from_pretrained(tmp_path)
        assert type(theirs).__name__ == "Qwen2_5_VLConfig"
        assert str(theirs.dtype).endswith("bfloat16")
        back = from_hf_config(theirs.to_dict())
        assert (back.text, back.vision) == (config.text, config.vision)
        assert (theirs.image_token_id, theirs.text_config.eos_token_id) == (151655, 151645)
