"""Live parity with transformers on every shape of the family: the vision tower's hidden states,
logits of mixed conversations padded on either side, and greedy generation."""

import numpy as np
import pytest

from medscope_jax import models
from tests.models import parity_cases, parity_model_cases

pytest.importorskip("torch", reason="the live comparison needs PyTorch")
parity_reference = pytest.importorskip("tests.models.parity_reference")
torch_reference = pytest.importorskip("tests.models.torch_reference")
pytest.importorskip("transformers", minversion=parity_reference.MINVERSION)

pytestmark = pytest.mark.reference
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=list(parity_cases.FAMILY))
def case(request):
    """(config, our params, the reference model, our bank and its rows) on the same weights."""
    config = parity_cases.FAMILY[request.param]
    weights = parity_cases.random_weights(config)
    params = models.import_hf(weights, config)
    model = torch_reference.build(config, weights)
    return config, params, model, parity_model_cases.make_bank(params, config)


def test_every_hidden_state_of_the_vision_tower(case):
    config, params, model, (bank, rows) = case
    clips = parity_cases.make_clips()
    shapes = set()
    for clip, row in zip(clips, rows, strict=True):
        tokens, states = parity_reference.tower(model, config, clip)
        assert tokens.std() > 0.1
        np.testing.assert_allclose(np.asarray(bank)[row], tokens, atol=TOLERANCE)
        if clip.shape[0] == 6 or (clip.shape[0] == 1 and clip.shape not in shapes):
            frames = clip.reshape(-1, min(2, len(clip)), *clip.shape[1:])
            empty = np.zeros((parity_cases.BATCH - len(frames), *frames.shape[1:]), np.uint8)
            _, ours = parity_model_cases.tower(params, config, np.concatenate([frames, empty]))
            ours = np.asarray(ours)[:, : len(frames)].reshape(states.shape)
            np.testing.assert_allclose(ours, states, atol=TOLERANCE)
            shapes.add(clip.shape)
    assert len(shapes) == 4


@pytest.mark.parametrize("left", [False, True])
def test_positions_and_logits_of_mixed_conversations(case, left):
    config, params, model, (bank, rows) = case
    said = parity_cases.lay_out(config, list(parity_cases.ROWS.values()), parity_cases.LENGTH, left)
    places, _ = parity_model_cases.positions(config, said)
    np.testing.assert_array_equal(places, parity_reference.positions(model, config, said))
    theirs = parity_reference.logits(model, config, said)
    assert theirs.std() > 0.3
    ours = parity_model_cases.logits(params, config, said, bank, rows)
    np.testing.assert_allclose(ours[said.valid], theirs[said.valid], atol=TOLERANCE)


def test_greedy_generation_of_64_tokens(case):
    config, params, model, (bank, rows) = case
    segments = list(parity_cases.ROWS.values())
    said = parity_cases.lay_out(config, segments, parity_cases.LENGTH, left=False)
    padded_left = parity_cases.lay_out(config, segments, parity_cases.LENGTH, left=True)
    steps = parity_cases.GENERATED
    theirs = parity_reference.generate(model, config, padded_left, steps)
    parity_model_cases.feed.clear_cache()
    ours = parity_model_cases.generate(params, config, said, bank, rows, steps)
    assert parity_model_cases.feed._cache_size() == 2  # the prompts, and one step
    assert min(len(set(row)) for row in theirs.tolist()) >= 10
    np.testing.assert_array_equal(ours, theirs)
