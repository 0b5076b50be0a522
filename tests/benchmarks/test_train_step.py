"""Three programs beside each other: they write the same tokens and take the same policy step."""

import dataclasses

import numpy as np
import pytest

from benchmarks import train_step
from benchmarks.train_step_job import Job, write_recordings
from benchmarks.train_step_report import print_report
from benchmarks.train_step_side import advantages_of, do_job
from benchmarks.trained import machine

JOB = Job(rollouts=16, turns=2, window=4)


def result(seconds, **values):
    known = {"parameters": 10**6, "seconds": seconds, "rollouts_per_second": 8 / seconds}
    known |= {"tokens_per_second": 1.0, "peak_bytes": 2**30, "tokens": 9, "calls": 3}
    return known | values


def test_sides_are_compared_row_by_row(tmp_path, capsys):
    rows = np.arange(16 * 256).reshape(16, 256)
    other = rows.copy()
    other[3, 200], other[7, :2] = -1, -1
    for side, written in (("ours", rows), ("peers_keep", rows), ("transformers_keep", other)):
        np.savez(tmp_path / f"{side}-{JOB.name}.npz", rows=written)
    sides = {"ours": result(2.0, update_seconds=3.0), "peers_keep": result(6.0)}
    sides["transformers_keep"] = result(12.0, update_seconds=8.0)
    found = train_step.compare(tmp_path, JOB, sides)
    assert found["ours"]["step_seconds"] == 5.0 and "rows_differing" not in found["ours"]
    peers, torch = found["peers_keep"], found["transformers_keep"]
    assert (peers["rows_differing"], torch["rows_differing"]) == (0, 2)
    assert peers["ours_times_as_fast"] == {"rollouts": 3.0, "update": 1.0, "step": 1.8}
    assert torch["ours_times_as_fast"]["step"] == 4.0
    growth = {"video": {"60": {"ours": result(1.0)}}}
    print_report({"machine": machine(), "sizes": {"1m": {"16": found}}, "growth": growth})
    assert "video 60: ours 1.00 s (9 tokens, 3 calls" in capsys.readouterr().out


def test_jobs_have_names_of_their_own():
    jobs = [job for several in train_step._GROWTH.values() for job in several]
    jobs += [dataclasses.replace(JOB, size=size) for size in ("1m", "5m", "20m")]
    assert len({job.name for job in jobs}) == len(jobs)


def test_rollouts_that_are_alike_still_make_a_gradient():
    drawn = advantages_of(64)
    np.testing.assert_array_equal(drawn, advantages_of(64))
    assert (np.abs(drawn.reshape(8, 8).sum(axis=1)) > 1e-3).all()


@pytest.mark.reference
def test_all_sides_write_the_same_and_step_alike(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers", minversion="5.23")
    write_recordings(tmp_path, 20)
    found, rows = {}, {}
    for side in train_step.KEPT:
        found[side] = do_job(tmp_path, side, JOB, repeats=1, update=True)
        rows[side] = np.load(tmp_path / f"{side}-{JOB.name}.npz")["rows"]
    for side in train_step.KEPT[1:]:
        np.testing.assert_array_equal(rows[side], rows["ours"])
        assert found[side]["calls"] == found["ours"]["calls"] > 0
        assert found[side]["tokens"] == found["ours"]["tokens"]
    ours, torch = found["ours"], found["transformers_keep"]
    np.testing.assert_allclose(torch["loss"], ours["loss"], atol=2e-5)
    np.testing.assert_allclose(torch["gradient_norm"], ours["gradient_norm"], rtol=1e-3)
    assert ours["gradient_norm"] > 1e-3
    assert ours["frames_shown"] > 16 * 12  # windows beside previews
