"""How what tests run is compiled: XLA_FLAGS of their process, and of the programs that it starts.

Tests compile much and compute little: LLVM's optimizations would take longer than they save, and so
would the newer way to compile fusions. Set XLA_FLAGS to test the code as users run it; .ci/run
does, for comparisons with references.
"""

import importlib.metadata
import os
import re

# Later ones know no other way to compile fusions; a flag that they do not know ends the process.
_HAS_BOTH = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11)
_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
_QUICKER = "--xla_cpu_use_fusion_emitters=false" if _HAS_BOTH else ""
# compiler_options of a program that compiles faster the newer way.
NEWER_FUSIONS = {"xla_cpu_use_fusion_emitters": True} if _HAS_BOTH else {}
_OWN = os.environ.setdefault("XLA_FLAGS", _FLAGS)
if _OWN == _FLAGS:
    # Read once, then taken away: libtpu, which reads the variable too, ends a process that gives it
    # a flag of the CPU's compiler.
    _OWN = os.environ["XLA_FLAGS"] = f"{_FLAGS} {_QUICKER}".strip()
    import jax

    jax.devices()
    os.environ["XLA_FLAGS"] = _FLAGS


def flags_for(devices: int) -> str:
    """XLA_FLAGS with which a program has so many devices and computes as this process does.

    Not for one that compiles for TPUs.
    """
    return re.sub(r"(device_count)=\d+", rf"\1={devices}", _OWN)
