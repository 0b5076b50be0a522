"""The report of a run: results, learning curves and evidence traces on one web page."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medscope_jax.metrics.table import METRIC_LABELS, columns_of, model_rows
from medscope_jax.report.curves import learning_curves
from medscope_jax.report.trace import Trace, trace_view
from medscope_jax.report.trace_page import environment


def results_view(rows: Sequence[Mapping], others: bool) -> dict[str, Any] | None:
    """The paper's table of rows for a template; None if the rows hold none of its columns.

    Returns {splits: [(name, number of metrics)], columns: [(title, labels)],
    rows: [(model, cells)]}; a cell is {text, range, best, first}; best marks the highest value of
    its column.
    """
    columns = columns_of(rows, others)
    if not columns:
        return None
    splits: dict[str, int] = {}
    for column in columns:
        splits[column.split] = splits.get(column.split, 0) + len(column.metrics)
    metrics = [
        (column, metric, index == 0)
        for column in columns
        for index, metric in enumerate(column.metrics)
    ]
    found = model_rows(rows)

    def value(kinds: Mapping, column: Any, metric: str) -> Any:
        return kinds.get((column.split, column.task), {}).get(metric)

    best = [
        max((v for k in found.values() if (v := value(k, c, m)) is not None), default=None)
        for c, m, _ in metrics
    ]
    body = []
    for name, kinds in found.items():
        cells = []
        for (column, metric, first), top in zip(metrics, best, strict=True):
            number = value(kinds, column, metric)
            spread = value(kinds, column, f"{metric}_range")
            cells.append(
                {
                    "text": "\u2013" if number is None else f"{100 * number:.1f}",
                    "range": f"{100 * spread[0]:.1f}\u2013{100 * spread[1]:.1f}" if spread else "",
                    "best": number is not None and number == top and len(found) > 1,
                    "first": first,
                }
            )
        if any(cell["text"] != "\u2013" for cell in cells):
            body.append((name, cells))
    return {
        "splits": list(splits.items()),
        "columns": [(c.task_title, [METRIC_LABELS[m] for m in c.metrics]) for c in columns],
        "rows": body,
    }


def render_report(
    metrics: Iterable[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    traces: Iterable[Trace],
    title: str = "medscope_jax",
    notes: Sequence[str] = (),
) -> str:
    """One HTML page without scripts or outside resources.

    Args:
      metrics: rows of metrics.jsonl, {"stage", "step", name: value, ...}.
      results: rows of results.json (see scoring.result_rows and scoring.over_seeds).
      traces: evidence traces, the most telling first.
      title: headline.
      notes: sentences under the headline, such as the configuration and the time taken.
    """
    results = list(results)
    tables = [
        (caption, view)
        for others, caption in ((False, "Grounding and grounded VQA"), (True, "Other tasks"))
        if (view := results_view(results, others))
    ]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            notes=list(notes),
            tables=tables,
            unparsed=sum(row.get("unparsed") or 0 for row in results),
            unscored=sum(row.get("unscored") or 0 for row in results),
            count=sum(row.get("count") or 0 for row in results),
            curves=learning_curves(metrics),
            views=[trace_view(trace) for trace in traces],
        )
    )
