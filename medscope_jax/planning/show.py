"""A plan as tables: one column a program."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medscope_jax.distributed import GIB
from medscope_jax.planning.chips import SIDES

MIB = 2**20


def print_plan(plan: dict, console: Console) -> None:
    """Prints a plan of cost.to_dict: memory, then work and time, then what does not fit."""
    axes = ", ".join(f"{name}={size}" for name, size in plan["mesh"].items())
    limit = plan["hbm_bytes"]
    offer = f"; {limit / GIB:.2f} GiB usable a chip" if limit else ""
    where = plan["topology"] or plan["device_kind"]
    chips = "1 chip" if plan["chips"] == 1 else f"{plan['chips']} chips"
    title = f"{where}: {chips}, mesh {axes}{offer}"
    if plan["slices"] > 1:
        title = f"{plan['slices']} x {title}"
    table = Table(title=title)
    table.add_column("MiB a chip")
    for name in plan["programs"]:
        table.add_column(name, justify="right")
    _add_memory(table, list(plan["programs"].values()), limit)
    if not plan["estimated"]:
        table.add_section()
        _add_work(table, list(plan["programs"].values()), plan["chips"])
    console.print(table)
    if plan["estimated"]:
        console.print(
            f"No {plan['device_kind']} is here. Arguments and outputs are what a run holds; "
            "temporaries are an estimate: the same program's on a TPU, whose kernel of attention "
            "takes the place of cuDNN's. Nothing is said of time."
        )
        return
    assumed = plan["assumed"]
    console.print(
        "Times are those of chips at their peak rates (planning/chips.py), all links busy: no run "
        "is faster, and nothing here is a measured speed. Phases of a rollout come one after the "
        "other; within one, the slowest side counts. A rollout is taken to call tools "
        f"{assumed['looks_per_rollout']} times and to write {assumed['tokens_per_rollout']} "
        "tokens in the mean, and the time is that of the devices whose rollouts take longest; "
        "episodes fill all of their positions. Ideal, of a rollout: prompts read once a question, "
        "weights and filled positions once a step (planning/ideal.py); else the arithmetic asked."
    )
    for name, program in plan["programs"].items():
        if not program["fits"]:
            _print_buffers(name, program["largest_buffers"], console)


def _add_memory(table: Table, programs: list[dict], limit: int | None) -> None:
    kinds = list(dict.fromkeys(k for p in programs for k in p["arguments_bytes"]))
    for kind in kinds:
        sizes = [p["arguments_bytes"].get(kind) for p in programs]
        if max(size or 0 for size in sizes) >= 0.05 * MIB:  # the table leaves crumbs out
            table.add_row(kind, *map(_mib, sizes))
    for label, field in (
        ("outputs", "outputs_bytes"),
        ("  in donated memory", "aliased_bytes"),
        ("temporaries", "temporaries_bytes"),
        ("code", "code_bytes"),
        ("total", "total_bytes"),
    ):
        table.add_row(label, *(_mib(p[field]) for p in programs))
    table.add_section()
    if limit:
        shares = (f"{100 * p['total_bytes'] / limit:.1f} %" for p in programs)
        table.add_row("total of what is usable", *shares)
    table.add_row("fits", *("yes" if p["fits"] else "NO" for p in programs))


def _add_work(table: Table, programs: list[dict], chips: int) -> None:
    table.add_row("TFLOP, all chips", *(_number(p["flops"] / 1e12) for p in programs))
    table.add_row("TFLOP, a chip", *(_number(p["flops_per_chip"] / 1e12) for p in programs))
    shares = (
        p["flops"] / chips / p["flops_per_chip"] if p["flops_per_chip"] else 1 for p in programs
    )
    table.add_row("  its even share of all", *(f"{100 * share:.0f} %" for share in shares))
    table.add_row("GB to and from HBM, a chip", *(_giga(p["hbm_bytes_moved"]) for p in programs))
    for kind in sorted({k for p in programs for k in p["collectives"]}):
        found = [p["collectives"].get(kind) for p in programs]
        cells = (f"{_number(m['count'])}: {_giga(m['bytes'])}" if m else "" for m in found)
        table.add_row(f"{kind}: GB sent", *cells)
    if any(p["dcn_bytes_sent"] for p in programs):
        table.add_row("to other slices: GB sent", *(_giga(p["dcn_bytes_sent"]) for p in programs))
    lines = [p["roofline"] for p in programs]
    if all(lines):
        for side in SIDES:
            table.add_row(f"{side}, s", *(_number(line[side]) for line in lines))
        for phase in dict.fromkeys(phase for p in programs for phase in p["phases"]):
            parts = [p["phases"].get(phase) for p in programs]
            cells = ("" if part is None else _number(part["seconds"]) for part in parts)
            table.add_row(f"  {phase}, s", *cells)
        table.add_row("least time, s", *(_number(line["seconds"]) for line in lines))
        ideals = [p["ideal_seconds"] for p in programs]
        table.add_row("ideal, s", *map(_number, ideals))
        reached = (i / line["seconds"] for i, line in zip(ideals, lines, strict=True))
        table.add_row("  share of it reached", *(f"{100 * share:.0f} %" for share in reached))
        table.add_row("what binds", *(line["binds"] for line in lines))
        for unit in dict.fromkeys(u for p in programs for u in p["rates_per_second"]):
            rates = (p["rates_per_second"].get(unit) for p in programs)
            table.add_row(f"{unit} a second", *("" if r is None else _number(r) for r in rates))
    table.add_row("compiled in, s", *(f"{p['compile_seconds']:.1f}" for p in programs))


def _print_buffers(name: str, buffers: list[dict], console: Console) -> None:
    if not buffers:
        return
    table = Table(title=f"{name}: the largest buffers of a chip")
    for column in ("MiB", "shape", "what"):
        table.add_column(column, justify="right" if column == "MiB" else "left")
    for buffer in buffers:
        table.add_row(_mib(buffer["size"]), escape(buffer["shape"]), escape(buffer["name"]))
    console.print(table)


def _mib(size: int | None) -> str:
    return "" if size is None else f"{size / MIB:,.1f}"


def _giga(size: float) -> str:
    return _number(size / 1e9)


def _number(value: float) -> str:
    """Three digits that mean something, and all digits of a larger number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
