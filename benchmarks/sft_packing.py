"""What packing is worth: python -m benchmarks.sft_packing [--json FILE] [--steps N]

Padding: the share of supervised rows' positions that hold a token, on lengths drawn after the
paper's (benchmarks/paper_lengths.py), a batch being 128 rows: a row each, in two lengths
(training/length_bucketing.py), and packed; and how long it takes to pack 889,000 records.

Rate: tokens that are no padding a second, of whole optimizer steps on this machine by the model of
tpu_configs/cpu.py, before (32 conversations, in two lengths) and after (8 packed rows, about as
many conversations). Conversations are the paper's, positions and words an eighth of them, so that
a step takes seconds. In stage 1 frames are encoded in the step. The two alternate; medians are
reported. Run it on an otherwise idle machine.
"""

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.paper_lengths import STAGES, Drawn, draw_conversations
from benchmarks.trained import machine
from medscope_jax.arguments import Parser
from medscope_jax.config import load_config
from medscope_jax.data.row_packing import frames_of_rows, join_examples, pack_records
from medscope_jax.dialogue import Role
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import run_main
from medscope_jax.models import init_params
from medscope_jax.training.from_config import layouts, with_vocabulary
from medscope_jax.training.length_bucketing import plan_buckets, split_batch
from medscope_jax.training.make_steps import make_sft_step
from medscope_jax.training.train_state import init_state, optimizer_of

CONFIG = Path(__file__).resolve().parent.parent / "tpu_configs" / "cpu.py"
RECORDS = 888_600  # of the paper's stage 1
SHRINK = 8  # of the conversations whose steps are timed
ALONE, PACKED = 32, 8  # rows of a step


def up(size: int) -> int:
    """The size rounded up to a multiple of 8, as rows' are."""
    return -int(size) // 8 * -8


def padding(stage: str, count: int = 20_000) -> dict[str, float]:
    """Shares of positions, and packed of frames, that are used."""
    drawn = draw_conversations(stage, count)
    longest, mean = up(drawn.lengths.max()), float(drawn.lengths.mean())
    parts = plan_buckets(drawn.lengths, drawn.generated, 128, longest)
    each = longest
    if parts is not None:
        each = (parts.rows * parts.length + (128 - parts.rows) * longest) / 128
    most = frames_of_rows(drawn.lengths, drawn.frames, drawn.length)
    rows = pack_records(drawn.lengths, drawn.frames, drawn.length, most, 0)
    return {
        "alone": mean / longest,
        "two_lengths": mean / each,
        "packed": float(rows.sums(drawn.lengths).mean()) / drawn.length,
        "packed_frames": float(rows.sums(drawn.frames).mean()) / most,
        "conversations_per_row": len(drawn.lengths) / len(rows),
    }


def packing_seconds() -> float:
    """Seconds to pack as many records as the paper's stage 1 has."""
    drawn = draw_conversations("stage 1", RECORDS)
    most = frames_of_rows(drawn.lengths, drawn.frames, drawn.length)
    start = time.perf_counter()
    pack_records(drawn.lengths, drawn.frames, drawn.length, most, 0)
    return time.perf_counter() - start


