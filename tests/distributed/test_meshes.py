"""Invariant: any mesh, same numbers. Steps and trajectories equal one device's.

Float32; only the order of sums differs. The largest differences that were seen on eight devices are
given in SEEN; TOLERANCE is what is asked for. Tokens, frames, roles and calls are equal exactly.
"""

import functools

import jax
import numpy as np
import pytest

from medscope_jax.distributed import AXES, make_mesh
from tests.distributed import mesh_cases

TOLERANCE = {"sft": 2e-5, "ga_grpo": 2e-5, "greedy": 1e-5, "sampled": 1e-5}
MESHES = {
    "data": {"data": 8},
    "fsdp": {"fsdp": 8},
    "data-tensor": {"data": 4, "tensor": 2},
    "mixed": {"data": 2, "fsdp": 2, "tensor": 2},
}
if "context" in AXES:
    MESHES["context"] = {"data": 2, "fsdp": 2, "context": 2}
    MESHES["all"] = {"fsdp": 2, "tensor": 2, "context": 2}
SLOW = [pytest.mark.slow, pytest.mark.invariant]
# By default rollouts whose weights are split; steps on a mixed mesh are in tests/training.
CASES = [
    pytest.param(mesh, kind, marks=() if (mesh, kind) == ("fsdp", "sampled") else SLOW)
    for mesh in MESHES
    for kind in mesh_cases.KINDS
    # Rollouts with heads split over devices: tests/rollout.
    if "tensor" not in MESHES[mesh] or kind in ("sft", "ga_grpo")
]


@functools.cache
def wanted(kind):
    return mesh_cases.KINDS[kind](mesh_cases.one_device())


@pytest.mark.parametrize("mesh, kind", CASES)
def test_any_mesh_gives_the_same_numbers(mesh, kind):
    found = mesh_cases.KINDS[kind](make_mesh(MESHES[mesh], jax.devices()[:8]))
    seen = mesh_cases.largest_difference(kind, found, wanted(kind))
    print(f"{mesh} {kind}: {seen:.1e}")
    assert seen <= TOLERANCE[kind]
    if "role" in found:  # the rollouts really look, and differ from each other
        assert (found["status"] >= -1).all()
        assert len({row.tobytes() for row in found["tokens"]}) >= 4
    else:
        moved = [np.abs(a - b).max() for a, b in zip(_params(found), _start(), strict=True)]
        assert max(moved) > 1e-3


def _params(found):
    return [found[f"params{i}"] for i in range(sum(n.startswith("params") for n in found))]


def _start():
    return jax.tree.leaves(mesh_cases.cases.params())
