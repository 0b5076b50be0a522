"""Every config file loads, has the CPU config's keys, and holds a run that is possible."""

import importlib.util
from pathlib import Path

import jax
import pytest

from medscope_jax.config import ConfigError, from_json, load_config, to_json
from medscope_jax.distributed import axis_sizes, topology_devices
from medscope_jax.models import LoraConfig, count_params, frame_grid
from medscope_jax.training.from_config import with_vocabulary

FOLDER = Path(__file__).parent.parent.parent / "tpu_configs"
TPU = ("v5e", "v6e", "v5p", "v4")
GPUS = ("gpu", "gpu.py:a100", "gpu.py:l4", "gpu.py:t4")
ALL = ("cpu", "cpu.py:smoke", *GPUS, *TPU, "v5e.py:topology=4x4", "v5p.py:topology=2x2x2")


def load(name):
    return load_config(str(FOLDER / (name if ".py" in name else f"{name}.py")))


def test_no_file_is_forgotten():
    shared = {"accelerator", "published", "sizing", "__init__"}
    names = {path.stem for path in FOLDER.glob("*.py")} - shared
    assert names == {n.partition(".py")[0] for n in ALL}


@pytest.mark.parametrize("name", ALL)
def test_a_config_holds_a_possible_run(name):
    config = load(name)
    assert from_json(to_json(config)) == config
    model = with_vocabulary(config.model, config.dialogue.vocab_size)
    sizes = axis_sizes(config.mesh, config.device.count)
    assert model.text.num_key_value_heads % sizes["tensor"] == 0
    assert model.text.vocab_size % sizes["tensor"] == 0
    assert model.text.hidden_size % sizes["fsdp"] == 0
    rows, columns = frame_grid(model, config.video.height, config.video.width)
    assert config.dialogue.length > config.dialogue.preview_frames * (rows * columns + 1)
    shards = sizes["data"] * sizes["fsdp"]
    for section in (config.warm_up, config.cold_start, config.passive, config.ga_grpo):
        assert section.batch_size % shards == 0
    questions = config.evaluation.rollouts // config.evaluation.samples
    assert questions % shards == 0
    rollouts = config.ga_grpo.batch_size * config.rl.group_size
    assert rollouts % config.rl.micro_batch == 0 and config.rl.micro_batch % shards == 0
    assert count_params(model) < 60e6
    # The paper's adapters, on what stage 1 made of random weights; a laptop trains all weights.
    whole = LoraConfig(rank=64, alpha=128.0, base="bfloat16")
    assert model.lora == (None if config.device.platform == "cpu" else whole)
    stages = (config.warm_up, config.passive, config.cold_start, config.ga_grpo)
    assert [section.lora for section in stages] == [False, True, True, True]


@pytest.mark.parametrize("name", TPU)
def test_the_slice_is_real_and_has_as_many_chips(name):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    config = load(name)
    assert config.device.kind == name and config.device.topology.startswith(f"{name}:")
    assert len(topology_devices(config.device.topology)) == config.device.count


@pytest.mark.parametrize("name", ["v5e.py:16x16", "v5e.py:topology=4x", "gpu.py:smoke", "cpu.py:x"])
def test_an_unknown_argument_is_one_line(name):
    with pytest.raises(ConfigError, match="unknown argument") as error:
        load(name)
    assert "\n" not in str(error.value)


def test_configs_do_not_touch_devices():
    """Reading a config must not start a back end: the device check comes first."""
    before = jax.live_arrays()
    load("v5e")
    assert len(jax.live_arrays()) == len(before)
