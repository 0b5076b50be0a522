"""Bytes that a fusion of a compiled program reads of each operand, and writes of its result.

Of an operand that is only sliced the slices count, and of one updated in place the update, also
behind a bitcast, a copy or a conversion, which may stand in a fusion within the fusion.
"""

from collections.abc import Mapping

from medscope_jax.planning.hlo_text import Computation, size

IN_PLACE = ("dynamic-update-slice", "scatter")
SLICING = ("slice", "dynamic-slice", "gather")
_ALIASES = ("bitcast", "reshape", "copy", "convert")  # what a slice may be looked for behind

Computations = Mapping[str, Computation]


def bytes_read(computations: Computations, fused: Computation, parameter: str) -> int:
    """Bytes that a fusion reads of the operand that is a parameter of its computation."""
    return _read(computations, fused, parameter, size(fused.instructions[fused.root].shape))


def bytes_written(computations: Computations, fused: Computation) -> int:
    """Bytes that a fusion writes of its result."""
    return _written(computations, fused, fused.root)


def update_bytes(computation: Computation, operands: tuple[str, ...], opcode: str) -> int:
    """Bytes of what an instruction of IN_PLACE writes into its first operand."""
    update = operands[-1 if opcode == "scatter" else 1]
    return size(computation.instructions[update].shape)


def _read(computations: Computations, fused: Computation, name: str, of_result: int) -> int:
    """Bytes, as its parameter stores them, that a computation reads of one value in it.

    of_result: bytes that are read of the computation's result: all of the outermost's, which goes
    to memory; of a nested one's what the fusion around it reads.
    """
    whole = size(fused.instructions[name].shape)
    total = of_result if name == fused.root else 0
    for user in fused.instructions.values():
        if name not in user.operands:
            continue
        first = user.operands[0] == name
        if user.opcode in SLICING and first:
            total += size(user.shape)
        elif user.opcode in IN_PLACE and first:
            total += update_bytes(fused, user.operands, user.opcode)
        elif user.opcode in _ALIASES:
            behind = _read(computations, fused, user.name, of_result)
            total += -(-behind * whole // max(size(user.shape), 1))  # a conversion's other width
        elif user.opcode == "tuple":
            total += 0 if _renames(fused, name) else whole
        elif user.opcode == "fusion":
            inner = computations[user.calls()]
            outside = _read(computations, fused, user.name, of_result)
            for operand, parameter in zip(user.operands, inner.parameters, strict=False):
                total += _read(computations, inner, parameter, outside) if operand == name else 0
        else:
            return whole
    return min(total, whole)


def _written(computations: Computations, fused: Computation, name: str) -> int:
    root = fused.instructions[name]
    if root.opcode == "tuple":
        return sum(_written(computations, fused, operand) for operand in root.operands)
    if _renames(fused, name):
        return 0
    whole = size(root.shape)
    while root.opcode in _ALIASES:
        root = fused.instructions[root.operands[0]]
    if root.opcode in IN_PLACE:
        return update_bytes(fused, root.operands, root.opcode)
    if root.opcode == "fusion":
        return bytes_written(computations, computations[root.calls()]) or whole
    return whole


def _renames(fused: Computation, name: str) -> bool:
    """Whether a value is a parameter as it came, which moves nothing where it is handed out."""
    instruction = fused.instructions[name]
    while instruction.opcode == "bitcast":
        instruction = fused.instructions[instruction.operands[0]]
    return instruction.opcode == "parameter"
