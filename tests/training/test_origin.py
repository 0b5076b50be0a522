"""What a run takes of another's stage: shapes, tokenizer and model, with adapters or without."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax.config import load_config
from medscope_jax.dialogue import Tokenizer, load_tokenizer
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import UserError
from medscope_jax.models import split_lora
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.from_config import with_vocabulary
from medscope_jax.training.origin import (
    check_origin,
    keep_origin_tokenizer,
    origin_params,
    with_start_shapes,
)
from medscope_jax.training.train_state import abstract_state
from medscope_jax.training.workdir import Workdir, open_workdir

SMOKE = "tpu_configs/cpu.py:smoke"
SMALL = ["model.text.num_hidden_layers=1", "model.vision.depth=1"]
SMALL += ["model.vision.fullatt_block_indexes=(0,)", "dialogue.vocab_size=640"]
LORA = ["model.lora.rank=4", "model.lora.alpha=8.0"]


def mesh():
    return make_mesh({}, jax.devices()[:1])


def random_state(config, stage):
    """A stage's state of random numbers, as the stage would end with."""
    random = np.random.default_rng(0)
    shapes = abstract_state(config, model_of(config), mesh(), stage)

    def draw(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return jnp.asarray(random.normal(0, 1, leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(draw, shapes)


def model_of(config):
    return with_vocabulary(config.model, config.dialogue.vocab_size)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """(workdir of a run with adapters whose cold_start has finished, its parameters)."""
    config = load_config(SMOKE, [*SMALL, *LORA])
    path = tmp_path_factory.mktemp("other") / "run"
    state = random_state(config, "cold_start")
    with (
        open_workdir(path, config) as workdir,
        Checkpoints(workdir.checkpoints) as checkpoints,
    ):
        meta = {"stage": "cold_start", "step": 12, "steps": 12, "epochs": 0.0, "lines": 0}
        checkpoints.save(state, {}, meta, stage_finished=True)
    return path, state.params


def config_from(path, *changes, stage="cold_start"):
    return with_start_shapes(load_config(SMOKE, [f"start_from={path}:{stage}", *changes]))


def test_shapes_and_vocabulary_are_the_others(other):
    path, _ = other
    config = config_from(path)
    theirs = json.loads((path / "config.json").read_text())
    assert config.model.text.num_hidden_layers == 1 and config.dialogue.vocab_size == 640
    assert config.model.vision.depth == theirs["model"]["vision"]["depth"] == 1
    assert config.model.lora.rank == 0  # is its own business
    assert config.start_from == f"{path.resolve()}:cold_start"
    check_origin(config)


def test_adapters_that_are_the_same_stay(other):
    path, params = other
    config = config_from(path, *LORA)
    found = origin_params(config, model_of(config), mesh())
    assert split_lora(found)[1]
    jax.tree.map(np.testing.assert_array_equal, found, params)


@pytest.mark.parametrize("lora", [[], ["model.lora.rank=8"]])
def test_other_adapters_are_merged(other, lora):
    """Whole kernels that compute the same: kernel + a @ b * alpha / rank, by NumPy."""
    path, params = other
    config = config_from(path, *lora)
    found = origin_params(config, model_of(config), mesh())
    assert not split_lora(found)[1]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {"float32"}
    old, new = (p["text"]["layers"]["mlp"]["up_proj"] for p in (params, found))
    kernel, a, b = (np.asarray(old[name], np.float64) for name in ("kernel", "lora_a", "lora_b"))
    np.testing.assert_allclose(new["kernel"], kernel + a @ b * 8.0 / 4, rtol=1e-5, atol=1e-5)


def test_a_stage_that_has_not_finished_is_one_line(other, tmp_path):
    path, _ = other
    config = config_from(path, stage="ga_grpo")
    for ask in (
        lambda: check_origin(config),
        lambda: origin_params(config, model_of(config), mesh()),
    ):
        with pytest.raises(UserError, match="that run has not finished ga_grpo; go on with it"):
            ask()
    with pytest.raises(UserError, match="holds no run"):
        config_from(tmp_path / "nowhere")


def test_the_tokenizer_is_copied(micro_run, tmp_path):
    config = config_from(micro_run)
    keep_origin_tokenizer(config, Workdir(tmp_path))
    keep_origin_tokenizer(config, Workdir(tmp_path))  # once is enough
    found, wanted = (load_tokenizer(Workdir(p).tokenizer) for p in (tmp_path, micro_run))
    assert isinstance(found, Tokenizer) and found.serialized == wanted.serialized
