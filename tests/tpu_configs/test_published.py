"""Configs of the published sizes: their argument, their keys, their shapes."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medscope_jax.config import ConfigError, from_json, load_config, to_json
from medscope_jax.distributed import axis_sizes
from medscope_jax.models import LoraConfig, count_params
from medscope_jax.models.presets import PRESETS, preset
from medscope_jax.training.from_config import make_layout, with_vocabulary
from tpu_configs import sizing
from tpu_configs.published import Target, read_target

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "tpu_configs"
PLANS = ROOT / "benchmarks" / "results" / "plan.json"
SLICES = ("v5e.py", "v6e.py", "v5p.py", "v4.py")


def load(name):
    return load_config(str(FOLDER / name))


@pytest.mark.parametrize(
    "arg, target",
    [
        ("", Target(topology="2x4")),
        ("topology=4x4", Target(topology="4x4")),
        ("3b", Target("3b", topology="2x4")),
        ("7b,topology=16x16", Target("7b", topology="16x16")),
        ("topology=2x2x4,full,72b", Target("72b", True, "2x2x4")),
        ("slices=2,7b", Target("7b", False, "2x4", 2)),
    ],
)
def test_arguments_and_what_they_mean(arg, target):
    assert read_target(arg, topology="2x4") == target


@pytest.mark.parametrize(
    "arg, words",
    [
        ("8b", "unknown argument '8b'"),
        ("7B", "unknown argument '7B'"),
        ("7b,", "unknown argument ''"),
        ("7b, full", "unknown argument ' full'"),
        ("16x16", "unknown argument"),
        ("topology=", "unknown argument"),
        ("topology=4", "unknown argument"),
        ("topology=0x4", "unknown argument"),
        ("topology=4x-4", "unknown argument"),
        ("topology=2x2x2x2", "unknown argument"),
        ("slices=0", "unknown argument"),
        ("slices=", "unknown argument"),
        ("full", "needs a size"),
        ("3b,7b", "two of size"),
        ("topology=4x4,topology=4x4", "two of topology"),
        ("full,3b,full", "two of full"),
    ],
)
def test_a_wrong_argument_is_one_line_that_names_the_known_ones(arg, words):
    with pytest.raises(ValueError, match=words) as error:
        read_target(arg, topology="2x4")
    assert "\n" not in str(error.value) and "7b" in str(error.value)


def test_a_file_without_slices_has_no_topology():
    assert read_target("3b,full") == Target("3b", True, "") and Target().chips == 1
    with pytest.raises(ValueError, match="unknown argument 'topology=2x2'") as error:
        read_target("topology=2x2")
    assert "topology=" not in str(error.value).partition("known:")[2]


@given(
    st.sampled_from(PRESETS),
    st.booleans(),
    st.lists(st.integers(1, 99), min_size=2, max_size=3),
    st.randoms(),
)
def test_the_order_of_parts_does_not_matter(size, full, sides, random):
    shape = "x".join(map(str, sides))
    parts = [size, f"topology={shape}"] + ["full"] * full
    random.shuffle(parts)
    assert read_target(",".join(parts), "2x4") == Target(size, full, shape)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(arg):
    try:
        target = read_target(arg, "2x4")
    except ValueError as error:
        assert "known" in str(error) or "needs a size" in str(error)
    else:
        assert target.size in ("", *PRESETS) and target.chips >= 1


def test_a_gpu_is_a_part_of_the_argument():
    kinds = ("h100", "a100")
    assert read_target("a100,3b", kinds=kinds) == Target("3b", kind="a100")
    with pytest.raises(ValueError, match="unknown argument 'v100'; known: .*h100, a100"):
        read_target("v100", kinds=kinds)
    assert load("gpu.py:3b,a100").device.kind == "A100"
    small = load("gpu.py:t4")  # which has no bfloat16
    assert (small.device.kind, small.model.dtype) == ("T4", "float32")


def test_what_is_too_long_for_a_device_shows_less_and_looks_twice_all_the_same():
    lengths = []
    for name in ("v5e.py:3b", "gpu.py:3b", "gpu.py:3b,a100"):
        config = load(name)
        layout = make_layout(config, with_vocabulary(config.model, config.dialogue.vocab_size))
        frame = layout.tokens_per_frame + 12
        left = layout.length - layout.preview_frames * frame - 600
        assert left > 2 * layout.window_frames * frame - 600 and left > 3 * 512
        lengths.append(layout.length)
    assert lengths == [32_768, 20_480, 10_240]


@pytest.mark.parametrize(
    "size, program, stage",
    [
        ("3b", "ga_grpo", "ga_grpo"),
        ("3b", "warm_up", "warm_up"),
        ("3b", "sft", "cold_start"),
        ("7b", "ga_grpo", "ga_grpo"),
        ("7b", "warm_up", "warm_up"),
        ("7b", "sft", "cold_start"),
    ],
)
def test_the_arithmetic_is_near_what_is_compiled(size, program, stage):
    name = f"v5e.py:{size},topology=2x4"
    plan = json.loads(PLANS.read_text())["plans"][name]
    chips, memory = plan["chips"], plan["hbm_bytes"]
    sizes = sizing.cut(preset(size), memory, False, True, chips, 1)
    mesh = sizes.tensor, sizes.context
    one = sizing.Cut(preset(size), memory, False, True, chips, 1, *mesh)
    rows = sizes.rows.get(stage, one.shards) / one.shards
    found = one.beside(stage, sizes.view) + rows * one.row(stage, sizes.view)
    assert found == pytest.approx(plan["programs"][program]["total_bytes"], rel=0.1)


def test_several_slices_are_copies_of_the_weights():
    config = load("v5e.py:7b,topology=16x16,slices=2")
    device, one = config.device, load("v5e.py:7b,topology=16x16")
    assert (device.count, device.topology, device.slices) == (512, "v5e:16x16", 2)
    sizes = axis_sizes(config.mesh, device.count)
    assert sizes == {**axis_sizes(one.mesh, 256), "data": 2}
    assert load("v5e.py:slices=2").device.count == 16


@pytest.mark.parametrize("file", [*SLICES, "gpu.py"])
@pytest.mark.parametrize("size", ["3b", "7b"])
@pytest.mark.parametrize("full", ["", ",full"])
def test_a_config_of_a_published_size(file, size, full):
    config = load(f"{file}:{size}{full}")  # which has refused keys that cpu.py lacks
    assert from_json(to_json(config)) == config
    model = with_vocabulary(config.model, config.dialogue.vocab_size)
    published = preset(size)
    assert (model.vision, model.text) == (published.vision, published.text)
    assert count_params(model) == {"3b": 3_754_622_976, "7b": 8_292_166_656}[size]
    assert model.lora == (None if full else LoraConfig(64, 128.0, base="bfloat16"))
    sizes = axis_sizes(config.mesh, config.device.count)
    shards = sizes["data"] * sizes["fsdp"]
    assert model.text.num_key_value_heads % sizes["tensor"] == 0
    assert config.ga_grpo.batch_size % shards == 0 and config.cold_start.batch_size % shards == 0
    assert config.cold_start.micro_batch % shards == 0
    assert config.rl.micro_batch == shards * config.rl.group_size  # one group a shard at a time


def test_the_paper_s_context_holds_what_the_paper_shows():
    config = load("v5e.py:7b,topology=4x4")
    layout = make_layout(config, with_vocabulary(config.model, config.dialogue.vocab_size))
    shown = 2 * layout.preview_frames  # a block of tokens is two frames
    assert config.video.native_pairs and shown == 512 and layout.tokens_per_frame == 64
    frame = layout.tokens_per_frame + 12  # its time, digit by digit, and tags
    look = 64 * frame  # 128 frames: the longest that peers show
    left = layout.length - 256 * frame - 1024
    assert layout.length == 32_768 and layout.window_frames == 64 and left > 2 * look + 2048


def test_the_paper_s_rates_and_batches():
    config = load("v5p.py:3b")
    rates = [config[stage].learning_rate for stage in ("warm_up", "cold_start", "ga_grpo")]
    assert rates == [2e-5, 2e-5, 1e-6]
    assert config.rl.group_size == 8 and config.ga_grpo.batch_size == 64
    # 128 conversations a step for three epochs over what is there, six of them in a row where rows
    # are packed; in parts where a slice does not hold them at once.
    large = load("v5p.py:3b,topology=4x4x4")
    assert large.dialogue.packed and large.cold_start.batch_size == large.warm_up.batch_size == 32
    small, alone = load("v5e.py:3b,topology=2x4"), load("gpu.py:3b")
    assert small.warm_up.batch_size == 32 and 0 < small.warm_up.micro_batch < 32
    assert 32 % small.warm_up.micro_batch == 0
    assert not alone.dialogue.packed and alone.cold_start.batch_size == 128
    assert 0 < alone.cold_start.micro_batch < 128
    for config in (large, small, alone):
        stages = [config[name] for name in ("warm_up", "cold_start", "passive")]
        assert {(stage.steps, stage.epochs) for stage in stages} == {(0, 3.0)}


def test_what_the_published_sizes_keep_fits_their_chips():
    """By hand: inputs of 28 layers, 3,584 wide, in bfloat16; caches of 4 heads of 128."""
    config = load("v5e.py:7b,topology=16x16")
    assert config.mesh.to_dict() == {"data": 1, "fsdp": -1, "context": 2, "tensor": 4}
    chip, row = 15.75 * 2**30, 28 * 3584 * 2 * 32_768 / 4  # of four tensor shards
    assert 4 * row / 2 < chip / 4 < 4 * row  # a packed group is about four rows
    assert config.cold_start.batch_size == 32  # one a shard; four would fit, too
    assert config.cold_start.micro_batch == 0 and 128 / 32 * row / 2 < 0.3 * chip
    position = 28 * 2 * 128 * 2  # one of four heads a chip
    prompt = 256 * 76 + 600
    cache = position * (prompt + config.rollout.slots * (32_768 - prompt))
    assert cache < 0.4 * chip < 2 * cache
    assert config.rollout.prefill_tokens == 2432  # half of 64 pairs of 76 positions


def test_the_configs_without_a_size_are_as_before():
    config = load("v5e.py:topology=4x4")
    assert config.model.text.hidden_size == 512 and config.device.count == 16


@pytest.mark.parametrize("name", ["v5e.py:9b", "gpu.py:3b,topology=2x2", "v4.py:full"])
def test_a_wrong_argument_of_a_file_is_a_config_error(name):
    with pytest.raises(ConfigError, match="known|needs a size") as error:
        load(name)
    assert "\n" not in str(error.value)
