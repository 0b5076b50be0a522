"""Tables of benchmarks/train_step.py."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

_WIDTH = 140  # of the table, whatever the terminal says: figures are not to be cut
_HEADS = (
    *("size", "rows", "side", "rollouts/s", "tokens/s", "rollout s", "update s", "step s"),
    *("ours x", "step x", "GiB", "differ"),
)


def print_report(result: Mapping, console: Console | None = None) -> None:
    """One row a size, number of rollouts and side; then what grows.

    "ours x" says how many times as fast our rollout is, "step x" our whole step; "differ" how many
    rows have other tokens than ours.
    """
    console = console or Console(width=_WIDTH)
    table = Table(title="Rollouts and GA-GRPO steps", title_justify="left")
    for head in _HEADS:
        table.add_column(head, justify="right", no_wrap=True)
    for size, cells in result["sizes"].items():
        for count, sides in cells.items():
            for side, found in sides.items():
                times = found.get("ours_times_as_fast", {})
                faster = [f"{times[k]:.2f}" if times else "-" for k in ("rollouts", "step")]
                table.add_row(
                    f"{size} ({found['parameters'] / 1e6:.1f} M)",
                    count,
                    side,
                    f"{found['rollouts_per_second']:.2f}",
                    f"{found['tokens_per_second']:.0f}",
                    f"{found['seconds']:.2f}",
                    f"{found['update_seconds']:.2f}",
                    f"{found['step_seconds']:.2f}",
                    *faster,
                    f"{found['peak_bytes'] / 2**30:.2f}",
                    str(found.get("rows_differing", "-")),
                )
    console.print(table)
    for what, values in result.get("growth", {}).items():
        for value, sides in values.items():
            line = ", ".join(
                f"{side} {found['seconds']:.2f} s ({found['tokens']} tokens, {found['calls']} "
                f"calls, {found['peak_bytes'] / 2**30:.2f} GiB)"
                for side, found in sides.items()
            )
            console.print(f"{what} {value}: {line}", highlight=False)
    place = result["machine"]
    console.print(
        f"{place['processor']}, {place['cores']} cores, {', '.join(place['devices'])}, "
        f"jax {place['jax']}, load before {place['load_before']}",
        highlight=False,
    )
