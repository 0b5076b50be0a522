"""Invariant: any mesh, same numbers. Steps and trajectories equal one device's.

Float32; only the order of sums differs. The largest differences that were seen on eight devices are
given in SEEN; TOLERANCE is what is asked for. Tokens, frames, roles and calls are equal exactly.
"""

import functools
import re

import jax
import numpy as np
import pytest

from medscope_jax.distributed import AXES, make_mesh
from tests.distributed import mesh_cases

TOLERANCE = {"warm_up": 2e-5, "cold_start": 2e-5, "ga_grpo": 2e-5, "greedy": 1e-5, "sampled": 1e-5}
MESHES = {
    "data": {"data": 8},
    "fsdp": {"fsdp": 8},
    "data-tensor": {"data": 4, "tensor": 2},
    "mixed": {"data": 2, "fsdp": 2, "tensor": 2},
}
if "context" in AXES:
    MESHES["context"] = {"data": 2, "fsdp": 2, "context": 2}
    MESHES["all"] = {"fsdp": 2, "tensor": 2, "context": 2}
SLICES = {"two-slices": 2}  # of 2x4: four chips each
MESHES["two-slices"] = {"data": 2, "fsdp": 2, "context": 2}
SLOW = [pytest.mark.slow, pytest.mark.invariant]
# By default rollouts whose weights are split, frames over context, and slices; more steps are in
# tests/training.
BY_DEFAULT = [("fsdp", "sampled"), ("all", "warm_up"), ("two-slices", "cold_start")]
CASES = [
    pytest.param(mesh, kind, marks=() if (mesh, kind) in BY_DEFAULT else SLOW)
    for mesh in MESHES
    for kind in mesh_cases.KINDS
]


@functools.cache
def wanted(kind):
    return mesh_cases.KINDS[kind](mesh_cases.one_device())


@pytest.mark.parametrize("mesh, kind", CASES)
def test_any_mesh_gives_the_same_numbers(mesh, kind):
    made = make_mesh(MESHES[mesh], jax.devices()[:8], slices=SLICES.get(mesh, 1))
    found = mesh_cases.KINDS[kind](made)
    seen = mesh_cases.largest_difference(kind, found, wanted(kind))
    print(f"{mesh} {kind}: {seen:.1e}")
    assert seen <= TOLERANCE[kind]
    if "role" in found:  # the rollouts really look, and differ from each other
        assert (found["status"] >= -1).all()
        assert len({row.tobytes() for row in found["tokens"]}) >= 4
    else:
        moved = [np.abs(a - b).max() for a, b in zip(_params(found), _start(), strict=True)]
        assert max(moved) > 1e-3


@pytest.mark.slow
@pytest.mark.invariant
def test_no_loop_waits_for_one_at_another_turn():
    """Where rows and heads are split, a loop exchanges nothing but sums within its tensor group."""
    mesh = make_mesh({"data": 2, "tensor": 2}, jax.devices()[:4])
    program, arguments = mesh_cases.rollout_program(mesh, greedy=False)
    text = program.lower(*arguments).compile().as_text()
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    found = re.findall(rf"= (.*? (?:{kinds})\(.*)", text)
    inside = [line for line in found if "while/body" in line]
    assert inside
    for line in inside:
        assert "all-reduce(" in line, line
        assert re.search(r"replica_groups=(\[2,2\]<=\[4\],|\{\{0,1\},\{2,3\}\})", line), line


def _params(found):
    return [found[f"params{i}"] for i in range(sum(n.startswith("params") for n in found))]


def _start():
    return jax.tree.leaves(mesh_cases.cases.params())
