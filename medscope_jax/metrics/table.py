"""Results on the terminal, laid out as the paper's table, and as JSON."""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from medscope_jax.files import write_text
from medscope_jax.metrics.scoring import METRICS
from medscope_jax.stored import Either, at_least, read_json
from medscope_jax.visible import shown

# Metrics that the paper shows for a task; other tasks show their accuracy.
_SHOWN: dict[str, tuple[str, ...]] = {
    "grounding": ("recall_0.3", "recall_0.5", "recall_0.7", "miou"),
    "vqa": ("miou", "accuracy"),
}
METRIC_LABELS = {
    "recall_0.3": "R@.3",
    "recall_0.5": "R@.5",
    "recall_0.7": "R@.7",
    "miou": "mIoU",
    "accuracy": "Acc",
    "bleu": "BLEU",
    "token_f1": "F1",
}
_OTHER: dict[str, tuple[str, ...]] = {"description": ("token_f1", "bleu")}

# A list of scoring.result_rows' rows.
_ROWS: list[dict] = [
    {
        **dict.fromkeys(("model", "split", "task", "decoding"), str),
        "seed?": int,
        "count": at_least(0),
        "unparsed?": at_least(0),
        "unscored?": at_least(0),
        **{f"{name}?": Either(None, float) for name in METRICS},
        ...: object,
    }
]


@dataclasses.dataclass(frozen=True)
class Column:
    """One column group of the paper's table: a split's task with its metrics."""

    split: str
    task: str
    metrics: tuple[str, ...]

    @property
    def title(self) -> str:
        """The column's heading, such as "ophthalmic VQA"."""
        return f"{self.split} {self.task_title}"

    @property
    def task_title(self) -> str:
        """The task as a heading says it, such as "VQA"."""
        return self.task.upper() if self.task == "vqa" else self.task

    @property
    def labels(self) -> str:
        """The names of the column's metrics, such as "R@.3 / R@.5 / R@.7 / mIoU"."""
        return " / ".join(METRIC_LABELS[metric] for metric in self.metrics)


def columns_of(rows: Iterable[Mapping], others: bool = False) -> list[Column]:
    """Column groups that the rows have, split by split in order of appearance.

    Grounding and VQA as in the paper, or with `others` all remaining tasks.
    """
    kinds = dict.fromkeys((row["split"], row["task"]) for row in rows)
    order = list(dict.fromkeys(split for split, _ in kinds))
    tasks = list(_SHOWN)
    columns = [
        Column(split, task, _SHOWN.get(task) or _OTHER.get(task, ("accuracy",)))
        for split, task in kinds
        if (task in _SHOWN) != others
    ]
    # sorted() is stable: other tasks keep their order of appearance.
    return sorted(
        columns,
        key=lambda c: (order.index(c.split), tasks.index(c.task) if c.task in tasks else 0),
    )


def cell(row: Mapping | None, metrics: Sequence[str]) -> str:
    """Percentages of a row, joined: "81.9 / 68.9"; "-" where there is no value."""
    values = [None if row is None else row.get(metric) for metric in metrics]
    return " / ".join("-" if value is None else f"{100 * value:.1f}" for value in values)


def model_rows(rows: Iterable[Mapping]) -> dict[str, dict[tuple[str, str], Mapping]]:
    """Rows by model and (split, task), models in order of appearance.

    Decodings other than greedy are models of their own ("rl, sampled"); where several rows fall on
    one place, the last one stays.
    """
    found: dict[str, dict] = {}
    for row in rows:
        decoding = row.get("decoding") or "greedy"
        name = row["model"] if decoding == "greedy" else f"{row['model']}, {decoding}"
        found.setdefault(name, {})[row["split"], row["task"]] = row
    return found


def grid(rows: Sequence[Mapping], columns: Sequence[Column]) -> list[tuple[str, list[str]]]:
    """Body of the table: (model, one text a column group) for each of `model_rows`."""
    return [
        (name, [cell(kinds.get((c.split, c.task)), c.metrics) for c in columns])
        for name, kinds in model_rows(rows).items()
    ]


def _table(rows: Sequence[Mapping], columns: Sequence[Column], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("model", no_wrap=True)
    for column in columns:
        label = column.labels.replace(" ", "")
        # No markup: a source's name may hold some.
        heading = Text(f"{shown(column.title)}\n{label}")
        table.add_column(heading, justify="right", no_wrap=True)
    for name, cells in grid(rows, columns):
        table.add_row(Text(shown(name)), *(text.replace(" ", "") for text in cells))
    return table


def _tables(
    console: Console, rows: Sequence[Mapping], columns: Sequence[Column], title: str
) -> list[Table]:
    """As few tables as the terminal's width allows, at least one column group each."""
    unbounded = console.options.update(max_width=10_000)
    tables: list[Table] = []
    first = 0
    for end in range(1, len(columns) + 1):
        wider = _table(rows, columns[first:end], title)
        if tables and Measurement.get(console, unbounded, wider).maximum <= console.width:
            tables[-1] = wider
        else:
            first = end - 1
            tables.append(_table(rows, columns[first:end], title))
    return tables


def print_results(rows: Sequence[Mapping], console: Console | None = None) -> None:
    """Prints the paper's table of rows (see scoring.result_rows), then a table of other tasks."""
    console = console or Console()
    for others, title in ((False, "Evaluation, percent"), (True, "Other tasks, percent")):
        columns = columns_of(rows, others)
        if columns:
            for table in _tables(console, rows, columns, title):
                console.print(table)
    unparsed = sum(row.get("unparsed", 0) for row in rows)
    if unparsed:
        total = sum(row.get("count", 0) for row in rows)
        console.print(
            f"{unparsed} of {total} trajectories pointed to no readable evidence (score 0)."
        )
    if unscored := sum(row.get("unscored", 0) for row in rows):
        console.print(f"The judge gave {unscored} answers no score: accuracy is of the others.")


def _jsonable(value: Any) -> Any:
    """Plain JSON values: NumPy scalars become numbers, what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if hasattr(value, "tolist"):
        return _jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_results(path: str | os.PathLike, rows: Sequence[Mapping] | Mapping) -> None:
    """Writes rows (or an object that holds them) as JSON, whole or not at all.

    Raises UserError if the disk is full; a file from before then stays as it was.
    """
    write_text(path, json.dumps(_jsonable(rows), indent=2, allow_nan=False) + "\n")


def read_results(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of results.json, as scoring.result_rows made them.

    Raises:
      UserError: it can't be read, or was damaged or edited.
    """
    return read_json(path, _ROWS, "delete it; the same training command makes it again")
