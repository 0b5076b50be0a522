"""Parity with transformers by committed values (made by make_golden_parity.py): several image
sizes, videos and a tool conversation in one batch, padded on either side, and greedy texts."""

import numpy as np
import pytest

from medscope_jax import models
from tests.models import make_golden_parity, parity_cases, parity_model_cases

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=make_golden_parity.MODELS)
def case(request):
    """(config, params, (bank, rows), golden values) of one model."""
    config = parity_cases.FAMILY[request.param]
    params = models.import_hf(parity_cases.random_weights(config), config)
    with np.load(make_golden_parity.TARGET) as stored:
        prefix = request.param + "/"
        golden = {key.removeprefix(prefix): stored[key] for key in stored if key.startswith(prefix)}
    return config, params, parity_model_cases.make_bank(params, config), golden


def test_visual_tokens_of_every_size(case):
    _, _, (bank, rows), golden = case
    for clip, row in enumerate(rows):
        ours = np.asarray(bank)[row, ::4]
        np.testing.assert_allclose(ours, golden[f"clip{clip}"], atol=TOLERANCE)


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_and_logits(case, side):
    config, params, (bank, rows), golden = case
    said = parity_cases.lay_out(
        config, list(parity_cases.ROWS.values()), parity_cases.LENGTH, side == "left"
    )
    places, _ = parity_model_cases.positions(config, said)
    np.testing.assert_array_equal(places, golden[f"{side}/positions"])
    ours = parity_model_cases.logits(params, config, said, bank, rows)
    ours = ours[make_golden_parity.last_positions(said.valid)]
    np.testing.assert_allclose(ours, golden[f"{side}/logits"], atol=TOLERANCE)


def test_greedy_texts(case):
    config, params, (bank, rows), golden = case
    said = parity_cases.lay_out(
        config, list(parity_cases.ROWS.values()), parity_cases.LENGTH, left=False
    )
    steps = parity_cases.GENERATED
    ours = parity_model_cases.generate(params, config, said, bank, rows, steps)
    np.testing.assert_array_equal(ours, golden["texts"])
