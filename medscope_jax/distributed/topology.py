"""Compiling programs for TPUs that are not there, and what the compiled program needs.

`libtpu` holds the TPU compiler, and JAX can hand it a topology by name instead of real chips. What
comes out is the very executable that a real slice would run, so its bytes a chip are exact.
"""

import dataclasses
import importlib.util
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from jax.extend.core import ClosedJaxpr

from medscope_jax.distributed.mesh import set_up_tpu_runtime, tpu_generation
from medscope_jax.errors import UserError, one_line

GIB = 2**30

# Bytes of HBM that a program may use, as the compiler itself states them when it runs out
# (libtpu 0.0.52): less than the chip has, since the runtime keeps some.
USABLE_HBM_BYTES = {
    "v4": int(30.75 * GIB),
    "v5e": int(15.75 * GIB),
    "v5p": int(95.73 * GIB),
    "v6e": int(31.24 * GIB),
}

# Bytes of a GPU's memory that a program may use: of what its data sheet says, the three quarters
# that JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says more. Of A100 the smaller kind.
_GPU_GIGABYTES = {"H200": 141, "H100": 80, "A100": 40, "L4": 24, "T4": 16}
USABLE_GPU_BYTES = {kind: int(0.75 * size * 10**9) for kind, size in _GPU_GIGABYTES.items()}

# A line of the compiler's map of memory; without a color, or with color 0, it is in HBM.
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+),(?: color (\d+),)? page \d+,?(.*)$", re.M)


@dataclasses.dataclass(frozen=True)
class Report:
    """What one compiled program needs on each chip. All sizes in bytes a chip."""

    chips: int
    device_kind: str
    arguments_bytes: dict[str, int]  # by argument, from its sharding
    outputs_bytes: int  # of which aliased_bytes reuse a donated argument's memory
    aliased_bytes: int
    temporaries_bytes: int
    code_bytes: int
    total_bytes: int  # arguments + outputs - aliased + temporaries + code
    hbm_bytes: int | None  # what the chip offers; None where the kind is not in the table
    estimated: bool  # whether it was compiled for what stands in for a device of that kind
    fits: bool
    compile_seconds: float
    message: str  # why it does not fit; "" if it does
    # What it was made of and what came out, for whoever reads more in them: the trace, and one
    # chip's part after optimization with the map of its memory, as the compiler writes them. The
    # TPU compiler writes these also where it refuses a program for its size; "" where it does not.
    trace: ClosedJaxpr = dataclasses.field(repr=False)
    text: str = dataclasses.field(repr=False)
    assignment: str = dataclasses.field(repr=False)


def topology_devices(topology: str, slices: int = 1) -> list[jax.Device]:
    """The (absent) devices of a TPU slice such as "v5e:4x4", "v6e:2x4", "v5p:2x2x2".

    One device a chip. They can be laid out as a mesh and compiled for, but hold no arrays.

    slices: how many such slices, one behind the other.

    Raises:
      UserError: libtpu is missing, or no such slice.
    """
    generation, _, shape = topology.partition(":")
    if generation not in USABLE_HBM_BYTES or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise UserError(
            f"topology {topology!r} is not GENERATION:SHAPE such as v5e:4x4 or v5p:2x2x1; "
            f"generations are {', '.join(USABLE_HBM_BYTES)}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "compiling for a TPU topology needs libtpu (Linux on x86-64): pip install libtpu"
        )
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # no metadata server to ask for a slice
    set_up_tpu_runtime()
    # A v4 chip is two cores; as one device ("megacore") it is what a v4 slice runs by default.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if generation == "v4" else {}
    if slices > 1:
        options["num_slices"] = slices
    try:
        description = topologies.get_topology_desc(topology, "tpu", **options)
        return list(description.devices)
    except Exception as error:
        raise UserError(
            f"no TPU slice {topology!r}: {one_line(error)[:200]}; try v5e:2x2, v6e:2x4 or v5p:2x2x1"
        ) from error


