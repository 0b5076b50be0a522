"""What a config needs on its hardware, without that hardware.

    python -m medscope_jax.plan --config tpu_configs/v5e.py:topology=4x4 --json plan.json

Compiles this model's real programs for the config's TPU slice on any Linux machine, and prints
bytes a chip by kind against the chip's memory. The exit status is 1 where a program does not fit.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from medscope_jax.config import load_config, parse_arguments
from medscope_jax.distributed import (
    GIB,
    Report,
    check_device,
    compile_for,
    make_mesh,
    topology_devices,
)
from medscope_jax.errors import UserError, run_main
from medscope_jax.training.imported import with_checkpoint_shapes
from medscope_jax.training.programs import programs

MIB = 2**20


def main(argv: list[str]) -> int:
    """Plans a command line's config; returns the exit status: 1 where something does not fit."""
    flags = {
        "--config": {"required": True, "metavar": "FILE[:ARG]", "help": "tpu_configs/v5e.py"},
        "--json": {"metavar": "FILE", "help": "write the plan there too"},
    }
    args = parse_arguments("Compile a config's programs for its TPU slice.", argv, flags)
    config = with_checkpoint_shapes(load_config(args.config, args.overrides))
    mesh = plan_mesh(config)
    reports = plan(config, mesh)
    result = to_dict(args.config, config, mesh, reports)
    print_plan(result, Console())
    if args.json:
        path = Path(args.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n")
    for name, report in reports.items():
        if not report.fits:
            print(f"{name} does not fit: {report.message}", file=sys.stderr)
    return 0 if result["fits"] else 1


def plan_mesh(config: ConfigDict) -> Mesh:
    """The config's mesh over its TPU slice, there or not; over this machine's devices without one.

    Raises:
      UserError: no such slice, no libtpu, an impossible mesh, or a config without a slice whose
        devices are not here.
    """
    device, kv_heads = config.device, config.model.text.num_key_value_heads
    if device.topology:
        jax.config.update("jax_platforms", "cpu")  # real chips, if any, have nothing to do with it
        return make_mesh(config.mesh, topology_devices(device.topology), kv_heads=kv_heads)
    try:
        devices = check_device(device)
    except UserError as error:
        raise UserError(
            f"plan compiles for TPU slices, and this config names none; its {device.platform} "
            "devices are not here either: try --config tpu_configs/v5e.py, v6e.py, v5p.py or v4.py"
        ) from error
    return make_mesh(config.mesh, devices, kv_heads=kv_heads)


def plan(config: ConfigDict, mesh: Mesh) -> dict[str, Report]:
    """Compiles every program of `programs`; shows its progress on a terminal's stderr."""
    reports = {}
    jobs = programs(config, mesh)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("compiling", total=len(jobs))
        for name, program in jobs.items():
            progress.update(task, description=f"compiling {name}")
            reports[name] = compile_for(program.function, program.arguments, donate=program.donate)
            progress.advance(task)
    return reports


def to_dict(spec: str, config: ConfigDict, mesh: Mesh, reports: Mapping[str, Report]) -> dict:
    """The plan as plain values for JSON; all sizes in bytes a chip."""
    first = next(iter(reports.values()))
    return {
        "config": spec,
        "topology": config.device.topology,
        "device_kind": first.device_kind,
        "chips": first.chips,
        "mesh": dict(mesh.shape),
        "hbm_bytes": first.hbm_bytes,
        "fits": all(report.fits for report in reports.values()),
        "programs": {name: dataclasses.asdict(report) for name, report in reports.items()},
    }


def print_plan(result: dict, console: Console) -> None:
    """Prints one column a program and one line a kind of memory."""
    axes = ", ".join(f"{name}={size}" for name, size in result["mesh"].items())
    limit = result["hbm_bytes"]
    offer = f"; {limit / GIB:.2f} GiB usable a chip" if limit else ""
    where = result["topology"] or result["device_kind"]
    chips = "1 chip" if result["chips"] == 1 else f"{result['chips']} chips"
    table = Table(title=f"{where}: {chips}, mesh {axes}{offer}")
    table.add_column("MiB a chip")
    reports = result["programs"]
    for name in reports:
        table.add_column(name, justify="right")
    kinds = list(dict.fromkeys(k for r in reports.values() for k in r["arguments_bytes"]))
    for kind in kinds:
        sizes = [r["arguments_bytes"].get(kind) for r in reports.values()]
        if max(size or 0 for size in sizes) >= 0.05 * MIB:  # the table leaves crumbs out
            table.add_row(kind, *map(_mib, sizes))
    for label, field in (
        ("outputs", "outputs_bytes"),
        ("  in donated memory", "aliased_bytes"),
        ("temporaries", "temporaries_bytes"),
        ("total", "total_bytes"),
    ):
        table.add_row(label, *(_mib(r[field]) for r in reports.values()))
    table.add_section()
    if limit:
        shares = (f"{100 * r['total_bytes'] / limit:.1f} %" for r in reports.values())
        table.add_row("total of what is usable", *shares)
    table.add_row("fits", *("yes" if r["fits"] else "NO" for r in reports.values()))
    for kind in sorted({k for r in reports.values() for k in r["collectives"]}):
        table.add_row(kind, *(str(r["collectives"].get(kind, "")) for r in reports.values()))
    table.add_row("compiled in, s", *(f"{r['compile_seconds']:.1f}" for r in reports.values()))
    console.print(table)


def _mib(size: int | None) -> str:
    return "" if size is None else f"{size / MIB:,.1f}"


if __name__ == "__main__":
    run_main(main)
