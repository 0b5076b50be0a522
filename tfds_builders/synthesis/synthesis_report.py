"""What a run cost and dropped, as tables and as stages.json."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medscope_jax.visible import shown
from tfds_builders.synthesis.pipeline import Tally

_COLUMNS = {
    "items": "in",
    "kept": "out",
    "requests": "asked",
    "journal": "journal",
    "retries": "retries",
    "failed": "failed",
    "prompt_tokens": "prompt",
    "completion_tokens": "written",
    "seconds": "seconds",
}


def stages_json(tallies: Mapping[str, Tally], about: Mapping[str, Any]) -> str:
    """The text of stages.json: `about` the run, then every stage's Tally, drops by reason."""
    stages = {}
    for name, tally in tallies.items():
        values = {field.name: getattr(tally, field.name) for field in dataclasses.fields(tally)}
        drops = dict(sorted(tally.drops.items()))
        stages[name] = {**values, "drops": drops, "seconds": round(tally.seconds, 3)}
    return json.dumps({**about, "stages": stages}, indent=2) + "\n"


def print_stages(tallies: Mapping[str, Tally], console: Console) -> None:
    """Prints what each stage took in, gave out and cost; then what was dropped, and why.

    Columns: items in and out, answers had and how many of them the journal held, failed attempts,
    requests without an answer, tokens of prompts and of what was written, seconds of waiting.
    """
    costs = Table(box=None)
    costs.add_column("stage", no_wrap=True)
    for title in _COLUMNS.values():
        costs.add_column(title, justify="right", no_wrap=True)
    drops = Table(box=None)
    for title in ("stage", "dropped", "because"):
        drops.add_column(title, justify="right" if title == "dropped" else "left")
    for name, tally in tallies.items():
        costs.add_row(name, *(_number(getattr(tally, field)) for field in _COLUMNS))
        for reason, count in sorted(tally.drops.items()):
            drops.add_row(name, _number(count), Text(shown(reason.removeprefix(f"{name}: "))))
    console.print(costs)
    if drops.row_count:
        console.print()
        console.print(drops)


def _number(value: float) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
