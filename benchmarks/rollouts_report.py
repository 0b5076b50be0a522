"""Numbers and table of benchmarks/rollouts.py."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.peers import PARTS

SIDES = ("ours", "peers")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run over all rows."""

    tokens: list[list[int]]  # each row's whole conversation
    generated: int  # tokens sampled, all rows together
    parts: dict[str, float]  # seconds
    steps: int  # decoding steps

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(self.parts.values())


def summary(outcomes: Sequence[Outcome], rows: int, first: float) -> dict:
    """Medians over the repetitions; seconds of the first run hold its compilation too."""
    seconds = [outcome.seconds for outcome in outcomes]
    middle = statistics.median(seconds)
    return {
        "seconds": middle,
        "seconds_range": [min(seconds), max(seconds)],
        "seconds_first_run_with_compilation": first,
        "rollouts_per_second": rows / middle,
        "tokens_per_second": outcomes[0].generated / middle,
        "tokens": outcomes[0].generated,
        "decoding_steps": outcomes[0].steps,
        "parts": {
            part: statistics.median(outcome.parts[part] for outcome in outcomes)
            for part in outcomes[0].parts
        },
    }


def ratios(result: Mapping) -> dict:
    """How many times as fast ours is: alone, and with what each does once a video."""
    mine, other, once = result["ours"]["seconds"], result["peers"]["seconds"], result["once"]
    decode = once["decode_videos"]
    return {
        "ratio": other / mine,
        "ratio_with_once": (other + decode + once["peers_encode_previews"])
        / (mine + decode + once["ours_encode_bank"]),
        "ratio_if_decoding_videos_were_free": (other - result["peers"]["parts"]["decode video"])
        / mine,
    }


def print_report(result: Mapping, console: Console | None = None) -> None:
    """The table of `measure`'s result."""
    console = console or Console()
    table = Table(title=f"{result['rows']} concurrent greedy rollouts", title_justify="left")
    table.add_column("")
    for name in SIDES:
        table.add_column(name, justify="right")
    for label, key in (
        ("rollouts a second", "rollouts_per_second"),
        ("tokens a second", "tokens_per_second"),
        ("seconds", "seconds"),
    ):
        table.add_row(label, *(f"{result[name][key]:.2f}" for name in SIDES))
    for part in ("program", *PARTS):
        seconds = [result[name]["parts"].get(part) for name in SIDES]
        table.add_row(f"  {part}", *("-" if s is None else f"{s:.2f}" for s in seconds))
    first = [result[name]["seconds_first_run_with_compilation"] for name in SIDES]
    table.add_row("first run, with compilation", *(f"{s:.1f}" for s in first))
    console.print(table)
    once = result["once"]
    place = result["machine"]
    for line in (
        f"ratio {result['ratio']:.2f}; with what is done once a video "
        f"{result['ratio_with_once']:.2f}; were decoding videos free "
        f"{result['ratio_if_decoding_videos_were_free']:.2f}",
        f"once for {result['videos']} videos: decoding {once['decode_videos']:.2f} s (both), the "
        f"bank {once['ours_encode_bank']:.2f} s (ours), previews "
        f"{once['peers_encode_previews']:.2f} s (peers)",
        f"{result['tool_calls']} tool calls; {result['rows_differing']} of {result['rows']} rows "
        f"differ, {result['rows_retokenized_differently']} rows changed when tokenized again; "
        f"{result['windows_decoded_differently']} windows decoded differently",
        f"{place['processor']}, {place['cores']} cores, {', '.join(place['devices'])}, "
        f"jax {place['jax']}, load before {place['load_before']}",
    ):
        console.print(line, highlight=False)
