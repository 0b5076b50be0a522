"""Values of stored predictions, their intervals and comparisons, against counts by hand."""

import dataclasses
import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medscope_jax import evaluate
from medscope_jax.evaluate_out import write_table
from medscope_jax.evaluation.measured import evidence_seen
from medscope_jax.evaluation.rescore import stored_results
from medscope_jax.evaluation.summary import LEGEND, summarize, tables, to_markdown
from medscope_jax.report import render_tables
from tests.evaluation import prediction_cases as cases


def values(rows, number, decoding="greedy", sample=0):
    (found,) = (
        one.values for one in rows if (one.question, one.decoding) == ((number, sample), decoding)
    )
    return found


def test_what_a_prediction_says(tmp_path):
    """cases.GREEDY: a right window in one look; a wrong call, a look, an endless one; no look."""
    cases.write(tmp_path, cases.lines())
    rows = stored_results(tmp_path).measured
    grounding = values(rows, 0)
    assert grounding["miou"] == pytest.approx(1.9 / 2.3)  # [2, 4] against [2.1, 4.3]
    assert (grounding["recall_0.7"], grounding["looks"], grounding["looked"]) == (1, 1, 1)
    assert grounding["seconds"] == pytest.approx(2.2)
    assert (grounding["failed_calls"], grounding["evidence_seen"]) == (0, 1)
    vqa = values(rows, 1)
    assert (vqa["accuracy"], vqa["looks"], vqa["failed_calls"]) == (1, 1, 2)
    assert (vqa["accuracy_seen"], vqa["answered"]) == (1, 1)
    assert math.isnan(vqa["accuracy_unseen"])
    description = values(rows, 2)
    assert math.isnan(description["miou"]) and math.isnan(description["evidence_seen"])
    assert (description["looked"], description["seconds"]) == (0, 0)
    assert values(rows, 0, "sampled", 1)["evidence_seen"] == 0


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=3),
    st.lists(st.integers(0, 40), max_size=5),
)
def test_evidence_is_seen_where_a_frame_lies_in_it(spans, shown):
    """Against sets of half seconds."""
    spans = [tuple(sorted(span)) for span in spans]
    line = {
        "evidence": spans,
        "evidence_time": -1.0,
        "windows": [{"times": [half / 2 for half in shown]}],
    }
    halves = {half for start, end in spans for half in range(2 * start, 2 * end + 1)}
    assert evidence_seen(line, 1.0) is (bool(halves & set(shown)) if spans else None)


def test_an_instant_is_seen_near_it():
    line = {"evidence": [], "evidence_time": 3.0, "windows": [{"times": [4.5]}, {"times": [5.0]}]}
    assert evidence_seen(line, 1.5) is True and evidence_seen(line, 1.4) is False


