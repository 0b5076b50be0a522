"""The least time of rollouts against counts by hand, and those of the published sizes."""

import pytest

from medscope_jax.planning import CHIPS
from medscope_jax.planning.chips import Chip
from medscope_jax.planning.ideal import Decoder, Texts, least_of

# Two layers of 8 numbers, two heads that share their keys; a layer: 2 * 64 of query and output,
# 2 * 8 * 4 of key and value, 3 * 8 * 16 of the feed-forward part.
SMALL = Decoder(width=8, inner=16, layers=2, heads=2, kv_heads=1, vocab=32)
BODY, HEAD, PAIR, CACHED = 2 * (128 + 64 + 384), 32 * 8, 2 * 2 * 2 * 8, 2 * 2 * 4 * 2


def test_a_model_by_hand():
    assert (SMALL.body, SMALL.head, SMALL.pair_flops) == (BODY, HEAD, PAIR)
    assert SMALL.token_cache == CACHED  # key and value, two layers, four numbers of two bytes


def test_a_question_without_looks_by_hand():
    """Three rollouts of 10 tokens after a prompt of 100, on one chip."""
    least = least_of(SMALL, Texts(1, 3, prompt=100, observation=0, looks=0, turn=10), 1)
    assert least.prefill_flops == 100 * 2 * BODY + 100 * 50 * PAIR  # causal: half of all pairs
    token = 2 * (BODY + HEAD) + 105 * PAIR  # of its own, five in the mean
    assert least.decode_flops == 3 * 10 * token
    # Weights once a step for all three, and so is the prompt; then what each has of its own.
    assert least.decode_bytes == 10 * (2 * (BODY + HEAD) + (100 + 3 * 5) * CACHED)


def test_a_look_by_hand():
    """It sees the prompt, the turn before it and half of itself; the second turn sees it all."""
    texts = Texts(1, 1, prompt=100, observation=20, looks=1, turn=10)
    alone = least_of(SMALL, Texts(1, 1, prompt=100, observation=0, looks=0, turn=10), 1)
    least = least_of(SMALL, texts, 1)
    look = 20 * 2 * BODY + 20 * (100 + 10 + 10) * PAIR
    assert least.prefill_flops == alone.prefill_flops + look
    assert (texts.written, texts.own) == (20, (5 + 35) / 2)
    assert least.decode_bytes == 20 * (2 * (BODY + HEAD) + (100 + 20) * CACHED)


def test_chips_share_weights_by_fours_and_all_keys():
    texts = Texts(8, 1, prompt=100, observation=0, looks=0, turn=1)
    weights, kept = 2 * (BODY + HEAD), 8 * 100.5 * CACHED
    for chips, cell in ((2, 2), (4, 4), (16, 4), (64, 8)):  # 64 chips: eight for each question
        assert least_of(SMALL, texts, chips).decode_bytes == weights / cell + kept / chips


def test_seconds_are_arithmetic_then_the_slower_side():
    least = least_of(SMALL, Texts(1, 1, prompt=10, observation=0, looks=0, turn=1), 1)
    slow_memory = Chip(flops=1e3, hbm=1.0, ici=1.0)
    assert least.seconds(slow_memory, 1) == least.prefill_flops / 1e3 + least.decode_bytes
    slow_products = Chip(flops=1.0, hbm=1e9, ici=1.0)
    assert least.seconds(slow_products, 1) == least.prefill_flops + least.decode_flops


@pytest.mark.parametrize(
    "kind, chips, small, large",
    [("v5e", 256, 3.4, 6.8), ("v6e", 64, 3.0, 5.5), ("v5p", 32, 6.6, 11.9), ("v4", 64, 6.5, 12.0)],
)
def test_64_questions_of_8_rollouts_of_hour_long_videos(kind, chips, small, large):
    """Qwen2.5-VL's sizes, counted by a model of its own beforehand."""
    texts = Texts(64, 8, prompt=19_332, observation=4761, looks=2, turn=256)
    for seconds, decoder in (
        (small, Decoder(2048, 11_008, 36, 16, 2, 151_936)),
        (large, Decoder(3584, 18_944, 28, 28, 4, 152_064)),
    ):
        found = least_of(decoder, texts, chips).seconds(CHIPS[kind], chips)
        assert found == pytest.approx(seconds, abs=0.06)
