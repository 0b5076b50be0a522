"""Do the invariants hold on these devices? A few minutes before a run of days.

    python -m medscope_jax.check
    python -m medscope_jax.check --config tpu_configs/v5e.py:7b,topology=16x16

With a small model, drawn at random: a bank's tokens are those of frames encoded one by one; what is
sampled is scored alike in training; a mesh computes what one device does; the kernels compute what
dense attention does; a stage that is killed and started again ends with the same bits. A line each,
with the figure and its bound. With --config, on that config's devices and mesh, else on a mesh of
all devices. The exit status is 1 where one does not hold.

Of several processes each starts the same command, as train does (--distributed on a TPU pod); a
stage is resumed where they share a folder, --scratch.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh

from medscope_jax.config import load_config, parse_arguments
from medscope_jax.distributed import make_mesh
from medscope_jax.distributed.multihost import is_first, join_processes, leaving_at_once
from medscope_jax.errors import run_main
from medscope_jax.invariants import CHECKS, Found, Rolled, make_tiny
from medscope_jax.paths import to_path
from medscope_jax.training.run import run_mesh


def main(argv: Sequence[str]) -> int:
    """Runs all checks; the exit status: 1 where one fails."""
    flags = {
        "--config": {"metavar": "FILE[:ARG]", "help": "whose devices and mesh; else all devices"},
        "--scratch": {"metavar": "DIR", "help": "that all hosts see; else a temporary folder"},
        "--distributed": {"action": "store_true", "help": "one of a cluster's processes"},
    }
    args = parse_arguments(__doc__, argv, flags)
    with leaving_at_once():
        join_processes(args.distributed)
        config = load_config(args.config, args.overrides) if args.config else None
        scratch = to_path(args.scratch, "--scratch") if args.scratch else None
        return check_devices(run_mesh(config) if config else whole_mesh(), scratch)


def check_devices(mesh: Mesh, scratch: Path | None = None) -> int:
    """Runs all checks on a mesh, prints a line each; the exit status."""
    tell(f"{mesh.size} x {mesh.devices.flat[0].device_kind}, mesh {dict(mesh.shape)}")
    rolled, failed = Rolled(make_tiny(mesh), scratch), 0
    for name, (look, remedy) in CHECKS.items():
        found = look(rolled)
        if not isinstance(found, Found):
            tell(f"-       {name}: {found.why}")
        elif found.figure <= found.bound:
            tell(f"ok      {name}: {found.what} {found.figure:.1e}, at most {found.bound:.0e}")
        else:  # also where the figure is no number
            failed += 1
            tell(f"FAILED  {name}: {found.what} {found.figure:.1e}, at most {found.bound:.0e}")
            tell(f"        {remedy}")
    return 1 if failed else 0


def whole_mesh() -> Mesh:
    """All devices, over as many axes as they allow: fsdp, tensor, context, and the rest fsdp."""
    rest, sizes = len(jax.devices()), {"fsdp": 1, "tensor": 1, "context": 1}
    for axis in sizes:
        if rest % 2 == 0:
            sizes[axis], rest = 2, rest // 2
    sizes["fsdp"] *= rest
    return make_mesh(sizes)


def tell(line: str) -> None:
    """Prints a line, once for all processes."""
    if is_first():
        print(line, flush=True)


if __name__ == "__main__":
    run_main(main)
