"""Numbers and table of benchmarks/rollouts.py."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.peers import PARTS, Conversation

SIDES = ("ours", "peers", "peers_keep", "transformers", "transformers_keep")


@dataclasses.dataclass(frozen=True)
class TimedRollout:
    """One run over all rows."""

    tokens: list[list[int]]  # each row's whole conversation
    generated: int  # tokens sampled, all rows together
    parts: dict[str, float]  # seconds
    cpu_seconds: float  # of all threads
    steps: int  # decoding steps

    @property
    def seconds(self) -> float:
        """Seconds of the whole run."""
        return sum(self.parts.values())


def summary(outcomes: Sequence[TimedRollout], first: float) -> dict:
    """Medians over the repetitions; seconds of the first run hold its compilation too."""
    seconds = [outcome.seconds for outcome in outcomes]
    middle = statistics.median(seconds)
    return {
        "seconds": middle,
        "seconds_range": [min(seconds), max(seconds)],
        "cpu_seconds": statistics.median(outcome.cpu_seconds for outcome in outcomes),
        "seconds_first_run_with_compilation": first,
        "rollouts_per_second": len(outcomes[0].tokens) / middle,
        "tokens_per_second": outcomes[0].generated / middle,
        "tokens": outcomes[0].generated,
        "decoding_steps": outcomes[0].steps,
        "parts": {
            part: statistics.median(outcome.parts[part] for outcome in outcomes)
            for part in outcomes[0].parts
        },
    }


def agreement(mine: TimedRollout, other: TimedRollout, rows: Sequence[Conversation]) -> dict:
    """In how many rows the peers' tokens differ from ours, and why they may."""
    differ = [i for i, (x, y) in enumerate(zip(mine.tokens, other.tokens, strict=True)) if x != y]
    return {
        "rows_differing": len(differ),
        # Its text, tokenized again, is not what was sampled: the peers' own doing.
        "rows_retokenized_differently": sum(row.drifted for row in rows),
        "rows_broken_by_tokenizing_again": sum(row.broken for row in rows),
        # The rest: two scores so close that the order of a sum decides.
        "rows_differing_though_tokenized_alike": sum(not rows[i].drifted for i in differ),
    }


def ratios(result: Mapping) -> dict:
    """How many times as fast ours is: alone, and with what is done once a video."""
    mine, once = result["ours"], result["once"]
    keep = result["peers_keep"]["seconds"] + once["peers_keep_encode_previews"]
    bank = once["decode_videos"] + once["ours_encode_bank"]
    others = [name for name in SIDES[3:] if name in result]
    return {
        **{f"ratio_{name}": result[name]["seconds"] / mine["seconds"] for name in others},
        "ratio": result["peers"]["seconds"] / mine["seconds"],
        "ratio_keep": result["peers_keep"]["seconds"] / mine["seconds"],
        "ratio_cpu_seconds": result["peers"]["cpu_seconds"] / mine["cpu_seconds"],
        "ratio_keep_cpu_seconds": result["peers_keep"]["cpu_seconds"] / mine["cpu_seconds"],
        "ratio_with_bank": result["peers"]["seconds"] / (mine["seconds"] + bank),
        "ratio_keep_with_bank": (keep + once["decode_videos"]) / (mine["seconds"] + bank),
    }


def print_report(result: Mapping, console: Console | None = None) -> None:
    """The table of `measure`'s result."""
    console = console or Console()
    sides = [name for name in SIDES if name in result]
    table = Table(title=f"{result['rows']} concurrent greedy rollouts", title_justify="left")
    table.add_column("")
    for name in sides:
        table.add_column(name, justify="right")
    for label, key in (
        ("rollouts a second", "rollouts_per_second"),
        ("tokens a second", "tokens_per_second"),
        ("seconds", "seconds"),
        ("processor seconds", "cpu_seconds"),
    ):
        table.add_row(label, *(f"{result[name][key]:.2f}" for name in sides))
    for part in ("program", *PARTS):
        seconds = [result[name]["parts"].get(part) for name in sides]
        table.add_row(f"  {part}", *("-" if s is None else f"{s:.2f}" for s in seconds))
    first = [result[name]["seconds_first_run_with_compilation"] for name in sides]
    table.add_row("first run, with compilation", *(f"{s:.1f}" for s in first))
    console.print(table)
    once, place = result["once"], result["machine"]
    lines = [
        f"ours is {result['ratio']:.2f} times as fast as peers, {result['ratio_keep']:.2f} times "
        f"as peers_keep; making the bank included {result['ratio_with_bank']:.2f} and "
        f"{result['ratio_keep_with_bank']:.2f}; in processor seconds "
        f"{result['ratio_cpu_seconds']:.2f} and {result['ratio_keep_cpu_seconds']:.2f}",
        f"once for {result['videos']} videos: decoding {once['decode_videos']:.2f} s, the bank "
        f"{once['ours_encode_bank']:.2f} s (ours), previews "
        f"{once['peers_keep_encode_previews']:.2f} s (peers_keep)",
        f"{result['tool_calls']} tool calls; "
        f"{result['windows_decoded_differently']} windows decoded differently",
    ]
    lines += [
        f"ours is {result[f'ratio_{name}']:.2f} times as fast as {name}" for name in sides[3:]
    ]
    for name in sides[1:]:
        found = result[name]
        lines.append(
            f"{name}: {found['rows_differing']} of {result['rows']} rows differ from ours; "
            f"{found['rows_retokenized_differently']} changed when tokenized again"
        )
    lines.append(
        f"{place['processor']}, {place['cores']} cores, {', '.join(place['devices'])}, "
        f"jax {place['jax']}, load before {place['load_before']}"
    )
    for line in lines:
        console.print(line, highlight=False)
