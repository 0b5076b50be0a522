"""How often a compiled loop runs, where its text says so."""

import re
from collections.abc import Mapping

from medscope_jax.planning.hlo_text import Computation, Instruction

_PLAIN = ("copy", "bitcast", "convert", "reshape")


def trip_count(
    loop: Instruction, outside: Computation, computations: Mapping[str, Computation]
) -> int | None:
    """Iterations of a while loop that counts up by one to a constant; None where it is another.

    Args:
        loop: the while instruction.
        outside: the computation that it stands in.
        computations: all of the program.
    """
    known = re.search(r'known_trip_count"?:\s*\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    condition = computations[loop.calls("condition")]
    compared = _comparison(condition, computations)
    if compared is None:
        return None
    first, last = (
        _value(condition, side, loop, outside) if isinstance(side, str) else side
        for side in compared
    )
    return None if first is None or last is None or last < first else last - first


def _comparison(
    condition: Computation, computations: Mapping[str, Computation]
) -> tuple[str | int | None, ...] | None:
    """The two values that a condition `a < b` compares; None for another kind.

    Each is a name in the condition, or a number where a fusion within it holds that.
    """
    root = condition.instructions[condition.root]
    while root.opcode in _PLAIN:
        root = condition.instructions[root.operands[0]]
    if root.opcode == "fusion":
        inner = computations[root.calls()]
        found = _comparison(inner, computations)
        places = {name: index for index, name in enumerate(inner.parameters)}
        if found is None:
            return None
        return tuple(
            root.operands[places[name]] if name in places else _value(inner, name, None, inner)
            for name in found
        )
    if root.opcode != "compare" or "direction=LT" not in root.attributes:
        return None
    return root.operands


def _value(
    computation: Computation, name: str, loop: Instruction | None, outside: Computation
) -> int | None:
    """A whole number: a constant, or what the loop's state begins with there."""
    instruction = computation.instructions[name]
    while instruction.opcode in _PLAIN:
        instruction = computation.instructions[instruction.operands[0]]
    if instruction.opcode == "constant":
        return int(instruction.inside) if re.fullmatch(r"-?\d+", instruction.inside) else None
    if instruction.opcode != "get-tuple-element" or loop is None:
        return None
    place = int(re.search(r"index=(\d+)", instruction.attributes)[1])
    start = outside.instructions[loop.operands[0]]
    if start.opcode != "tuple":
        return None
    return _value(outside, start.operands[place], None, outside)