def shrunk(drawn: Drawn) -> Drawn:
    """The conversations with an eighth of the positions and words, and all of their frames."""
    generated = np.maximum(drawn.generated // SHRINK, 1)
    lengths = np.maximum(drawn.lengths // SHRINK, 2 * drawn.frames + generated + 2)
    return Drawn(drawn.length // SHRINK, lengths, drawn.frames, generated)


def example(drawn: Drawn, number: int, kind: str, size: int) -> dict[str, np.ndarray]:
    """A conversation of noise: a word, its frames of two visual tokens each, words, an answer."""
    random = np.random.default_rng(number)
    length, shown = int(drawn.lengths[number]), 2 * int(drawn.frames[number])
    index = np.full(length, -1, np.int32)
    index[1 : 1 + shown] = np.arange(shown)
    role = np.full(length, Role.PROMPT, np.int32)
    role[length - int(drawn.generated[number]) :] = Role.GENERATED
    tokens = random.integers(0, 1024, length).astype(np.int32)
    if kind == "frames":
        seen = random.integers(0, 256, (shown // 2, 28, 56, 3)).astype(np.uint8)
    else:
        seen = random.normal(size=(shown, size)).astype(np.float32)
    return {"tokens": tokens, "visual_index": index, "role": role, kind: seen}


class Side:
    """One way to make rows: `batches`, and the compiled step that takes them."""

    def __init__(self, stage: str, targets: tuple[int, ...], batches: list[Any]):
        """stage: whose step it is; targets: as of make_sft_step."""
        config = load_config(str(CONFIG))
        model = with_vocabulary(config.model, config.dialogue.vocab_size)
        mesh, layout = make_mesh({}, jax.devices()[:1]), layouts(config, model)[0]
        self._step = make_sft_step(config, stage, model, mesh, layout, targets)
        params = init_params(model, jax.random.key(0))
        vision = config[stage].train_vision
        self._state = init_state(params, optimizer_of(config, stage), jax.random.key(1), vision)
        self._batches = batches

    def seconds(self, number: int) -> float:
        """Of a step on one of the batches."""
        batch = jax.tree.map(jnp.asarray, self._batches[number % len(self._batches)])
        start = time.perf_counter()
        self._state, metrics = self._step(self._state, batch)
        assert np.isfinite(metrics["loss"])  # and waits for it
        return time.perf_counter() - start

    def tokens(self) -> float:
        """Mean number of positions of a batch that are no padding."""
        roles = [
            x
            for path, x in jax.tree_util.tree_leaves_with_path(self._batches)
            if path[-1].key == "role"
        ]
        return sum(np.count_nonzero(role) for role in roles) / len(self._batches)


def rate(stage: str, steps: int) -> dict[str, dict[str, float]]:
    """Tokens a second of a stage's steps, alone and packed."""
    config = load_config(str(CONFIG))
    size, kind = config.model.text.hidden_size, "frames" if stage == "warm_up" else "visual"
    drawn = shrunk(draw_conversations("stage 1" if stage == "warm_up" else "stage 2", 3000))
    if stage == "cold_start":  # a quarter of the positions, so that a row is 1,024 long
        fit = drawn.lengths <= drawn.length // 4
        drawn = Drawn(drawn.length // 4, *(array[fit] for array in drawn[1:]))
    order = np.random.default_rng(1).permutation(len(drawn.lengths))
    whole, most = up(drawn.lengths.max()), int(drawn.frames.max())
    targets = up(drawn.generated.max())
    parts = plan_buckets(drawn.lengths, drawn.generated, ALONE, whole)

    def row(numbers: np.ndarray, length: int, frames: int) -> dict:
        return join_examples([example(drawn, i, kind, size) for i in numbers], length, frames, 2)

    def stack(rows: Iterator[dict]) -> dict:
        found = list(rows)
        return {name: np.stack([row[name] for row in found]) for name in found[0]}

    def alone(first: int) -> Any:
        batch = stack(row(order[[i]], whole, most) for i in range(first, first + ALONE))
        del batch["segment"]
        return split_batch(batch, parts)

    room = frames_of_rows(drawn.lengths, drawn.frames, drawn.length)
    rows = pack_records(drawn.lengths, drawn.frames, drawn.length, room, 0)

    def packed(first: int) -> Any:
        return stack(row(rows[i], drawn.length, room) for i in range(first, first + PACKED))

    before = (targets,) if parts is None else (parts.targets, targets)
    sides = {
        "alone": Side(stage, before, [alone(ALONE * i) for i in range(4)]),
        "packed": Side(
            stage,
            (up(rows.sums(drawn.generated).max()),),
            [packed(PACKED * i) for i in range(4)],
        ),
    }
    return measure(sides, steps)


def measure(sides: dict[str, Side], steps: int) -> dict[str, dict[str, float]]:
    """Steps of all sides in turn, after one of each batch; medians of their rates."""
    for side in sides.values():
        for number in range(4):
            side.seconds(number)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(steps):
        for name, side in sides.items():
            taken[name].append(side.seconds(number))
    return {
        name: {
            "seconds": statistics.median(seconds),
            "tokens": sides[name].tokens(),
            "tokens_per_second": sides[name].tokens() / statistics.median(seconds),
        }
        for name, seconds in taken.items()
    }


def print_report(results: dict) -> None:
    """The tables of docs/results.md."""
    show = Console().print
    table = Table("positions used", "alone", "two lengths", "packed", "frames, packed")
    for stage, found in results["padding"].items():
        names = ("alone", "two_lengths", "packed", "packed_frames")
        table.add_row(stage, *(f"{found[name]:.2f}" for name in names))
    show(table)
    show(f"{RECORDS} records are packed in {results['packing_seconds']:.1f} s")
    table = Table("tokens a second", "before", "packed", "times")
    for stage, found in results["rate"].items():
        before, after = (found[name]["tokens_per_second"] for name in ("alone", "packed"))
        table.add_row(stage, f"{before:.0f}", f"{after:.0f}", f"{after / before:.2f}")
    show(table)


def main(argv: list[str]) -> None:
    """Measures and prints tables; --json FILE keeps the numbers."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each side")
    arguments = parser.parse_args(argv)
    results = {
        "machine": machine(),
        "padding": {stage: padding(stage) for stage in STAGES},
        "packing_seconds": packing_seconds(),
        "rate": {stage: rate(stage, arguments.steps) for stage in ("warm_up", "cold_start")},
    }
    print_report(results)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    run_main(main)
