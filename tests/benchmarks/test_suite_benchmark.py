"""The suite's benchmark measures what it says, on a few seconds of video."""

import json

import pytest

from benchmarks.suite import BOUNDS, draw, main, measure, opencv_alone, print_report


def test_files_and_opencv_alone(tmp_path):
    paths = draw(tmp_path, videos=2, seconds=21, size=(24, 32))
    assert opencv_alone(paths) == 2 * 21 * 25
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["window"] for row in rows] == 2 * [[0, 10], [10, 20]]


@pytest.mark.slow
def test_numbers_of_one_run(tmp_path, capsys):
    paths = draw(tmp_path / "manual", videos=2, seconds=21, size=(48, 64))
    result = measure(tmp_path / "manual", paths, repeats=1, batches=1)
    assert result["native_frames"] == 1050 and result["bank_frames"] == 42
    assert result["records"] == 4 and result["rows"] == 32
    for name in ("opencv", "build", "workers_1", "workers_2"):
        assert result["native_frames_per_second"][name] > 0
    assert all(result[name] > 0 for name in BOUNDS)
    assert json.loads(json.dumps(result)) == result
    print_report(result)
    assert "at least 0.8" in capsys.readouterr().out


def test_bad_flags_are_one_line(refusal):
    assert "--seconds over 19" in refusal(main, ["--seconds", "5"])
