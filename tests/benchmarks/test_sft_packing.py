"""The packing benchmark measures what it says, on few conversations and steps."""

import json

import numpy as np
import pytest

from benchmarks.paper_lengths import STAGES, draw_conversations
from benchmarks.sft_packing import example, padding, print_report, rate, shrunk
from medscope_jax.dialogue import Role


def test_shares_of_padding(capsys):
    found = {stage: padding(stage, 2000) for stage in STAGES}
    for shares in found.values():
        assert shares["alone"] <= shares["two_lengths"] < 0.9 < shares["packed"] <= 1
        assert shares["conversations_per_row"] > 1
    sides = {"alone": {"tokens_per_second": 100.0}, "packed": {"tokens_per_second": 250.0}}
    print_report({"padding": found, "packing_seconds": 4.0, "rate": {"warm_up": sides}})
    printed = capsys.readouterr().out
    assert "888600 records are packed in 4.0 s" in printed and "2.50" in printed


@pytest.mark.parametrize("stage", ["stage 1", "stage 2"])
@pytest.mark.parametrize("kind", ["frames", "visual"])
def test_what_is_timed_is_as_long_as_it_says(stage, kind):
    whole = draw_conversations(stage, 100)
    drawn = shrunk(whole)
    assert np.max(np.abs(drawn.lengths - whole.lengths / 8)) < 60
    for number in range(0, len(drawn.lengths), 17):
        found = example(drawn, number, kind, 16)
        assert len(found["tokens"]) == drawn.lengths[number] <= drawn.length
        assert np.count_nonzero(found["role"] == Role.GENERATED) == drawn.generated[number]
        assert np.count_nonzero(found["visual_index"] >= 0) == 2 * drawn.frames[number]
        assert len(found[kind]) == drawn.frames[number] * (1 if kind == "frames" else 2)


@pytest.mark.slow
def test_rates_of_one_step():
    found = rate("cold_start", steps=1)
    assert json.loads(json.dumps(found)) == found
    assert all(side["tokens_per_second"] > 0 for side in found.values())
