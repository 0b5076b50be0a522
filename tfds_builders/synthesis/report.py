"""What a run cost and dropped, as a table and as stages.json."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from tfds_builders.synthesis.pipeline import Tally

_COLUMNS = {
    "items": "in",
    "kept": "out",
    "requests": "requests",
    "journal": "of them journal",
    "retries": "retries",
    "failed": "failed",
    "prompt_tokens": "prompt tokens",
    "completion_tokens": "completion tokens",
    "seconds": "seconds",
}


def stages_json(tallies: Mapping[str, Tally], about: Mapping[str, Any]) -> str:
    """The text of stages.json: `about` the run, then every stage's Tally, drops by reason."""
    stages = {}
    for name, tally in tallies.items():
        drops = dict(sorted(tally.drops.items()))
        stages[name] = {
            **dataclasses.asdict(tally),
            "drops": drops,
            "seconds": round(tally.seconds, 3),
        }
    return json.dumps({**about, "stages": stages}, indent=2) + "\n"


def print_stages(tallies: Mapping[str, Tally], console: Console) -> None:
    """Prints one line a stage, and under it one for each reason for which it dropped something."""
    table = Table(title="stages")
    table.add_column("")
    for title in _COLUMNS.values():
        table.add_column(title, justify="right")
    for name, tally in tallies.items():
        table.add_row(name, *(_number(getattr(tally, field)) for field in _COLUMNS))
        for reason, count in sorted(tally.drops.items()):
            table.add_row(f"  dropped: {reason}", "", str(count))
    console.print(table)


def _number(value: float) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
