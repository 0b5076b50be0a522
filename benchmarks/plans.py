"""What the published sizes need on TPU slices and GPUs, compiled on a machine without either.

    python -m benchmarks.plans --json benchmarks/results/plan.json
    python -m benchmarks.plans --json FILE --only 'v5e.py:7b,topo;v4' --programs ga_grpo,sft

Plans every config of configs(), one program after the other (minutes each on one core), and
prints the table of docs/tpus.md. The file is written anew after each program; with --only (configs
whose name holds one of these texts) or --programs, what is not asked for stays in it as it is, with
the day on which it was compiled (none: before days were written). Nothing is run: times are the
least that the chips' peak rates allow, and of a GPU there are none.
"""

import datetime
import importlib.metadata
import json
import sys
from pathlib import Path

import jax

from medscope_jax.config import load_config, parse_arguments
from medscope_jax.distributed import GIB
from medscope_jax.errors import UserError, one_line, run_main
from medscope_jax.files import write_text
from medscope_jax.plan import check, plan, plan_mesh
from medscope_jax.planning import to_dict

# Slices that each size is planned for, by adapters; the last of a kind also with whole weights.
SLICES = {
    "v5e": ("2x4", "4x4", "8x8", "16x16"),
    "v6e": ("2x4", "4x4", "8x8"),
    "v5p": ("2x4x4",),
    "v4": ("4x4x4",),
}
TWO_SLICES = "v5e.py:7b,topology=16x16,slices=2"
GPUS = ("gpu.py:3b", "gpu.py:3b,a100", "gpu.py:7b", "gpu.py:l4", "gpu.py:t4")
# The day of the last change to these configs, or to what their programs need.
SINCE = "2026-11-27"
PROGRAMS = ("encode", "rollout", "ga_grpo", "warm_up", "sft")
_RATES = {
    "encode": "frames",
    "rollout": "rollouts",
    "ga_grpo": "rollouts",
    "warm_up": "episodes",
    "sft": "episodes",
}


def configs() -> list[str]:
    """FILE:ARGUMENT of every config that is planned."""
    sizes = ("3b", "7b")
    adapters = [
        f"{kind}.py:{size},topology={shape}"
        for kind, shapes in SLICES.items()
        for size in sizes
        for shape in shapes
    ]
    whole = [
        f"{kind}.py:{size},full,topology={shapes[-1]}"
        for kind, shapes in SLICES.items()
        for size in sizes
    ]
    return [*adapters, TWO_SLICES, *whole, *GPUS]


def main(argv: list[str]) -> None:
    """Plans what the command line asks for and prints the table of all that FILE then holds."""
    flags = {
        "--json": {"required": True, "metavar": "FILE", "help": "read, and written anew"},
        "--only": {"metavar": "TEXTS", "default": "", "help": "such as v5e.py:7b;v5p"},
        "--programs": {"metavar": "NAMES", "default": ",".join(PROGRAMS), "help": "fewer"},
    }
    args = parse_arguments("Plan the published sizes.", argv, flags)
    path = Path(args.json)
    result = json.loads(path.read_text()) if path.exists() else {"plans": {}}
    result["versions"] = {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    folder = Path(__file__).parent.parent / "tpu_configs"
    for spec in configs():
        if not any(named(text, spec) for text in args.only.split(";")):
            continue
        for name in args.programs.split(","):
            print(f"{spec}: {name}", file=sys.stderr, flush=True)
            found = plan_one(str(folder / spec), spec, name)
            for program in found["programs"].values():
                program["compiled"] = datetime.date.today().isoformat()
            add(result["plans"], spec, found)
            known = result["plans"]
            result["plans"] = {one: known[one] for one in configs() if one in known}
            write_text(path, json.dumps(result, indent=1) + "\n")
    print(table(result["plans"]))


def named(text: str, spec: str) -> bool:
    """Whether a text is a config's name or, where no config has it as a name, a part of it."""
    return text == spec if text in configs() else text in spec


def plan_one(path: str, spec: str, name: str) -> dict:
    """The plan of one program of a config; where the compiler gives up, {"failed": why}."""
    config = load_config(path, [])
    try:
        mesh = plan_mesh(config)
        check(config, mesh)
        names = [name]
        if name == "rollout" and (config.rollout.tensor or config.rollout.weights_dtype):
            names.append("weights")  # on their way to the rollouts
        return to_dict(spec, config, mesh, plan(config, mesh, names))
    except (jax.errors.JaxRuntimeError, UserError) as error:
        return {"programs": {name: {"fits": False, "failed": one_line(error)[:300]}}}


def add(plans: dict, spec: str, found: dict) -> None:
    """Puts a plan of some programs of a config beside those of its other programs."""
    known = plans.setdefault(spec, {"programs": {}})
    programs = known["programs"] | found["programs"]
    order = sorted(programs, key=[*PROGRAMS, *programs].index)
    known |= found | {"programs": {name: programs[name] for name in order}}
    known["fits"] = all(program["fits"] for program in programs.values())


def table(plans: dict) -> str:
    """The table of docs/tpus.md: a row for each config, a cell for each program, in which is noted
    what was compiled before SINCE."""
    lines = [
        "| config | GiB a chip | " + " | ".join(f"{n}, {_RATES[n]}" for n in PROGRAMS) + " |",
        "|---" * (2 + len(PROGRAMS)) + "|",
    ]
    for spec in filter(plans.__contains__, configs()):
        cells = [_cell(plans[spec]["programs"].get(name), _RATES[name]) for name in PROGRAMS]
        room = plans[spec].get("hbm_bytes")
        room = f"{room / GIB:.1f}" if room else ""
        lines.append(f"| `{spec}` | {room} | {' | '.join(cells)} |")
    if any("| (old) " in line for line in lines):
        lines += ["", f"(old): an older program and config, of before {SINCE}."]
    return "\n".join(lines)


def is_old(program: dict) -> bool:
    """Whether a program was compiled before SINCE."""
    return program.get("compiled", "") < SINCE


def _cell(program: dict | None, unit: str) -> str:
    """GiB a chip, units a second at most, and what binds; or why there are none."""
    if program is None:
        return ""
    if is_old(program):
        return f"(old) {_cell(program | {'compiled': SINCE}, unit)}"
    if "failed" in program:
        return f"not compiled: {program['failed'][:80]}"
    memory = f"{program['total_bytes'] / GIB:.1f} GiB"
    if not program["fits"]:
        buffers = (
            f": {largest['name']} {largest['shape']}, {largest['size'] / GIB:.1f} GiB"
            for largest in program["largest_buffers"][:1]
        )
        return f"{memory}, does not fit{''.join(buffers)}"
    if not program["roofline"]:
        return f"{memory} (estimate)"
    rate = _number(program["rates_per_second"][unit])
    return f"{memory}<br>{rate}/s, {program['roofline']['binds']}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    run_main(main)
