"""What a config needs on its hardware, without that hardware.

    python -m medscope_jax.plan --config tpu_configs/v5e.py:topology=4x4 --json plan.json
    python -m medscope_jax.plan --config tpu_configs/v5p.py:7b,topology=4x4x4

Compiles this model's real programs (bank encoding, rollout, GA-GRPO step, the SFT step of stage 1,
whose vision tower trains, and that of stage 2) for the config's TPU slice on any Linux machine, and
prints bytes a chip by kind against the chip's memory, arithmetic, bytes moved, collectives, and the
least time that the chips' peak rates allow. The exit status is 1 where a program does not fit; its
largest buffers are then listed, and the keys that lower what it needs.

Of a config for GPUs that are not here (tpu_configs/gpu.py) memory alone is planned: arguments and
outputs are counted, temporaries are those of the same program compiled for a TPU, an estimate.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console
from tqdm import tqdm

from medscope_jax.config import config_file, load_config, parse_arguments
from medscope_jax.data.open_suite import open_suite
from medscope_jax.distributed import USABLE_GPU_BYTES, check_device, make_mesh, topology_devices
from medscope_jax.errors import UserError, run_main
from medscope_jax.files import check_outputs, make_folder, write_text
from medscope_jax.models.presets import published_size
from medscope_jax.planning import (
    Cost,
    advice,
    assume,
    cost_of,
    print_plan,
    rollout_least,
    to_dict,
    units_of,
)
from medscope_jax.planning.programs import compile_program, programs
from medscope_jax.training.config_checks import check_config
from medscope_jax.training.origin import with_start_shapes

# TPU slices whose chips stand in for so many GPUs that are not here: a GPU's compiler needs one. A
# chip has more memory than a program may use of any GPU but an H200.
_STAND_INS = {1: "v5p:1x1x1", 2: "v5p:2x1x1", 4: "v5p:2x2x1", 8: "v5p:2x2x2"}


def main(argv: list[str]) -> int:
    """Plans a command line's config; returns the exit status: 1 where something does not fit."""
    flags: dict[str, dict[str, Any]] = {
        "--config": {"required": True, "metavar": "FILE[:ARG]", "help": "tpu_configs/v5e.py"},
        "--json": {"metavar": "FILE", "help": "write the plan there too"},
        "--programs": {"metavar": "NAMES", "help": "only these, such as rollout,ga_grpo"},
    }
    args = parse_arguments("Compile a config's programs for its TPU slice.", argv, flags)
    check_outputs({"--json": args.json}, {"the config": config_file(args.config)})
    config = with_start_shapes(load_config(args.config, args.overrides))
    mesh = plan_mesh(config)
    check(config, mesh)
    costs = plan(config, mesh, args.programs.split(",") if args.programs else None)
    result = to_dict(args.config, config, mesh, costs)
    print_plan(result, Console())
    if args.json:
        make_folder(Path(args.json).parent)
        write_text(args.json, json.dumps(result, indent=2) + "\n")
    for name, cost in costs.items():
        if not cost.report.fits:
            print(f"{name} does not fit: {cost.report.message}", file=sys.stderr)
            print(advice(name, config, mesh, cost.report), file=sys.stderr)
    return 0 if result["fits"] else 1


def plan_mesh(config: ConfigDict) -> Mesh:
    """The config's mesh over its TPU slices, there or not; over this machine's devices without any,
    over TPU chips where those are GPUs that are not here.

    Raises:
      UserError: no such slice, no libtpu, an impossible mesh, or devices that are not here and that
        nothing stands in for.
    """
    device, kv_heads = config.device, config.model.text.num_key_value_heads
    if device.topology:
        jax.config.update("jax_platforms", "cpu")  # real chips, if any, have nothing to do with it
        devices = topology_devices(device.topology, device.slices)
    else:
        devices = _devices_here(device)
    return make_mesh(config.mesh, devices, kv_heads=kv_heads, slices=device.slices)


def _devices_here(device: ConfigDict) -> list[jax.Device]:
    try:
        return check_device(device)
    except UserError as error:
        if device.platform != "gpu" or device.kind not in USABLE_GPU_BYTES:
            raise UserError(
                "plan compiles for TPU slices, and this config names none; its "
                f"{device.platform} devices are not here either: try --config tpu_configs/v5e.py, "
                "v6e.py, v5p.py or v4.py"
            ) from error
    if device.count not in _STAND_INS:
        counts = ", ".join(map(str, _STAND_INS))
        raise UserError(
            f"GPUs that are not here are planned {counts} at a time, not {device.count}: give one "
            "of these as --config.device.count"
        )
    return topology_devices(_STAND_INS[device.count])


def stands_for(config: ConfigDict, mesh: Mesh) -> str:
    """The kind of GPU that the mesh's TPU chips stand in for; "" where they are what they are."""
    is_gpu = mesh.devices.flat[0].platform == "gpu"
    return config.device.kind if config.device.platform == "gpu" and not is_gpu else ""


def check(config: ConfigDict, mesh: Mesh) -> None:
    """Refuses a config that no run can be made of, as training would.

    A published size is planned before its weights and recordings are here. What only they can tell,
    such as whether conversations are short enough, is then not checked, and a line says so.

    Raises:
      UserError: one line that names the key.
    """
    suite = open_suite(config, Path())
    there = config.model.checkpoint and suite.config is None
    known = bool(there) or not published_size(config.model)
    check_config(config, mesh, suite if known else None)
    if not known:
        print(
            "lengths of conversations are estimates: without model.checkpoint and suite.data_dir "
            "neither tokenizer nor recordings are known",
            file=sys.stderr,
        )


def plan(config: ConfigDict, mesh: Mesh, names: list[str] | None = None) -> dict[str, Cost]:
    """Compiles the `programs` of these names (None: all); shows its progress on stderr.

    Raises:
      UserError: a name that there is no program of, or a program with a loop of which is not known
        how often it runs.
    """
    absent = stands_for(config, mesh)
    jobs = _chosen(programs(config, mesh, absent), names)
    units, costs = units_of(config), {}
    with tqdm(total=len(jobs), leave=False, disable=None) as bar:
        for number, (name, program) in enumerate(jobs.items(), 1):
            bar.set_description(f"compiling {name}")
            if bar.disable:  # a log of a notebook or a job: minutes are no silence
                line = f"compiling {name} ({number} of {len(jobs)})"
                print(line, file=sys.stderr, flush=True)
            report = compile_program(program, absent)
            assumed = assume(config, mesh, program)
            try:
                least = rollout_least(config, program, mesh.size)
                costs[name] = cost_of(report, assumed, units.get(name, {}), least)
            except UserError as error:
                raise UserError(f"{name} can't be planned: {error}") from error
            bar.update()
    return costs


def _chosen(jobs: Mapping, names: list[str] | None) -> Mapping:
    if names is None:
        return jobs
    unknown = [name for name in names if name not in jobs]
    if unknown:
        raise UserError(f"no program {unknown[0]!r}; there are {', '.join(jobs)}")
    return {name: jobs[name] for name in names}


if __name__ == "__main__":
    run_main(main)
