"""How sure a folder's numbers are: intervals of every mean, models against each other, and the page
that says so in Markdown.

Questions of one video rise and fall together: all intervals are clustered by video, see
metrics/uncertainty.py.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from medscope_jax.evaluation.measured import Measured
from medscope_jax.metrics.table import METRIC_LABELS
from medscope_jax.metrics.uncertainty import estimates, paired_difference
from medscope_jax.visible import shown

COMPARED = ("recall_0.5", "miou", "accuracy")


LEGEND = "Percent with 95 % intervals, clustered by video; seconds and counts as they are."


class Heading(NamedTuple):
    """How a value is shown: its heading, and what it is multiplied by (100: percent)."""

    label: str
    factor: float = 100


COLUMNS = {
    **{
        name: Heading(METRIC_LABELS[name])
        for name in ("recall_0.3", "recall_0.5", "recall_0.7", "miou")
    },
    "accuracy": Heading("accuracy"),
    "answered": Heading("answered"),
    "looked": Heading("looked at all"),
    "evidence_seen": Heading("saw the evidence"),
    "accuracy_seen": Heading("accuracy, evidence seen"),
    "accuracy_unseen": Heading("accuracy, evidence not seen"),
    "looks": Heading("looks a question", 1),
    "failed_calls": Heading("failed calls", 1),
    "seconds": Heading("seconds seen", 1),
}


def summarize(
    measured: Sequence[Measured],
    others: Sequence[Measured] = (),
    compared: Sequence[str] = COMPARED,
) -> dict[str, Any]:
    """Plain values for JSON.

    others: of another evaluation of the same questions; each of its models is compared with each of
    these, under names of their own. compared: the values by which models are compared.

    estimates: for each model, decoding, source and task in order of coming, each value's mean with
    the ends of its 95 % interval, and of how many questions and videos it is; missing: those that
    have no such value. comparisons: for each two models, the later one's gain on the questions that
    both answered.
    """
    keys = [(one.model, one.decoding, one.source, one.task) for one in measured]
    groups, beside = _grouped(measured), _grouped(others)
    found = estimates([one.values for one in measured], [one.video for one in measured], keys)
    rows = [
        dict(zip(("model", "decoding", "source", "task"), key, strict=True))
        | {"values": {name: plain(value) for name, value in values.items() if value.count}}
        for key, values in found.items()
    ]
    pairs = [*itertools.combinations(groups, 2), *itertools.product(beside, groups)]
    comparisons = list(_comparisons(pairs, groups | beside, compared))
    return {"estimates": rows, "comparisons": comparisons}


_Groups = dict[tuple[str, ...], list[Measured]]


def _grouped(measured: Sequence[Measured]) -> _Groups:
    """Values by model, decoding, source and task."""
    groups: _Groups = collections.defaultdict(list)
    for one in measured:
        groups[one.model, one.decoding, one.source, one.task].append(one)
    return groups


def _comparisons(
    pairs: Sequence[tuple[tuple[str, ...], tuple[str, ...]]],
    groups: _Groups,
    compared: Sequence[str],
) -> Iterator[dict[str, Any]]:
    for first, second in pairs:
        if first[0] == second[0] or first[1:] != second[1:]:
            continue
        before = {one.question: one for one in groups[first]}
        after = {one.question: one for one in groups[second]}
        both = [question for question in before if question in after]
        videos = [before[question].video for question in both]
        for name in compared:
            found = paired_difference(
                [before[question].values.get(name, math.nan) for question in both],
                [after[question].values.get(name, math.nan) for question in both],
                videos,
            )
            if found.count:
                yield {
                    **{"first": first[0], "second": second[0], "decoding": first[1]},
                    **{"source": first[2], "task": first[3], "metric": name},
                    **plain(found),
                }


def plain(value: Any) -> dict[str, Any]:
    """A dataclass of numbers as JSON has it: null for what is not known."""
    fields = dataclasses.asdict(value).items()
    return {
        name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in fields
    }


class TextTable(NamedTuple):
    """A table as text: a heading, the columns' headings, rows of cells that begin with a name."""

    title: str
    header: list[str]
    rows: list[list[str]]


def tables(summary: dict[str, Any], columns: Mapping[str, Heading] = COLUMNS) -> list[TextTable]:
    """What summarize made, as tables: means with intervals of each source's task, then comparisons.

    columns: of the tables, by the names of values.
    """
    found = []
    kinds = dict.fromkeys((row["source"], row["task"]) for row in summary["estimates"])
    for source, task in kinds:
        rows = [r for r in summary["estimates"] if (r["source"], r["task"]) == (source, task)]
        names = [name for name in columns if any(name in row["values"] for row in rows)]
        table = TextTable(f"{source}, {task}", ["model", "questions, videos"], [])
        table.header.extend(columns[name].label for name in names)
        for row in rows:
            called = row["model"] + ("" if row["decoding"] == "greedy" else f", {row['decoding']}")
            most = max(row["values"].values(), key=lambda value: value["count"])
            cells = [_interval(row["values"].get(name), columns[name].factor) for name in names]
            table.rows.append([called, f"{most['count']}, {most['videos']}", *cells])
        found.append(table)
    if summary["comparisons"]:
        title = "Models against each other, on the same questions"
        header = ["models", "question", "metric", "gain", "p", "questions, videos"]
        compared = [_compared(row, columns[row["metric"]]) for row in summary["comparisons"]]
        found.append(TextTable(title, header, compared))
    return found


def _compared(row: dict[str, Any], column: Heading) -> list[str]:
    decoding = "" if row["decoding"] == "greedy" else f", {row['decoding']}"
    return [
        f"{row['second']} against {row['first']}{decoding}",
        f"{row['source']}, {row['task']}",
        column.label,
        _interval(row, column.factor),
        "-" if row["p_value"] is None else f"{row['p_value']:.3f}",
        f"{row['count']}, {row['videos']}",
    ]


def to_markdown(found: Sequence[TextTable], notes: Sequence[str], title: str = "Evaluation") -> str:
    """A page of tables, with notes above them."""
    lines = [f"# {title}", "", *(f"- {_cell(note)}" for note in notes), "", LEGEND, ""]
    for table in found:
        lines += [f"## {_cell(table.title)}", "", "| " + " | ".join(table.header) + " |"]
        lines += ["|---" * len(table.header) + "|"]
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in table.rows]
        lines += [""]
    lines += ["Research software, not a medical device: it must not guide the care of anyone.", ""]
    return "\n".join(lines)


def _interval(value: dict[str, Any] | None, factor: float) -> str:
    """A number with its interval, such as 31.2 (25.0 to 38.1)."""
    if value is None:
        return "-"
    number = f"{factor * value['value']:.1f}"
    if value["low"] is None:
        return number
    return f"{number} ({factor * value['low']:.1f} to {factor * value['high']:.1f})"


def _cell(text: str) -> str:
    """Text from a file, which must not end a cell or a line."""
    return shown(text).replace("|", "\\|")
