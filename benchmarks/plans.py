"""What the published sizes need on four kinds of TPU slices, compiled on a machine without TPUs.

    python -m benchmarks.plans --json benchmarks/results/plan.json
    python -m benchmarks.plans --json FILE --only 'v5e.py:7b,topo;v4' --programs ga_grpo,sft

Plans every config of CONFIGS, one program after the other (a minute or two each on one core), and
prints README's table. The file is written anew after each program; with --only (configs whose name
holds one of these texts) or --programs, what is not asked for stays in it as it is. Nothing is run:
times are the least that the chips' peak rates allow.
"""

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

SLICES = {"v5e": "16x16", "v6e": "8x8", "v5p": "2x4x4", "v4": "4x4x4"}
PROGRAMS = ("encode", "rollout", "ga_grpo", "sft")
_RATES = {"encode": "frames", "rollout": "rollouts", "ga_grpo": "rollouts", "sft": "episodes"}


def configs() -> list[str]:
    """FILE:ARGUMENT of every config that is planned: adapters first, then whole weights."""
    return [
        f"{kind}.py:{size}{how},topology={shape}"
        for how in ("", ",full")
        for size in ("3b", "7b")
        for kind, shape in SLICES.items()
    ]


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
        if not any(text in spec for text in args.only.split(";")):
            continue
        for name in args.programs.split(","):
            print(f"{spec}: {name}", file=sys.stderr, flush=True)
            add(result["plans"], spec, plan_one(str(folder / spec), spec, name))
            write_text(path, json.dumps(result, indent=1) + "\n")
    print(table(result["plans"]))


def plan_one(path: str, spec: str, name: str) -> dict:
    """The plan of one program of a config; where the compiler gives up, {"failed": why}."""
    config = load_config(path, [])
    try:
        mesh = plan_mesh(config)
        check(config, mesh)
        return to_dict(spec, config, mesh, plan(config, mesh, [name]))
    except (jax.errors.JaxRuntimeError, UserError) as error:
        return {"programs": {name: {"fits": False, "failed": one_line(error)[:300]}}}


def add(plans: dict, spec: str, found: dict) -> None:
    """Puts a plan of some programs of a config beside those of its other programs."""
    known = plans.setdefault(spec, {"programs": {}})
    programs = known["programs"] | found["programs"]
    known |= found | {"programs": {name: programs[name] for name in PROGRAMS if name in programs}}
    known["fits"] = all(program["fits"] for program in programs.values())


def table(plans: dict) -> str:
    """README's table, in Markdown: a row for each config, a cell for each program."""
    lines = [
        "| config | GiB a chip | " + " | ".join(f"{n}, {_RATES[n]}" for n in PROGRAMS) + " |",
        "|---" * (2 + len(PROGRAMS)) + "|",
    ]
    for spec in filter(plans.__contains__, configs()):
        cells = [_cell(plans[spec]["programs"].get(name), _RATES[name]) for name in PROGRAMS]
        room = plans[spec].get("hbm_bytes")
        room = f"{room / GIB:.1f}" if room else ""
        lines.append(f"| `{spec}` | {room} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(program: dict | None, unit: str) -> str:
    """GiB a chip, units a second at most, and what binds; or why there are none."""
    if program is None:
        return ""
    if "failed" in program:
        return f"not compiled: {program['failed'][:80]}"
    memory = f"{program['total_bytes'] / GIB:.1f} GiB"
    if not program["fits"]:
        largest = program["largest_buffers"][0]
        size = f"{largest['size'] / GIB:.1f} GiB"
        return f"{memory}, does not fit: {largest['name']} {largest['shape']}, {size}"
    rate = _number(program["rates_per_second"][unit])
    return f"{memory}<br>{rate}/s, {program['roofline']['binds']}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    run_main(main)
