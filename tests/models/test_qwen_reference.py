"""Live comparison with transformers' Qwen2.5-VL on tiny random weights (PyTorch, float32)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax import models
from tests.models import model_cases

torch = pytest.importorskip("torch", reason="the live comparison needs PyTorch")
pytest.importorskip("transformers", reason="the live comparison needs transformers")
from tests.models import torch_reference  # noqa: E402

pytestmark = pytest.mark.reference
TOLERANCE = 1e-4
POSITIONS = jax.jit(models.mrope_positions, static_argnums=2)
VARIANTS = {
    "tied-gqa2": {},
    "untied-mha": {"kv_heads": 4, "tied": False},
    "mqa-wide-window": {"kv_heads": 1, "window": 112, "full": (0, 2)},
    "window-84": {"window": 84, "full": ()},
}


@pytest.fixture(scope="module", params=list(VARIANTS))
def case(request):
    """(config, our params, the reference model) on the same weights."""
    config = model_cases.tiny_config(**VARIANTS[request.param])
    weights = model_cases.random_state_dict(config, seed=1)
    return config, models.import_hf(weights, config), torch_reference.build(config, weights)


@functools.partial(jax.jit, static_argnums=(1, 4))
def run(params, config, frames, rows, grid):
    """Our logits [B, L, V] of conversations whose frames come from a bank of all `frames`."""
    tokens, index, valid = rows
    bank = jnp.zeros((0, config.text.hidden_size))
    if frames is not None:
        bank = models.encode_frames(params, config, frames).reshape(-1, bank.shape[1])
    x = models.embed(params, config, tokens, index, bank)
    positions, _ = models.mrope_positions(index, valid, grid, jnp.zeros(len(tokens), jnp.int32))
    return models.logits(params, config, models.forward(params, config, x, positions, valid))


# Windows of 2 x 2 merged tokens at 56 pixels: the last three sizes do not divide.
@pytest.mark.parametrize("size", [(28, 56), (56, 112), (84, 140), (140, 84), (28, 196)])
def test_visual_tokens_equal_the_reference(case, size):
    config, params, model = case
    frames = model_cases.random_frames(4, *size, seed=2)
    ours = jax.jit(models.encode_frames, static_argnums=1)(params, config, frames)
    theirs = torch_reference.features(model, config, frames[:, None])
    assert np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)
    pairs = frames.reshape(2, 2, *size, 3)
    ours = jax.jit(models.encode_frames, static_argnums=1)(params, config, pairs)
    np.testing.assert_allclose(ours, torch_reference.features(model, config, pairs), atol=TOLERANCE)


@pytest.mark.parametrize("size", [(28, 56), (84, 140)])
def test_bank_equals_fresh_encoding_by_the_reference(case, size):
    """Logits of conversations gathered from a bank equal those with windows encoded afresh."""
    config, params, model = case
    frames = model_cases.random_frames(9, *size, seed=3)
    grid = models.frame_grid(config, *size)
    rows = [
        model_cases.random_conversation(config, 9, grid[0] * grid[1], length, seed)
        for seed, length in enumerate((30, 47, 12, 80))
    ]
    tokens, index, valid = model_cases.pad_rows(rows, 80)
    theirs = torch_reference.logits(model, config, tokens, index, valid, frames)
    ours = run(params, config, frames, (tokens, index, valid), grid)
    assert theirs.std() > 0.3
    np.testing.assert_allclose(np.asarray(ours)[valid], theirs[valid], atol=TOLERANCE)


def test_text_only_logits(case):
    config, params, model = case
    tokens = np.random.RandomState(5).randint(0, 90, (2, 33)).astype(np.int32)
    index, valid = np.full_like(tokens, -1), np.ones_like(tokens, bool)
    theirs = torch_reference.logits(
        model, config, tokens, index, valid, model_cases.random_frames(1, 28, 28, 0)
    )
    ours = run(params, config, None, (tokens, index, valid), (1, 1))
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


@pytest.mark.parametrize("left", [False, True])
def test_positions_equal_the_reference_on_200_layouts(case, left):
    config, _, model = case
    for seed in range(25):  # of 8 rows each
        random = np.random.RandomState(seed)
        grid = tuple(int(n) for n in random.randint(1, 5, 2))
        rows = [
            model_cases.random_conversation(
                config, 5, grid[0] * grid[1], random.randint(4, 90), 100 * seed + row
            )
            for row in range(8)
        ]
        tokens, index, valid = model_cases.pad_rows(rows, 90, left)
        ours, _ = POSITIONS(index, valid, grid, np.zeros(8, np.int32))
        theirs = torch_reference.positions(model, config, tokens, index, valid, grid)
        np.testing.assert_array_equal(ours, theirs)


def test_a_models_own_state_dict_imports(case):
    """The names that a live model reports are read as well as the hub's."""
    config, params, model = case
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    jax.tree.map(np.testing.assert_array_equal, models.import_hf(state, config), params)


def test_transformers_loads_what_we_export(case, tmp_path):
    config, params, model = case
    from safetensors.numpy import save_file

    save_file(models.export_hf(params, config), tmp_path / "model.safetensors", {"format": "pt"})
    model.config.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float32)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_parameter_count(case):
    config, _, model = case
    assert models.count_params(config) == sum(p.numel() for p in model.parameters())
