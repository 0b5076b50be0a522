"""The README's table over several seeds: python -m benchmarks.seeds RUN_DIR [RUN_DIR ...]

Reads each run's results.json, checks that the runs differ in nothing but their seeds, and prints a
Markdown table (mean, [lowest, highest]) and the differences between models that the project is
measured by. A difference is taken seed by seed. --json FILE keeps all numbers.
"""

import collections
import statistics
from collections.abc import Iterable, Mapping, Sequence

from medscope_jax.arguments import Parser
from medscope_jax.errors import UserError, run_main
from medscope_jax.metrics import columns_of, read_results, write_results
from medscope_jax.metrics.scoring import KEYS, METRICS
from medscope_jax.metrics.table import Column, model_rows
from medscope_jax.training.workdir import differences, read_workdir

OUT_OF_DOMAIN = ("laparoscopic",)
_SEEDS = ("seed", "suite.seed")
# What is compared: (title, in-domain or not, task, metric, model, baseline, how).
COMPARISONS = (
    ("in-domain grounding R@.5, rl - sft", True, "grounding", "recall_0.5", "rl", "sft", "-"),
    ("in-domain grounding mIoU, rl - sft", True, "grounding", "miou", "rl", "sft", "-"),
    (
        "in-domain grounding R@.5, rl / passive",
        True,
        "grounding",
        "recall_0.5",
        "rl",
        "passive",
        "/",
    ),
    ("in-domain grounding mIoU, rl / passive", True, "grounding", "miou", "rl", "passive", "/"),
    ("in-domain VQA accuracy, rl - passive", True, "vqa", "accuracy", "rl", "passive", "-"),
    ("in-domain VQA accuracy, rl - sft", True, "vqa", "accuracy", "rl", "sft", "-"),
    ("in-domain VQA mIoU, rl - sft", True, "vqa", "miou", "rl", "sft", "-"),
    ("out-of-domain grounding R@.5, rl - sft", False, "grounding", "recall_0.5", "rl", "sft", "-"),
    ("out-of-domain grounding mIoU, rl - sft", False, "grounding", "miou", "rl", "sft", "-"),
    ("out-of-domain VQA mIoU, rl - sft", False, "vqa", "miou", "rl", "sft", "-"),
    ("out-of-domain VQA accuracy, rl - sft", False, "vqa", "accuracy", "rl", "sft", "-"),
    ("out-of-domain VQA accuracy, rl - passive", False, "vqa", "accuracy", "rl", "passive", "-"),
)


def read_runs(folders: Sequence[str]) -> list[list[dict]]:
    """The result rows of each run.

    UserError where a run has no results, two have the same seed, or they differ in more than seeds.
    """
    runs, first, seeds = [], None, {}
    for folder in folders:
        workdir, config = read_workdir(folder)
        if not workdir.is_done():
            raise UserError(f"{folder} has no results.json yet; let its training finish first")
        first = config if first is None else first
        other = [d for d in differences(first, config) if d[0] not in _SEEDS]
        if other:
            key, a, b = other[0]
            raise UserError(f"{folder} is no other seed of {folders[0]}: {key} is {b}, not {a}")
        if config.seed in seeds:
            raise UserError(f"{folder} and {seeds[config.seed]} have the same seed, {config.seed}")
        seeds[config.seed] = folder
        runs.append(read_results(workdir.results))
    return runs


def over_seeds(rows: Iterable[Mapping]) -> list[dict]:
    """Rows of several seeds as their mean, with the range beside it.

    Every metric m of a result becomes its mean, with m_range = [lowest, highest]; "seeds" lists the
    seeds; count, unparsed and unscored are sums. A metric that some seed lacks is None.
    """
    groups = collections.defaultdict(list)
    for row in rows:
        groups[tuple(row.get(key) for key in KEYS if key != "seed")].append(row)
    merged = []
    for key, group in groups.items():
        row = dict(zip((k for k in KEYS if k != "seed"), key, strict=True))
        row["seeds"] = [member.get("seed", 0) for member in group]
        for name in METRICS:
            values = [member.get(name) for member in group]
            if any(value is None for value in values):
                row[name] = row[f"{name}_range"] = None
                continue
            row[name] = statistics.fmean(values)
            row[f"{name}_range"] = [min(values), max(values)]
        for name in ("count", "unparsed", "unscored"):
            row[name] = sum(member.get(name, 0) for member in group)
        merged.append(row)
    return merged


