"""Clips of different sizes in one bank: each clip's rows are its own tokens; one program a size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax import models
from medscope_jax.models import Kind
from medscope_jax.video import temporal_patches
from tests.models import model_cases, parity_cases

CONFIG = model_cases.tiny_config(window=84)


def test_a_clips_rows_are_its_tokens_and_each_size_compiles_once():
    params = models.import_hf(model_cases.random_state_dict(CONFIG, seed=4), CONFIG)
    traced = []

    @jax.jit
    def encode(frames):
        traced.append(frames.shape)
        return models.encode_frames(params, CONFIG, frames)

    image, wide = model_cases.random_frames(2, 28, 56, 0), model_cases.random_frames(1, 56, 84, 1)
    video = model_cases.random_frames(5, 28, 56, 2)
    clips = [
        temporal_patches(clip, native=len(clip) > 1)
        for clip in (image[:1], video, wide, image[1:], video[:4], image[:1])
    ]
    bank, rows = models.encode_clips(encode, clips, batch=2)
    assert sorted(traced) == [(2, 1, 28, 56, 3), (2, 1, 56, 84, 3), (2, 2, 28, 56, 3)]
    assert sorted(np.concatenate(rows)) == list(range(len(bank)))  # every row once, none spare
    bank = np.asarray(bank)
    for index, clip in ((0, image[0]), (2, wide[0]), (3, image[1]), (5, image[0])):
        alone = models.encode_frames(params, CONFIG, clip[None])
        np.testing.assert_allclose(bank[rows[index]], alone[0], atol=1e-5)
    pairs = np.stack([video[:2], video[2:4], video[[4, 4]]])  # the odd frame is its own partner
    alone = models.encode_frames(params, CONFIG, pairs).reshape(-1, CONFIG.text.hidden_size)
    np.testing.assert_allclose(bank[rows[1]], alone, atol=1e-5)
    np.testing.assert_allclose(bank[rows[4]], alone[: len(rows[4])], atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 4, 7])
def test_order_survives_any_batch(batch):
    def encode(frames):
        assert len(frames) == batch
        return jnp.asarray(frames[:, 0, :, :1, :1].reshape(batch, -1, 1), jnp.float32)

    clips = [np.full((1, 1, 1 + i % 2, 2, 3), i, np.uint8) for i in range(9)]
    bank, rows = models.encode_clips(encode, clips, batch)
    for index, row in enumerate(rows):
        assert np.asarray(bank)[row, 0].tolist() == [index] * (1 + index % 2)


def test_visual_rows_fill_the_slots_in_reading_order():
    kinds = np.array([[0, 1, 1, 0, 2, 0], [1, 0, 2, 2, 0, 0]])
    frame = models.visual_rows(kinds, [[7, 8], [3]], [[5], [1, 2]])
    assert frame.tolist() == [[-1, 7, 8, -1, 5, -1], [3, -1, 1, 2, -1, -1]]
    assert (models.visual_rows(kinds * 0, []) == -1).all()
    with pytest.raises(ValueError, match="2 image tokens for 3 slots"):
        models.visual_rows(kinds, [[7, 8]], [[5], [1, 2]])


def test_kinds_come_from_placeholders_that_are_not_padding():
    rows = list(parity_cases.ROWS.values())
    said = parity_cases.lay_out(CONFIG, rows, parity_cases.LENGTH, left=True)
    slots = [int(np.prod(parity_cases.grid_of(clip))) for clip in said.images]
    assert (said.kinds == Kind.IMAGE).sum() == sum(slots)
    nothing = np.zeros_like(said.valid)
    image = said.tokens[said.kinds == Kind.IMAGE][0]
    assert (models.token_kinds(said.tokens, nothing, image, image + 1) == Kind.TEXT).all()
