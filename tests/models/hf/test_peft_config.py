"""Settings of PEFT: the known ones mean what PEFT computes, all others are refused by name."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax import models
from medscope_jax.errors import UserError
from medscope_jax.models.hf.peft import plan_peft
from medscope_jax.models.hf.peft_config import adapted, read_settings
from tests.models.hf.test_peft import CONFIG, random_adapters

PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "target_modules": ["q_proj"]}
WITHOUT_EFFECT = {
    "modules_to_save": [],
    "rank_pattern": {},
    "layers_to_transform": [],
    "lora_dropout": 0.05,
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "x",
    "megatron_core": "megatron.core",
    "loftq_config": {"loftq_bits": 4},
    "qalora_group_size": 16,
    "init_lora_weights": "gaussian",
    "something_of_next_year": None,
    "use_something": False,
    "bias": "none",
}
REFUSED = {
    "peft_type": ["IA3", "ADALORA", None, 1],
    "init_lora_weights": ["pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "lora_ga"],
    "bias": ["all", "lora_only", ["none"]],
    "use_dora": [True, 1],
    "use_qalora": [True],
    "use_bdlora": [{"nblocks": 2}],
    "lora_bias": [True],
    "fan_in_fan_out": [True],
    "modules_to_save": [["lm_head"], "lm_head"],
    "rank_pattern": [{"q_proj": 8}],
    "alpha_pattern": [{"q_proj": 8}],
    "layers_to_transform": [[0], 0, False, {}],
    "layer_replication": [[[0, 1]]],
    "target_parameters": [["weight"]],
    "trainable_token_indices": [[1, 2], {"embed_tokens": [1]}],
    "megatron_config": [{"a": 1}],
    "alora_invocation_tokens": [[1], [], False],
    "kasa_config": [{}, False],
    "arrow_config": [{}],
    "something_of_next_year": [0, "", "x", 1.5],
    "r": [0, -1, True, 1.5, "4", None, 2**30],
    "lora_alpha": [0, -1, float("nan"), float("inf"), "6", True, None, 10**400],
    "use_rslora": ["yes", 2, []],
    "target_modules": [None, [], "", [1], {"q_proj": 1}, 5],
    "exclude_modules": [5, [None]],
}


def test_known_values():
    for name, value in WITHOUT_EFFECT.items():
        assert read_settings({**PLAIN, name: value}) == read_settings(PLAIN), name
    for start in (True, False, None, "eva", "orthogonal", "mica"):
        assert read_settings({**PLAIN, "init_lora_weights": start}).alpha == 6
    assert read_settings({**PLAIN, "use_rslora": True}).alpha / 4 == 6 / 4**0.5


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_by_name(name):
    for value in REFUSED[name]:
        with pytest.raises(UserError, match=rf"adapter_config.json .*{name}") as error:
            read_settings({**PLAIN, name: value})
        assert "\n" not in str(error.value)


NAMES = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj", "visual.mlp.up_proj", "head"]


@pytest.mark.parametrize(
    "targets, excluded, found",
    [
        (["up_proj"], [], NAMES[:3]),
        (["p_proj"], [], []),
        (["mlp.up_proj", "head"], ["visual.mlp.up_proj"], [*NAMES[:2], "head"]),
        (["head"], ["ead"], ["head"]),
        ("all-linear", [], NAMES[:3]),
        ("all-linear", "visual.*", NAMES[:2]),
        (r".*layers\.\d\..*", [], NAMES[:2]),
        (r"^(?!.*visual).*(?:up|down)_proj", r".*\.1\..*", NAMES[:1]),
        ("head", [], ["head"]),
        ("up_proj", [], []),
    ],
)
def test_modules_are_found_as_in_peft(targets, excluded, found):
    values = {**PLAIN, "target_modules": targets, "exclude_modules": excluded}
    assert adapted(read_settings(values), NAMES, ["head"]) == found


@pytest.mark.parametrize("pattern", ["(", "(a", "[", "(" * 5000, "a**"])
def test_a_broken_pattern_is_one_line(pattern):
    with pytest.raises(UserError, match="pattern .* of modules is no regular expression") as error:
        adapted(read_settings({**PLAIN, "target_modules": pattern}), NAMES, [])
    assert "\n" not in str(error.value)


@pytest.mark.invariant
def test_a_pattern_that_takes_ages_is_stopped():
    slow = r"(([a-z])+.)+[A-Z]([a-z])+$"
    with pytest.raises(UserError, match="takes over 5 s"):
        adapted(read_settings({**PLAIN, "target_modules": slow}), ["a" * 60], [])


def test_tensors_are_those_of_the_settings():
    """No more and no fewer than target_modules says, and the decoder's projections only."""
    shapes = {n: a.shape for n, a in models.peft_state_dict(random_adapters(), CONFIG).items()}
    values = models.adapter_config(CONFIG)

    def refused(message, **changes):
        with pytest.raises(UserError, match=message):
            plan_peft(shapes, values | changes, CONFIG)

    lora, places = plan_peft(shapes, values, CONFIG)
    assert lora == CONFIG.lora and sorted(n for names in places.values() for n in names) == sorted(
        shapes
    )
    some = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"]
    refused("extra .*layers.0.mlp.gate_proj.lora_A", target_modules=r".*layers.*(_attn.*|up_proj)")
    refused("is for visual.blocks.0.mlp.up_proj; visual.blocks.1.mlp.up_proj", target_modules=some)
    refused("is for lm_head", target_modules=r".*layers.*|lm_head", exclude_modules=r".*visual.*")
    refused("layer 2's q_proj is not in target_modules", exclude_modules=r".*layers.2.*q_proj")
    refused("names no projection", target_modules=["c_attn"])
    refused("names no projection", exclude_modules=r"model\.language_model\..*")  # of one spelling
    twice = {**shapes, next(iter(shapes)).replace(".weight", ".default.weight"): (4, 64)}
    with pytest.raises(UserError, match="extra "):
        plan_peft(twice, values, CONFIG)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@given(name=st.sampled_from([*WITHOUT_EFFECT, *REFUSED]) | st.text(max_size=9), value=JSON)
@settings(max_examples=100, deadline=None)
def test_any_setting_is_known_or_refused(name, value):
    try:
        found = read_settings({**PLAIN, name: value})
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        return
    assert found.rank > 0 and np.isfinite(found.alpha) and found.alpha > 0
    if name not in WITHOUT_EFFECT and name not in REFUSED:
        assert value in (None, False, [], {})


def test_damaged_settings_mean_the_same_or_are_refused():
    """Bytes of an adapter_config.json changed one by one: nothing that counts changes unnoticed."""
    draw = random.Random(0)
    whole = json.dumps(models.adapter_config(CONFIG)).encode()
    right = read_settings(models.adapter_config(CONFIG))
    for _ in range(1500):
        place = draw.randrange(len(whole))
        damaged = (
            whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :]
        )
        try:
            values = json.loads(damaged)
            found = read_settings(values)
        except (UserError, ValueError):
            continue
        # A digit of rank or scale, or a letter of a pattern, is another one that is as good.
        assert found._replace(rank=4, alpha=6.0, targets="") == right._replace(targets="")
