"""The model against golden values of transformers' Qwen2.5-VL (made by make_golden.py)."""

import jax
import numpy as np
import pytest

from medscope_jax import models
from tests.models import make_golden

TOLERANCE = 1e-4
CASES = [(name, size) for name in make_golden.MODELS for size in make_golden.SIZES]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request):
    """(config, params, frames, rows, grid, golden values) of one case."""
    name, size = request.param
    config, weights, frames, rows, grid = make_golden.golden_case(name, size)
    prefix = f"{name}-{size[0]}x{size[1]}/"
    with np.load(make_golden.TARGET) as stored:
        golden = {key.removeprefix(prefix): stored[key] for key in stored if key.startswith(prefix)}
    return config, models.import_hf(weights, config), frames, rows, grid, golden


def test_visual_tokens(case):
    config, params, frames, _, _, golden = case
    ours = jax.jit(models.encode_frames, static_argnums=1)(params, config, frames)
    np.testing.assert_allclose(ours, golden["frames"], atol=TOLERANCE)
    pairs = frames.reshape(3, 2, *frames.shape[1:])
    ours = jax.jit(models.encode_frames, static_argnums=1)(params, config, pairs)
    np.testing.assert_allclose(ours, golden["pairs"], atol=TOLERANCE)


def test_positions(case):
    _, _, _, (_, index, valid), grid, golden = case
    ours, _ = models.mrope_positions(index, valid, grid, np.zeros(len(index), np.int32))
    np.testing.assert_array_equal(ours, golden["positions"])


def test_logits_with_frames_from_a_bank(case):
    config, params, frames, (tokens, index, valid), _, golden = case

    @jax.jit
    def run(params):
        bank = models.encode_frames(params, config, frames).reshape(-1, config.text.hidden_size)
        x = models.embed(params, config, tokens, index, bank)
        hidden = models.forward(params, config, x, golden["positions"].astype(np.int32), valid)
        return models.logits(params, config, hidden)

    ours = np.asarray(run(params))
    np.testing.assert_allclose(ours[valid], golden["logits"][valid], atol=TOLERANCE)
