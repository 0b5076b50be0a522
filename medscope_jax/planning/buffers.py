"""The largest buffers of a chip's memory, by the names that the program's source gives them.

The TPU compiler says by how much a program is too large, but not why. Its buffer assignment, which
it writes down before it refuses, does: which values share which bytes of HBM.
"""

import re
from typing import NamedTuple

from medscope_jax.planning.hlo_text import ends

_ALLOCATION = re.compile(r"^allocation \d+: size (\d+),(?: color (\d+),)? page \d+,? ?(.*)$")
_ARGUMENT = re.compile(r"parameter (\d+), shape \|(\w+\[[\d,]*\])")
_VALUE = re.compile(
    r"^ value: <\d+ ([^\s{>]+)\S* @\d+> \(size=(\d+),offset=(\d+)\): \(?(\w+\[[\d,]*\])"
)
_NAMED = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = .*\bop_name="([^"]*)"')
_PARAMETER = re.compile(r"^\s+%?[\w.\-]+ = .* parameter\((\d+)\)")
# Parts of a name that say how a program is put together, not what it computes.
_STRUCTURE = {"while", "body", "closed_call", "checkpoint", "rematted_computation", "remat"}


class Buffer(NamedTuple):
    """Some of a chip's memory."""

    size: int  # bytes, padding included
    shape: str  # of one value that lives there, such as f32[8,1024]
    name: str  # of the operation that makes it, or of the argument


def largest_buffers(assignment: str, text: str, count: int = 8) -> list[Buffer]:
    """The `count` largest buffers, largest first. Of values that share memory, the largest counts.

    Args:
        assignment: the compiler's buffer assignment as text, as in Report.assignment.
        text: the program that it is of, as in Report.text.
    """
    names, arguments = _names(text)
    found, values = [], []  # values: (size, offset, allocation, shape, name)
    for number, line in enumerate(assignment.splitlines()):
        header = _ALLOCATION.match(line)
        if header:
            # What is local to a thread is a fusion's inside: no memory of its own.
            in_hbm = header[2] in (None, "0") and "thread-local" not in header[3]
            allocation = number
            argument = _ARGUMENT.search(header[3])
            if in_hbm and argument:
                name = arguments.get(argument[1], f"argument {argument[1]}")
                found.append(Buffer(int(header[1]), argument[2], name))
            in_hbm = in_hbm and not argument
        elif (value := _VALUE.match(line)) and in_hbm:
            values.append((int(value[2]), int(value[3]), allocation, value[4], value[1]))
    taken: list[tuple[int, int, int]] = []
    for size, offset, allocation, shape, name in sorted(values, key=lambda value: -value[0]):
        if len(taken) == count:
            break
        if all(
            other != allocation or offset >= end or offset + size <= start
            for other, start, end in taken
        ):
            taken.append((allocation, offset, offset + size))
            found.append(Buffer(size, shape, _short(names.get(name, name))))
    return sorted(found, key=lambda buffer: -buffer.size)[:count]


def _names(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """What the source calls each instruction, and each argument (by its number)."""
    names, arguments, entry = {}, {}, False
    for line in text.splitlines():
        entry = line.startswith("ENTRY") or (entry and not ends(line))
        if named := _NAMED.match(line):
            names[named[1]] = named[2]
            if entry and (parameter := _PARAMETER.match(line)):
                arguments[parameter[1]] = named[2]
    return names, arguments


def _short(name: str) -> str:
    """ "jit(f)/while/body/layers/mlp/dot_general" -> "layers/mlp/dot_general"."""
    parts = [part for part in name.split("/") if part not in _STRUCTURE]
    kept = [part for part in parts if not re.fullmatch(r"\w*\(.*\)", part)]
    return "/".join(kept[-5:]) or name
