"""Reading a compiled program's text (HLO): computations, instructions, sizes, loops' lengths.

    %name = bf16[8,512]{1,0:T(8,128)S(1)} opcode(%operand, %tuple#1, ...), attribute=value, ...

S(1) and the like in a layout say that the array lives in a small memory on the chip, not in HBM.
"""

import dataclasses
import re
from collections.abc import Mapping

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_LEAF = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+(?:#\d+)*)")
_COMMENT = re.compile(r"/\*.*?\*/")
_BITS = re.compile(r"\d+")
_UNCHANGED = ("copy", "bitcast", "convert", "reshape")  # what a loop's bound may be behind


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]  # names within the computation
    inside: str  # what stands between the opcode's parentheses
    attributes: str  # what follows them

    def calls(self, key: str = "calls") -> str:
        """The computation that an attribute names; "" if there is none."""
        match = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        return match[1] if match else ""

    @property
    def branches(self) -> tuple[str, ...]:
        """The computations of a conditional, in the order of its index (False, True)."""
        match = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if match:
            return tuple(_NAME.findall(match[1]))
        pair = (self.calls("false_computation"), self.calls("true_computation"))
        return pair if all(pair) else ()


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in their order; the last one marked ROOT is the result."""

    name: str
    instructions: dict[str, Instruction]
    root: str
    parameters: tuple[str, ...]  # names of the parameters, by their number


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """(computations by name, the name of the one that the program begins with)."""
    computations: dict[str, Computation] = {}
    body: dict[str, Instruction] = {}
    entry = name = root = ""
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            name, body, root = header[2], {}, ""
            entry = name if header[1] else entry
        elif ends(line) and name:
            _add_elements(body)
            computations[name] = Computation(name, body, root, _parameters(body))
            name = ""
        elif name:
            match = _INSTRUCTION.match(line)
            if match:
                body[match[2]] = _instruction(match[2], _COMMENT.sub("", match[3]))
                root = match[2] if match[1] else root
    return computations, entry


def ends(line: str) -> bool:
    """Whether a computation ends with a line. A kernel's attributes may begin one with "}}"."""
    return line == "}" or line.startswith("}, execution_thread")


def leaves(shape: str) -> list[tuple[int, bool]]:
    """(bytes, whether in HBM) of each array of a shape, which may be a tuple; without padding."""
    found = []
    for kind, sides, layout in _LEAF.findall(shape):
        count = 1
        for side in filter(None, sides.split(",")):
            count *= int(side)
        found.append((-(-count * _bits(kind) // 8), "S(" not in layout))
    return found


def size(shape: str) -> int:
    """Bytes of a shape, wherever it lives."""
    return sum(number for number, _ in leaves(shape))


def hbm_size(shape: str) -> int:
    """Bytes of a shape in HBM."""
    return sum(number for number, inside in leaves(shape) if inside)


def loop_name(loop: Instruction, computations: Mapping[str, Computation]) -> str:
    """The innermost named scope that a while loop's source stands in; "" where the text has none.

    From the compiler's name of it, such as "jit(rollout)/agent_loop/while".
    """
    match = re.search(r'op_name="(?:[^"]*/)?([^"/]*)/while"', loop.attributes)
    return match[1] if match else ""


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
        _number(condition, side, loop, outside) if isinstance(side, str) else side
        for side in compared
    )
    return None if first is None or last is None or last < first else last - first


def _bits(kind: str) -> int:
    if kind in ("token", "opaque"):
        return 0
    match = _BITS.search(kind)
    return int(match[0]) if match else 8  # pred


def _instruction(name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].strip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside = rest[opening + 1 : closing]
    return Instruction(
        name, rest[:opening], shape, tuple(_NAME.findall(inside)), inside, rest[closing + 1 :]
    )


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    return len(text) - 1


def _add_elements(body: dict[str, Instruction]) -> None:
    """Gives each element of a tuple that an operand names, such as "tuple#1", a line of its own."""
    for operand in {name for i in body.values() for name in i.operands if "#" in name}:
        whole, *places = operand.split("#")
        for place in places if whole in body else ():
            name, shape = f"{whole}#{place}", _elements(body[whole].shape)[int(place)]
            get = "get-tuple-element"
            body[name] = Instruction(name, get, shape, (whole,), "", f", index={place}")
            whole = name


def _elements(shape: str) -> list[str]:
    """The shapes of a tuple's elements."""
    parts, depth, start = [], 0, 1
    for i, character in enumerate(shape):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 or (depth == 1 and character == ","):
            parts.append(shape[start:i].strip())
            start = i + 1
    return parts


def _parameters(body: dict[str, Instruction]) -> tuple[str, ...]:
    numbered = {int(i.inside): i.name for i in body.values() if i.opcode == "parameter"}
    return tuple(numbered[number] for number in sorted(numbered))


def _comparison(
    condition: Computation, computations: Mapping[str, Computation]
) -> tuple[str | int | None, ...] | None:
    """The two values that a condition `a < b` compares; None for another kind.

    Each is a name in the condition, or a number where a fusion within it holds that.
    """
    root = condition.instructions[condition.root]
    while root.opcode in _UNCHANGED:
        root = condition.instructions[root.operands[0]]
    if root.opcode == "fusion":
        inner = computations[root.calls()]
        found = _comparison(inner, computations)
        places = {name: index for index, name in enumerate(inner.parameters)}
        if found is None:
            return None

        def outside(value: str | int | None) -> str | int | None:
            if not isinstance(value, str):
                return value
            if value in places:
                return root.operands[places[value]]
            return _number(inner, value, None, inner)

        return tuple(map(outside, found))
    if root.opcode != "compare" or "direction=LT" not in root.attributes:
        return None
    return root.operands


def _number(
    computation: Computation, name: str, loop: Instruction | None, outside: Computation
) -> int | None:
    """A whole number: a constant, or what the loop's state begins with there."""
    instruction = computation.instructions[name]
    while instruction.opcode in _UNCHANGED:
        instruction = computation.instructions[instruction.operands[0]]
    if instruction.opcode == "constant":
        return int(instruction.inside) if re.fullmatch(r"-?\d+", instruction.inside) else None
    if instruction.opcode != "get-tuple-element" or loop is None:
        return None
    index = re.search(r"index=(\d+)", instruction.attributes)
    assert index is not None  # every get-tuple-element has one
    start = outside.instructions[loop.operands[0]]
    if start.opcode != "tuple":
        return None
    return _number(outside, start.operands[int(index[1])], None, outside)