def many(model, right, videos=10):
    """Two questions about each of many videos; `right` says of which videos the answers are so."""
    found = []
    for number in range(2 * videos):
        row = {**cases.lines(model)[1], "number": number, "video": f"v{number // 2}"}
        found.append({**row, "score": float(right(number // 2))})
    return found


def test_intervals_are_of_videos_and_pairs_of_the_same_questions(tmp_path):
    """A later model gains all of six videos and loses one; of two questions more, only one has an
    answer."""
    first, second = many("sft", lambda v: v < 4), many("rl", lambda v: v != 0)
    cases.write(tmp_path, [*first, *second[:-1]])
    summary = summarize(stored_results(tmp_path).measured)
    json.dumps(summary, allow_nan=False)
    (sft, rl) = summary["estimates"]
    accuracy = sft["values"]["accuracy"]
    assert (accuracy["value"], accuracy["count"], accuracy["videos"]) == (0.4, 20, 10)
    # Ten videos that are all right or all wrong are as ten coins: Wilson's, with t of 9 degrees.
    z, n = 2.2621571628, 9  # a standard error with ten clusters has n - 1 in it
    middle = (0.4 + z**2 / (2 * n)) / (1 + z**2 / n)
    assert accuracy["low"] + accuracy["high"] == pytest.approx(2 * middle, rel=1e-6)
    assert rl["values"]["accuracy"]["count"] == 19
    (gain,) = (c for c in summary["comparisons"] if c["metric"] == "accuracy")
    assert (gain["first"], gain["second"], gain["count"]) == ("sft", "rl", 19)
    assert gain["value"] == pytest.approx((11 - 2) / 19)
    assert gain["low"] < 0 < gain["value"] < gain["high"] and 0.05 < gain["p_value"] < 0.1


def test_models_of_two_folders_are_compared(tmp_path):
    """As those of one folder are, under names that tell the folders apart."""
    first, second, both = tmp_path / "first", tmp_path / "second", tmp_path / "both"
    before, after = many("rl", lambda v: v < 4), many("rl", lambda v: v != 0)
    cases.write(first, before)
    cases.write(second, after)
    cases.write(both, [*({**line, "model": "sft"} for line in before), *after])
    wanted = summarize(stored_results(both).measured)["comparisons"]
    write_table(second, first)
    summary = json.loads((second / "intervals.json").read_text())
    assert summary["comparisons"] == [{**row, "first": f"rl of {first}"} for row in wanted]
    assert any(row["metric"] == "accuracy" and row["value"] > 0.4 for row in wanted)
    assert [row["model"] for row in summary["estimates"]] == ["rl"]
    assert f"| rl against rl of {first} | eye, vqa |" in (second / "results.md").read_text()
    assert f"compared with {first}: judged by the built-in rules" in summary["notes"]


def test_other_questions_are_not_compared(tmp_path, refusal):
    first, second = tmp_path / "first", tmp_path / "second"
    cases.write(first, cases.lines())
    cases.write(second, cases.lines(), header=dataclasses.replace(cases.HEADER, suite="suite 2"))
    line = refusal(evaluate.main, ["--rescore", "--out", str(second), "--against", str(first)])
    assert line.startswith(f"{first} holds an evaluation of another suite")
    line = refusal(evaluate.main, ["--rescore", "--out", str(first), "--against", str(first)])
    assert line.startswith("--against and --out are one folder")


def test_one_video_has_no_interval(tmp_path):
    cases.write(tmp_path, many("rl", lambda v: True, videos=1))
    found = stored_results(tmp_path)
    (row,) = summarize(found.measured)["estimates"]
    assert row["values"]["accuracy"]["low"] is None
    assert "| rl | 2, 1 |" in to_markdown(tables(summarize(found.measured)), found.notes)


def test_the_page_can_be_read_as_markdown(tmp_path):
    """Each table's rows have as many cells, whatever names the files bring; and who judged."""
    rows = [*many("a|b\n# c", lambda v: v < 4), *many("rl", lambda v: v < 6)]
    cases.write(tmp_path, rows)
    found = stored_results(tmp_path)
    page = to_markdown(tables(summarize(found.measured)), found.notes)
    blocks = [block for block in page.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 2
    for table in blocks:
        cells = [line.replace("\\|", "").count("|") for line in table.splitlines()]
        assert len(set(cells)) == 1
    assert "judged by the built-in rules" in page and "not a medical device" in page
    assert "rl against a\\|b" in page
    assert page.count("\n# ") == 0 and np.sum([line.startswith("#") for line in page.splitlines()])


class Cells(HTMLParser):
    """The texts of a page's table cells, row by row, and whether it asks for anything."""

    def __init__(self):
        super().__init__()
        self.rows, self.outside, self.inside = [], [], False

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self.inside = True
        self.outside += [value for name, value in attrs if name in ("src", "href")]
        assert tag != "script"

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("th", "td")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_the_page_for_people_has_the_same_cells(tmp_path):
    """Whatever names the files bring, and nothing is asked for from outside."""
    name = "<script>a|b</script>"
    cases.write(tmp_path, [*many(name, lambda v: v < 4), *many("rl", lambda v: v < 6)])
    found = stored_results(tmp_path)
    made = tables(summarize(found.measured))
    html = render_tables(made, found.notes, "Evaluation", LEGEND)
    page = Cells()
    page.feed(html)
    assert page.outside == []
    expected = [row for table in made for row in (table.header, *table.rows)]
    assert [row for row in page.rows if row] == expected
    assert name in expected[1] and "judged by the built-in rules" in html
    assert "not a medical device" in html