def compile_for(
    function: Callable,
    arguments: Mapping[str, Any],
    static: Mapping[str, Any] | None = None,
    stands_for: str = "",
) -> Report:
    """Compiles `function(*arguments.values(), **static)` for the devices of its arguments.

    Args:
      function: jitted, or else traceable: then nothing is donated and all results lie where the
        compiler likes.
      arguments: name -> tree of jax.ShapeDtypeStruct, each with a NamedSharding on one mesh, which
        may be a mesh of `topology_devices`. In the order of the function's parameters.
      static: static arguments of a jitted function, by its own names.
      stands_for: a kind of GPU in USABLE_GPU_BYTES, which is not here, and whose place the devices
        take. Bytes of arguments and outputs are then exact, temporaries those of their program.

    Returns:
      A Report. A program too large for the chip's memory gives `fits=False`, not an exception.
    """
    leaves = [leaf for leaf in jax.tree.leaves(dict(arguments)) if leaf.sharding is not None]
    mesh = leaves[0].sharding.mesh
    kind = mesh.devices.flat[0].device_kind
    jitted: Any = function if hasattr(function, "lower") else jax.jit(function)
    report: dict[str, Any] = {
        "chips": mesh.size,
        "device_kind": stands_for or tpu_generation(kind) or kind,
        "estimated": bool(stands_for),
        "arguments_bytes": {name: bytes_per_chip(tree) for name, tree in arguments.items()},
        "hbm_bytes": usable_bytes(stands_for or tpu_generation(kind)),
    }
    start = time.perf_counter()
    with jax.set_mesh(mesh):
        traced = jitted.trace(*arguments.values(), **(static or {}))
        lowered = traced.lower()
    compiled, refusal, text, assignment = _compile(lowered, is_tpu=bool(tpu_generation(kind)))
    report |= {
        "compile_seconds": time.perf_counter() - start,
        "trace": traced.jaxpr,
        "text": text,
        "assignment": assignment,
    }
    if refusal is not None:
        return _too_large(refusal, report)
    memory = compiled.memory_analysis()
    # An argument that the program does not use is no part of it, but stays on the chip.
    total = (
        max(memory.argument_size_in_bytes, sum(report["arguments_bytes"].values()))
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    limit = report["hbm_bytes"]
    fits = limit is None or total <= limit
    return Report(
        **report,
        outputs_bytes=memory.output_size_in_bytes,
        aliased_bytes=memory.alias_size_in_bytes,
        temporaries_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        total_bytes=total,
        fits=fits,
        message="" if fits else f"needs {total / GIB:.2f} of {limit / GIB:.2f} GiB a chip",
    )


def _compile(lowered, is_tpu: bool) -> tuple[Any, Exception | None, str, str]:
    """(compiled, None) or (None, why it is too large); the program's text, its memory's map.

    A TPU program's text is dumped by the compiler itself: jaxlib's parser is not always up to the
    instructions that a newer libtpu emits ("async-update instruction should have 1 operands"), and
    a program that is refused has no text otherwise.
    """
    if not is_tpu:
        compiled = lowered.compile()
        return compiled, None, compiled.as_text(), ""
    compiled = refusal = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            compiled = lowered.compile(compiler_options={"xla_dump_to": folder})
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            refusal = error

        def dumped(*endings: str) -> str:
            files = [file for ending in endings for file in sorted(Path(folder).glob(ending))]
            return files[0].read_text() if files else ""

        text = dumped("*after_codegen.txt", "*oom_intermediate_module.txt")
        assignment = dumped("*buffer-assignment.txt")
    return compiled, refusal, text or (compiled.as_text() if compiled else ""), assignment


def usable_bytes(kind: str) -> int | None:
    """Bytes of memory that a program may use of a TPU generation's chip, or of a kind of GPU."""
    return USABLE_HBM_BYTES.get(kind, USABLE_GPU_BYTES.get(kind))


def bytes_per_chip(tree: Any) -> int:
    """Bytes that one chip holds of a tree of ShapeDtypeStructs; without a sharding, all of it."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * leaf.dtype.itemsize
    return total


def _too_large(error: Exception, report: dict) -> Report:
    """The report of a program that the compiler refused for want of memory, from its map of it."""
    sizes = {"outputs": 0, "aliased": 0, "temporaries": 0}
    for size, color, what in _ALLOCATION.findall(report["assignment"]):
        # What is local to a thread is a fusion's inside: no memory of its own.
        if color not in ("", "0") or "thread-local" in what:
            continue
        is_output, is_argument = "maybe-live-out" in what, " parameter " in what
        if is_output:
            sizes["outputs"] += int(size)
            sizes["aliased"] += int(size) * is_argument
        elif not is_argument:
            sizes["temporaries"] += int(size)
    arguments = sum(report["arguments_bytes"].values())
    return Report(
        **report,
        outputs_bytes=sizes["outputs"],
        aliased_bytes=sizes["aliased"],
        temporaries_bytes=sizes["temporaries"],
        code_bytes=0,  # none was made
        total_bytes=arguments + sizes["outputs"] - sizes["aliased"] + sizes["temporaries"],
        fits=False,
        message=one_line(error)[:500],
    )
