"""What one chip does in a compiled program: arithmetic, bytes to and from HBM and to other chips.

An instruction reads its operands from HBM and writes its result there, unless they live in a small
memory on the chip. Of an array that is only sliced, the slice counts, and of one updated in place
the update. A kernel with an estimate of its own is taken at its word. What stands in a loop counts
as often as the loop runs.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

from medscope_jax.errors import UserError
from medscope_jax.models.attention.cached import OWN_KERNEL, PREFIX_KERNEL
from medscope_jax.planning.arithmetic import product_flops
from medscope_jax.planning.flops import AGENT_LOOP, Assumed, Inside, times_of, unknown_loop
from medscope_jax.planning.fusions import IN_PLACE, SLICING, bytes_read, bytes_written
from medscope_jax.planning.hlo_text import (
    Computation,
    Instruction,
    hbm_size,
    leaves,
    loop_name,
    parse,
    size,
    trip_count,
)

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "iota", "opt-barrier",
}  # fmt: skip
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BETWEEN_SLICES = "xla_megascale_runtime"  # who carries out what one slice sends to another


@dataclasses.dataclass(frozen=True)
class Moved:
    """How often collectives of one kind (such as all-gather) run, and what they send."""

    count: float  # times that they run
    bytes: float  # that a chip sends, with each array going round its group in a ring


@dataclasses.dataclass(frozen=True)
class ChipWork:
    """What a program does on one chip, each time that it runs."""

    flops: float  # of matrix products, also of those that other chips compute too; no kernels'
    hbm_bytes: float
    collectives: dict[str, Moved]
    dcn_bytes: float  # that a chip sends to other slices

    @property
    def ici_bytes(self) -> float:
        """Bytes that a chip sends to others of its slice."""
        return sum(moved.bytes for moved in self.collectives.values())


def read_work(text: str, chips: int, assumed: Assumed) -> ChipWork:
    """The ChipWork of a compiled program.

    Args:
        text: after all optimization, one chip's part.
        chips: of the whole mesh.
        assumed: for the loops and the choices that depend on values, as count_flops takes it.

    Raises:
      UserError: a loop that multiplies matrices or sends something, or the agent loop that is
        assumed, is not where its name says how often it runs.
    """
    (work,) = read_works(text, chips, [assumed])
    return work


def read_works(text: str, chips: int, cases: Sequence[Assumed]) -> list[ChipWork]:
    """read_work for several things that may be assumed."""
    computations, entry = parse(text)
    found = []
    for assumed in cases:
        reader = _Reader(computations, chips, assumed)
        reader.visit(entry, 1.0, assumed.reading)
        if assumed.steps and not reader.has_agent_loop:
            raise UserError(f"it holds no loop named {AGENT_LOOP}: see rollout/loop.py")
        counted = {kind: Moved(*values) for kind, values in sorted(reader.collectives.items())}
        found.append(ChipWork(reader.flops, reader.hbm_bytes, counted, reader.dcn_bytes))
    return found


class _Reader:
    """Adds up what the computations do; one use."""

    def __init__(self, computations: dict[str, Computation], chips: int, assumed: Assumed):
        self.computations, self.chips, self.assumed = computations, chips, assumed
        self.flops = 0.0
        self.hbm_bytes = 0.0
        self.dcn_bytes = 0.0
        self.collectives: dict[str, tuple[float, float]] = {}
        self.has_agent_loop = False

    def visit(self, name: str, times: float, inside: Inside) -> None:
        """Counts a computation `times` often."""
        computation = self.computations[name]
        seen: set[tuple] = set()
        for instruction in computation.instructions.values():
            opcode = instruction.opcode
            if opcode == "while":
                trips = trip_count(instruction, computation, self.computations)
                if trips is None:
                    self.visit_open(instruction, times, inside)
                else:
                    self.visit(instruction.calls("body"), times * trips, inside)
            elif opcode == "conditional":
                branches = instruction.branches
                often = self.assumed.branches(len(branches))
                for share, branch in zip(often, branches, strict=True):
                    self.visit(branch, times * share, inside)
            elif opcode in ("call", "async-start"):
                called = instruction.calls("to_apply") or instruction.calls()
                if called:
                    self.visit(called, times, inside)
            else:
                self.flops += times * self.products(instruction, computation)
                self.hbm_bytes += times * self.moved(instruction, computation, inside)
                self.collect(instruction, times, seen)
                if opcode == "send" and _BETWEEN_SLICES in instruction.attributes:
                    self.dcn_bytes += times * max(number for number, _ in leaves(instruction.shape))

    def visit_open(self, loop: Instruction, times: float, inside: Inside) -> None:
        """Counts a loop without a fixed length as often as its name says."""
        name, body = loop_name(loop, self.computations), loop.calls("body")
        if name == AGENT_LOOP:
            self.has_agent_loop = True
            kinds = self.open_loops(body)
            often = self.assumed.kinds([loop_name(kind, self.computations) for kind in kinds])
            for kind, (count, own) in zip(kinds, often, strict=True):
                self.visit(kind.calls("body"), times * count, own)
            return
        before, trips = (self.flops, dict(self.collectives)), times_of(name, inside)
        self.visit(body, times * (inside.pieces if trips is None else trips), inside)
        if trips is None and (self.flops, self.collectives) != before:
            raise unknown_loop(name)

    def open_loops(self, name: str) -> list[Instruction]:
        """The loops without a fixed length in a computation or in its calls, in order."""
        computation, found = self.computations[name], []
        for instruction in computation.instructions.values():
            if instruction.opcode == "call":
                found += self.open_loops(instruction.calls("to_apply"))
            elif instruction.opcode == "while":
                open_ended = trip_count(instruction, computation, self.computations) is None
                found += [instruction] if open_ended else []
        return found

    def products(self, instruction: Instruction, computation: Computation) -> float:
        """Operations of the matrix products that an instruction is, or that a fusion holds."""
        if instruction.opcode != "fusion":
            return product_flops(instruction, computation)
        inner = self.computations[instruction.calls()]
        return sum(self.products(part, inner) for part in inner.instructions.values())

    def moved(self, instruction: Instruction, computation: Computation, inside: Inside) -> float:
        """HBM bytes that one instruction reads and writes."""
        opcode = instruction.opcode
        if opcode in _FREE or opcode.endswith(("-done", "-update")):
            return 0
        if opcode == "custom-call" and "tpu_custom_call" not in instruction.attributes:
            return 0  # buffers and bookkeeping; kernels have the name
        if opcode == "custom-call" and (estimate := estimated_bytes(instruction.attributes)):
            return estimate  # a kernel may read less than all of its operands, or some twice
        shapes = [computation.instructions[name].shape for name in instruction.operands]
        if opcode == "custom-call" and OWN_KERNEL in instruction.attributes:
            return cached_bytes(shapes, inside.own) + size(instruction.shape)
        if opcode == "custom-call" and PREFIX_KERNEL in instruction.attributes:
            return cached_bytes(shapes, inside.begun) + size(instruction.shape)
        if opcode.removesuffix("-start") in SLICING:
            # A started one's tuple holds its operands before the slice.
            found = leaves(instruction.shape)
            part, in_hbm = found[len(shapes) if opcode.endswith("-start") else 0]
            return part * (bool(hbm_size(shapes[0])) + in_hbm)
        if opcode.endswith("-start"):
            return sum(number for number, inside in leaves(instruction.shape)[:2] if inside)
        if opcode in IN_PLACE:
            update = shapes[-1 if opcode == "scatter" else 1]
            return size(update) * bool(hbm_size(shapes[0])) + hbm_size(update)
        if opcode == "fusion":
            inner = self.computations[instruction.calls()]
            read = sum(
                min(hbm_size(shape), bytes_read(self.computations, inner, parameter))
                for shape, parameter in zip(shapes, inner.parameters, strict=False)
            )
            written = bytes_written(self.computations, inner)
            return read + min(hbm_size(instruction.shape), written)
        return sum(map(hbm_size, shapes)) + hbm_size(instruction.shape)

    def collect(self, instruction: Instruction, times: float, seen: set[tuple]) -> None:
        """Counts the collective that an instruction is, or that a fusion holds.

        One that runs beside other work stands in several fusions, under one channel: it counts
        where it is seen first.
        """
        if instruction.opcode != "fusion":
            self.add(instruction, times, False)
            return
        inner = self.computations[instruction.calls()]
        for part in inner.instructions.values():
            if part.opcode == "fusion":
                self.collect(part, times, seen)
                continue
            channel = re.search(r"channel_id=(\d+)", part.attributes)
            mark = (kind_of(part), channel and channel[1])
            if channel is None or mark not in seen:
                seen.add(mark)
                self.add(part, times, "all-reduce-scatter" in inner.name)

    def add(self, part: Instruction, times: float, scatter: bool) -> None:
        """Adds one instruction, if it is a collective.

        scatter: whether it stands in a fusion that keeps one part of an all-reduce's result, which
            is how the TPU compiler writes a reduce-scatter.
        """
        kind = kind_of(part)
        if not kind:
            return
        kind = "reduce-scatter" if scatter and kind == "all-reduce" else kind
        count, moved = self.collectives.get(kind, (0.0, 0.0))
        sent = sent_bytes(part, kind, self.chips)
        self.collectives[kind] = (count + times, moved + times * sent)


def cached_bytes(shapes: Sequence[str], filled: float) -> float:
    """Bytes that the kernel over a cache reads.

    Args:
        shapes: of its operands: layer, row, last, query [B, K, blocks, rows, hd], keys and values
            [layers, Q, K, M, hd], their factors [layers, Q, K, M] if there are any, what came
            before, as query. Each block of queries reads one row of a layer, and factors are read
            for all heads at once.
        filled: share of the row's positions.
    """
    query, keys = (list(map(int, dims(shapes[i]))) for i in (3, 4))
    layers, rows, kv_heads = keys[:3]
    factors = [shape for shape in shapes[6:] if len(dims(shape)) == len(keys) - 1]
    before = [shape for shape in shapes[6:] if shape not in factors]
    stored = sum(map(size, shapes[4:6])) + sum(map(size, factors)) * kv_heads
    read = query[0] * query[2] * stored / layers / rows * filled
    return read + size(shapes[3]) + sum(map(size, before))


def dims(shape: str) -> list[str]:
    """The sizes of an array's axes, such as ["4", "8"] of bf16[4,8]{1,0}."""
    return shape[shape.index("[") + 1 : shape.index("]")].split(",")