def value_of(
    rows: Iterable[Mapping], model: str, decoding: str, in_domain: bool, task: str, metric: str
) -> float | None:
    """One run's metric over all splits in or out of domain, each question counted once; or None."""
    found = [
        (row.get(metric), row["count"])
        for row in rows
        if (row["model"], row["decoding"], row["task"]) == (model, decoding, task)
        and (row["split"] not in OUT_OF_DOMAIN) == in_domain
        and row.get(metric) is not None
    ]
    total = sum(count for _, count in found)
    return sum(value * count for value, count in found) / total if total else None


def compare(runs: Sequence[Sequence[Mapping]], decoding: str) -> list[dict]:
    """The COMPARISONS: mean over seeds, range, and each seed's; points (percent), or a ratio."""
    result = []
    for title, in_domain, task, metric, model, baseline, how in COMPARISONS:
        values = []
        for rows in runs:
            a, b = (
                value_of(rows, name, decoding, in_domain, task, metric)
                for name in (model, baseline)
            )
            if a is not None and b is not None and (how == "-" or b > 0):
                values.append(100 * (a - b) if how == "-" else a / b)
        # A ratio to nothing, or a model that some seed lacks: better no number than a partial one.
        whole = len(values) == len(runs)
        result.append(
            {
                "comparison": title,
                "decoding": decoding,
                "unit": "points" if how == "-" else "times",
                "mean": statistics.fmean(values) if whole else None,
                "range": [min(values), max(values)] if whole else None,
                "by_run": values if whole else None,
            }
        )
    return result


def markdown_table(rows: Sequence[Mapping]) -> str:
    """The paper's table of over_seeds' rows, percent: means, and below them [lowest, highest]."""
    columns = columns_of(rows)
    names = [f"{c.split} {c.task_title}<br>{c.labels}" for c in columns]
    lines = ["| model | " + " | ".join(names) + " |", "|---" * (len(columns) + 1) + "|"]
    for model, kinds in model_rows(rows).items():
        cells = [_cell(kinds.get((c.split, c.task)), c) for c in columns]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Mapping | None, column: Column) -> str:
    means, ranges = [], []
    for metric in column.metrics:
        value = None if row is None else row[metric]
        if value is None:
            means.append("-")
            ranges.append("-")
            continue
        low, high = row[f"{metric}_range"]
        means.append(f"{100 * value:.1f}")
        ranges.append(f"[{100 * low:.1f}, {100 * high:.1f}]")
    return f"{' / '.join(means)}<br>{' / '.join(ranges)}"


def markdown_comparisons(greedy: Sequence[Mapping], sampled: Sequence[Mapping]) -> str:
    """The comparisons, greedy and sampled beside each other."""
    lines = ["| difference | greedy | mean of samples |", "|---|---|---|"]
    for a, b in zip(greedy, sampled, strict=True):
        lines.append(f"| {a['comparison']} | {_difference(a)} | {_difference(b)} |")
    return "\n".join(lines)


def _difference(found: Mapping) -> str:
    if found["mean"] is None:
        return "-"
    form = "{:+.1f}" if found["unit"] == "points" else "{:.2f}"
    low, high = (form.format(value) for value in found["range"])
    return f"{form.format(found['mean'])} {found['unit']} [{low}, {high}]"


def main(argv: Sequence[str]) -> None:
    """Merges, prints Markdown and writes JSON."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="folders of finished runs")
    parser.add_argument("--json", metavar="FILE", help="where to write all numbers")
    flags = parser.parse_args(argv)
    runs = read_runs(flags.runs)
    rows = over_seeds(row for found in runs for row in found)
    comparisons = [compare(runs, decoding) for decoding in ("greedy", "sampled")]
    seeds = ", ".join(str(seed) for seed in rows[0]["seeds"])
    print(f"Percent; mean of {len(runs)} seeds ({seeds}), below it [lowest, highest].\n")
    print(markdown_table(rows), end="\n\n")
    print(markdown_comparisons(*comparisons))
    if flags.json:
        result = {"runs": flags.runs, "rows": rows, "comparisons": sum(comparisons, [])}
        write_results(flags.json, result)


if __name__ == "__main__":
    run_main(main)
