"""Operations of one matrix product in a compiled program's text.

The TPU compiler writes matrix products as convolutions, and a batch of them as a convolution whose
window is so strided and dilated that each product meets only its own operand:

    f32[8,64,128] convolution(..), window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf
"""

import math
import re

import numpy as np

from medscope_jax.planning.hlo_text import Computation, Instruction

_SIDES = re.compile(r"\[([\d,]*)\]")


def product_flops(instruction: Instruction, computation: Computation) -> float:
    """2 m n k of a dot or a convolution; 0 of all else, kernels too, which are opaque here."""
    if instruction.opcode == "dot":
        left = _shape(computation, instruction.operands[0])
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        dims = [int(i) for i in contracted[1].split(",") if i] if contracted else []
        return 2.0 * math.prod(_sides(instruction.shape)) * math.prod(left[i] for i in dims)
    if instruction.opcode == "convolution":
        return _convolution(instruction, computation)
    return 0.0


def _convolution(instruction: Instruction, computation: Computation) -> float:
    left, right = (_shape(computation, name) for name in instruction.operands[:2])
    out = _sides(instruction.shape)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    assert labels is not None  # every convolution has some
    left_labels, right_labels, out_labels = labels.groups()
    total = 2.0 * left[left_labels.index("b")]
    total *= right[right_labels.index("i")] * right[right_labels.index("o")]
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    options = dict(part.split("=") for part in window[1].split()) if window else {}
    for place, label in enumerate(sorted(filter(str.isdigit, out_labels))):

        def option(name: str, default: str, place: int = place) -> str:
            return options[name].split("x")[place] if name in options else default

        low = int(option("pad", "0_0").split("_")[0])
        dilation = int(option("lhs_dilate", "1"))
        length = (left[left_labels.index(label)] - 1) * dilation + 1
        total *= _meetings(
            out[out_labels.index(label)],
            right[right_labels.index(label)],
            int(option("stride", "1")),
            int(option("rhs_dilate", "1")),
            low,
            dilation,
            length,
        )
    return total


def _meetings(
    outputs: int, size: int, stride: int, spread: int, low: int, dilation: int, length: int
) -> int:
    """How often an element of the window meets a real one of the operand, along one dimension."""
    at = np.arange(outputs)[:, None] * stride + np.arange(size) * spread - low
    return int(np.count_nonzero((at >= 0) & (at < length) & (at % dilation == 0)))


def _shape(computation: Computation, name: str) -> list[int]:
    return _sides(computation.instructions[name].shape)


def _sides(shape: str) -> list[int]:
    sides = _SIDES.search(shape)
    assert sides is not None, shape
    return [int(side) for side in sides[1].split(",") if side]
