"""Stored predictions score as the trajectories themselves did; judging anew loses nothing."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest

from medscope_jax.errors import UserError
from medscope_jax.evaluation import rescore
from medscope_jax.evaluation.rescore import judge_stored, stored_results
from medscope_jax.evaluation.sealed_lines import sealed
from medscope_jax.metrics import result_rows
from medscope_jax.metrics.scoring import score_questions
from medscope_jax.rl import Verdict, make_judge, make_telling_judge
from tests.evaluation import prediction_cases as cases


def direct(model, tools):
    """The rows that the trajectories give without any file."""
    judge = make_judge({"url": ""})
    kinds = [("greedy", cases.RECORDS, [[found] for found in cases.GREEDY])]
    kinds += [("sampled", cases.RECORDS[:1], [cases.SAMPLED])]
    settings = {"can_look": tools, "seed": 7, "frame_window": 1.0}
    return [
        scored
        for decoding, records, found in kinds
        for scored in score_questions(model, records, found, judge, decoding=decoding, **settings)
    ]


def test_the_table_is_that_of_the_trajectories(tmp_path):
    rows = [*cases.lines("rl"), *cases.lines("passive")]
    cases.write(tmp_path, rows)
    found = stored_results(tmp_path)
    expected = result_rows([*direct("rl", True), *direct("passive", False)])
    assert json.dumps(found.rows) == json.dumps(expected)
    assert len({row["miou"] for row in expected}) > 2  # they differ
    assert found.notes == ["judged by the built-in rules"]


def test_shards_and_files_out_of_order_give_the_same_table(tmp_path):
    rows = cases.lines()
    cases.write(tmp_path / "whole", rows)
    whole = stored_results(tmp_path / "whole")
    for order in itertools.islice(itertools.permutations(rows), 0, 120, 17):
        folder = tmp_path / "-".join(str(rows.index(row)) for row in order)
        cases.write(folder, order[:2], (2, 2))
        cases.write(folder, order[2:], (1, 2))
        found = sorted(stored_results(folder).rows, key=lambda row: (row["task"], row["decoding"]))
        assert found == sorted(whole.rows, key=lambda row: (row["task"], row["decoding"]))


def test_what_is_missing_or_left_out_is_said(tmp_path):
    path = cases.write(tmp_path, cases.lines()[:4])
    data = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*data[:2], b"{}\n", *data[3:]])[:-3])
    notes = stored_results(tmp_path).notes
    assert (
        "a last line that was cut off" in notes[0] and "1 damaged line(s) left out (3)" in notes[0]
    )
    assert "rl, greedy: 2 of 3 predictions are here; the table is of these" in notes[1]


def test_what_does_not_belong_together_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no predictions: make some, with --out"):
        stored_results(tmp_path / "none")
    rows = cases.lines()
    cases.write(tmp_path / "a", rows, (1, 2))
    cases.write(tmp_path / "a", rows[:1], (2, 2))
    with pytest.raises(UserError, match="both have question 0 of rl: keep one"):
        stored_results(tmp_path / "a")
    cases.write(tmp_path / "b", rows[:2], (1, 2))
    cases.write(tmp_path / "b", [rows[2] | {"weights": 6}], (2, 2))
    with pytest.raises(UserError, match="other weights called rl"):
        stored_results(tmp_path / "b")
    cases.write(tmp_path / "c", rows[:2], (1, 2))
    other = dataclasses.replace(cases.HEADER, suite="suite 2")
    cases.write(tmp_path / "c", rows[2:], (2, 2), other)
    with pytest.raises(UserError, match=r"another evaluation \(other suite\)"):
        stored_results(tmp_path / "c")
    path = cases.write(tmp_path / "d", rows)
    path.write_bytes(path.read_bytes().replace(b'"seed": 7', b'"seed": 8', 1))
    with pytest.raises(UserError, match="is no file of predictions, or damaged"):
        stored_results(tmp_path / "d")
    path.write_bytes(sealed(cases.HEADER.line() | {"format": 1}))
    with pytest.raises(UserError, match="has format 1, not 2: make the predictions again"):
        stored_results(tmp_path / "d")


def test_judging_by_the_same_rules_changes_no_byte(tmp_path):
    path = cases.write(tmp_path, cases.lines())
    before = path.read_bytes()
    judge_stored(tmp_path, None)
    assert path.read_bytes() == before
    cases.write(tmp_path / "wrong", cases.lines(score=0.5))
    judge_stored(tmp_path / "wrong", None)
    assert (tmp_path / "wrong" / path.name).read_bytes() == before
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {path.name, f".{path.name}.lock"}


SECTION = {"url": "http://judge", "model": "m"}


def play(monkeypatch, fail_at=math.inf):
    """An endpoint that gives 0.5, and can't be reached any more after so many answers."""
    asked = []

    def judge(section):
        def ask(records, answers):
            if len(asked) >= fail_at:
                raise UserError("the judge is gone")
            asked.extend(answers)
            return [
                Verdict(math.nan) if "idea" in answer else Verdict(0.5, f"of {answer}: half")
                for answer in answers
            ]

        return ask if section["url"] else make_telling_judge(section)

    monkeypatch.setattr(rescore, "make_telling_judge", judge)
    monkeypatch.setattr(rescore, "_BATCH", 2)
    return asked


def test_another_judge_and_back(tmp_path, monkeypatch):
    path = cases.write(tmp_path, cases.lines())
    asked = play(monkeypatch)
    judge_stored(tmp_path, SECTION)
    found = stored_results(tmp_path)
    assert len(asked) == 5 and {row["judge_score"] for row in found.rows} == {0.5}
    assert sum(row["unscored"] for row in found.rows) == 1
    assert found.notes == ["judged by m at http://judge"]
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    replies = {(line["answer"], line["reply"]) for line in lines}
    assert all(
        said == ("idea" not in answer and f"of {answer}: half" or None) for answer, said in replies
    )
    before = path.read_bytes()
    judge_stored(tmp_path, None)  # what an endpoint said is not thrown away
    assert path.read_bytes() == before and len(asked) == 5


def test_a_judge_that_goes_away_is_asked_for_the_rest_alone(tmp_path, monkeypatch):
    path = cases.write(tmp_path, cases.lines())
    before = path.read_bytes()
    play(monkeypatch, fail_at=4)
    with pytest.raises(UserError, match="is gone"):
        judge_stored(tmp_path, SECTION)
    assert path.read_bytes() == before
    (kept,) = tmp_path.glob(f".{path.name}.[0-9a-f]*")
    kept.write_bytes(kept.read_bytes()[:-5])  # as a kill would leave it
    asked = play(monkeypatch)
    judge_stored(tmp_path, SECTION)
    assert len(asked) == 2 and not kept.exists()
    cases.write(tmp_path / "once", cases.lines())
    play(monkeypatch)
    judge_stored(tmp_path / "once", SECTION)
    assert path.read_bytes() == Path(tmp_path / "once" / path.name).read_bytes()
