"""How tokens are packed: rounded to bfloat16, or to int8 with factors; the error that is told."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.bank import make_bank
from medscope_jax.bank.bank_codec import pack, unpack
from tests.bank.stored_cases import BATCH, D, S, build, encoder, load, make_videos, stamp_ids


def nearest_bfloat16(values):
    """Round half to even by integer arithmetic, as float32."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return rounded.astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_rounding_and_its_reported_error(tmp_path, dtype):
    """Of float32 tokens; errors computed anew, in float64, from what comes back."""
    videos = make_videos()
    exact = make_bank(encoder(), list(videos.values()), stamp_ids, BATCH).padded()
    built = build(tmp_path, videos, dtype)
    bank = load(tmp_path, built.key, videos, None, dtype="float32").padded()
    if dtype == "bfloat16":
        np.testing.assert_array_equal(bank.tokens, nearest_bfloat16(np.asarray(exact.tokens)))
    default = load(tmp_path, built.key, videos).padded()
    np.testing.assert_array_equal(
        default.tokens, np.asarray(bank.tokens).astype(ml_dtypes.bfloat16)
    )

    off = np.asarray(bank.tokens, np.float64) - np.asarray(exact.tokens, np.float64)
    whole = np.asarray(exact.tokens, np.float64)
    norms = [np.sqrt((a**2).sum(-1)) for a in (off, whole)]
    relative = norms[0] / np.where(norms[1] > 0, norms[1], 1)
    v, frame, token = np.unravel_index(relative.argmax(), relative.shape)
    error = built.error
    assert 1e-4 < error.relative_rms < (0.003 if dtype == "bfloat16" else 0.02)
    np.testing.assert_allclose(error.relative_rms, np.linalg.norm(off) / np.linalg.norm(whole))
    np.testing.assert_allclose(error.worst, relative.max())
    assert (built.worst, error.frame, error.token) == (f"video-{v}", frame, token)
    index = json.loads((tmp_path / "index.json").read_text())
    assert (index["dtype"], list(index["videos"])) == (dtype, list(videos))
    for v, (name, video) in enumerate(videos.items()):
        row = index["videos"][name]
        n = len(video.times)
        assert row["shape"] == [n, S, D] and row["content"] == built.key.videos[name]
        np.testing.assert_allclose(
            row["relative_rms"], np.linalg.norm(off[v, :n]) / np.linalg.norm(whole[v, :n])
        )
        np.testing.assert_allclose(row["worst_token"]["error"], relative[v].max())


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_int8_is_what_plain_loops_make_of_it(data):
    """Both ways of sharing factors, one value at a time; the nearer one is taken."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    n, s, d = (int(rng.integers(1, 5)) for _ in range(3))
    tokens = rng.normal(size=(n, s, d)).astype(np.float32)
    tokens *= np.exp(rng.normal(size=(n, s, 1)) * data.draw(st.sampled_from([0, 2, 10])))
    tokens *= np.exp(rng.normal(size=(1, 1, d)) * data.draw(st.sampled_from([0, 2, 10])))
    tokens = (tokens * (rng.random(tokens.shape) > 0.1)).astype(np.float32)

    off = {}
    for kind in ("token", "channel"):
        made = np.zeros_like(tokens)
        for place in np.ndindex(tokens.shape):
            group = tokens[place[:2]] if kind == "token" else tokens[..., place[2]]
            factor = np.float32(max(abs(float(x)) for x in group.ravel())) / np.float32(127)
            factor = factor if factor > 0 else np.float32(1)
            level = max(-127, min(127, round(float(tokens[place] / factor))))
            made[place] = np.float32(level) * factor
            if factor > 1e-35:  # above the denormal numbers
                assert abs(float(made[place]) - float(tokens[place])) <= 0.5001 * float(factor)
        off[kind] = ((made.astype(np.float64) - tokens) ** 2).sum(), made
    stored, kind = pack(tokens, "int8")
    other = {"token": "channel", "channel": "token"}[kind]
    np.testing.assert_array_equal(unpack(stored, tokens.shape, "int8", kind), off[kind][1])
    assert off[kind][0] <= off[other][0] * (1 + 1e-5) + 1e-30
    assert len(stored) == n * s * d + 4 * (n * s if kind == "token" else d)


def test_outliers_decide_whose_the_factors_are():
    tokens = np.random.default_rng(0).normal(size=(32, 4, 16)).astype(np.float32)
    by_channel, by_token = tokens.copy(), tokens.copy()
    by_channel[..., 3] *= 100
    by_token[5, 2] *= 100
    assert pack(by_channel, "int8")[1] == "channel" and pack(by_token, "int8")[1] == "token"