def estimated_bytes(attributes: str) -> int:
    """Bytes that a kernel moves by its own cost_estimate; 0 where it has none."""
    estimate = re.search(r'"cost_estimate":\s*\{([^}]*)\}', attributes)
    number = re.search(r'"bytes_accessed":\s*"?(\d+)', estimate[1]) if estimate else None
    return int(number[1]) if number else 0


def kind_of(part: Instruction) -> str:
    """Which of COLLECTIVES an instruction is, or starts; "" if none."""
    kind = part.opcode.removesuffix("-start")
    return kind if kind in COLLECTIVES else ""


def sent_bytes(part: Instruction, kind: str, chips: int) -> float:
    """Bytes that a chip sends in one collective: the least that a ring of its group needs."""
    shapes = [number for number, _ in leaves(part.shape) if number]
    # A started one's tuple holds operand and result; the larger of them is the whole array.
    whole = max(shapes, default=0) if part.opcode.endswith("-start") else sum(shapes)
    group = group_size(part.attributes, chips)
    share = (group - 1) / group
    if kind == "reduce-scatter" and part.opcode.startswith("reduce-scatter"):
        return whole * (group - 1)  # its result is one part
    if kind == "all-reduce":
        return 2 * whole * share
    if kind.startswith("collective"):
        return whole
    return whole * share


def group_size(attributes: str, chips: int) -> int:
    """Chips that take part in one collective, from its replica_groups in any of three forms."""
    match = re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes)
    if match:
        return int(match[2])
    match = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes)
    if match:
        sides = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
        return math.prod(int(sides[axis]) for axis in re.findall(r"'([^']+)'", match[2]))
    match = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    return len(match[1].split(",")) if match else chips
