"""Floating-point operations of a program, from the shapes in its trace.

A compiler's own count takes a loop's body once, however often it runs. Here a scan counts as often
as it is long, also where it stands in another one, and what the backward pass computes again counts
again. Only matrix products count (2 m n k): all else is a few percent of a model's arithmetic.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from medscope_jax.errors import UserError
from medscope_jax.models.attention.cached import OWN_KERNEL, PREFIX_KERNEL
from medscope_jax.models.attention.filled import BEGUN_BLOCKS, OWN_BLOCKS

AGENT_LOOP = "agent_loop"  # named scope of the loop in rollout/loop.py
PIECES = "chunked_prefill"  # named scope of the loop in rollout/prefill.py
_BLOCKS = re.compile(rf"({OWN_BLOCKS}|{BEGUN_BLOCKS})_(\d+)")
_OBSERVES = "execute_tools"  # the agent loop's step that reads observations
_DECODES = "decode_step"  # and the one that writes


class Inside(NamedTuple):
    """What is assumed of what stands in one loop."""

    pieces: float  # times that a loop without a fixed length runs, other than the agent loop's
    own: float  # share of rows' own positions that the kernel over a cache reads
    begun: float  # share of what they begin with


@dataclasses.dataclass(frozen=True)
class Assumed:
    """How often things happen that only a run's data decide.

    A loop without a fixed length is known by the named scope that it stands in: AGENT_LOOP holds a
    loop for each kind of step, PIECES reads a text piece by piece, and attention's loops over the
    blocks of a cache tell how many there are (attention/filled.py). Of another one is not known how
    often it runs: it may neither multiply matrices nor send anything to other chips, and the little
    that it moves counts as often as a text has pieces. Choices are the vision tower's, between
    attention within windows and over the whole frame. An attention kernel skips the blocks that
    nothing looks at.
    """

    # How often the agent loop does each kind of step in all, on the device that takes longest, by
    # the name of the step's loop; {} for a program without an agent loop.
    steps: Mapping[str, float] = dataclasses.field(default_factory=dict)
    mean_steps: Mapping[str, float] | None = None  # of the mean device; None: as steps
    prompt: float = 1.0  # pieces of a prompt
    observation: float = 1.0  # pieces that an observation is prefilled in
    choice: tuple[float, ...] = (0.5, 0.5)  # shares of the tower's blocks: in windows, frame-wide
    attended: float = 0.5  # share of all pairs of positions that a kernel computes; causal: half
    # Of the positions that a row of a cache has of its own, the share that is read, in the mean:
    # for prompts, observations, and tokens that are decoded. Of what rows begin with, all is.
    filled: tuple[float, float, float] = (1.0, 1.0, 1.0)
    # Shares of the rows that write in a decode step, and of the prompts that those begin with.
    active: tuple[float, float] = (1.0, 1.0)

    @property
    def mean(self) -> "Assumed":
        """What is assumed of the mean device."""
        return self if self.mean_steps is None else dataclasses.replace(self, steps=self.mean_steps)

    @property
    def reading(self) -> "Inside":
        """What is assumed where prompts are read: everywhere but in some of the agent loop."""
        return Inside(self.prompt, self.filled[0], 1.0)

    def only(self, *names: str) -> "Assumed":
        """What is assumed, with no steps of the agent loop but those of these names."""
        steps = {name: often * (name in names) for name, often in self.steps.items()}
        return dataclasses.replace(self, steps=steps, mean_steps=None)

    def kinds(self, names: Sequence[str]) -> list[tuple[float, "Inside"]]:
        """Of each of the agent loop's loops, in order: how often it steps in all, and what is
        assumed of a step.

        Raises:
          UserError: the loops are others than those of `steps`.
        """
        if sorted(names) != sorted(self.steps):
            raise UserError(
                f"its agent loop holds loops named {', '.join(names) or '(none)'}, but how often "
                f"they step is known of {', '.join(self.steps) or '(none)'}: see "
                "planning/cost.py and rollout/loop.py"
            )
        others = {
            _OBSERVES: Inside(self.observation, self.filled[1], 1.0),
            _DECODES: Inside(self.prompt, self.filled[2] * self.active[0], self.active[1]),
        }
        return [(self.steps[name], others.get(name, self.reading)) for name in names]

    def branches(self, number: int) -> tuple[float, ...]:
        """How often each of `number` branches runs each time that a choice is come to."""
        return self.choice if len(self.choice) == number else (1 / number,) * number


class Flops(NamedTuple):
    """Operations that a program asks for: what devices repeat of each other's counts once."""

    products: float  # of matrix products that the compiler sees
    kernels: float  # within kernels, which are opaque to it
    chip_kernels: float  # of kernels, on one device

    def times(self, factor: float) -> "Flops":
        """The FLOPs of a program that runs this one `factor` times."""
        return Flops(*(number * factor for number in self))

    def on(self, shards: int) -> "Flops":
        """The FLOPs of devices that each run this program on a part of their own."""
        return Flops(self.products * shards, self.kernels * shards, self.chip_kernels)

    @property
    def total(self) -> float:
        """FLOPs of matrix products and of kernels together."""
        return self.products + self.kernels


_NOTHING = Flops(0.0, 0.0, 0.0)


def unknown_loop(name: str) -> UserError:
    """What to raise where it matters how often a loop runs, and its name (or "") does not say."""
    return UserError(
        f"how often its loop named {name or '(none)'} runs is not known: give the loop a "
        "jax.named_scope that planning/flops.py counts"
    )


def times_of(scope: str, inside: Inside) -> float | None:
    """How often a loop of this named scope runs, other than the agent loop's; None: not known."""
    if scope == PIECES:
        return inside.pieces
    blocks = _BLOCKS.fullmatch(scope)
    if blocks is None:
        return None
    share = inside.own if blocks[1] == OWN_BLOCKS else inside.begun
    return max(1.0, share * int(blocks[2]))


def count_flops(trace: ClosedJaxpr, assumed: Assumed) -> Flops:
    """Operations of a traced program, such as Report.trace.

    Raises:
      UserError: a loop multiplies matrices, and it is not known how often it runs.
    """
    return _count(_plain(trace), assumed, assumed.reading)


def _count(jaxpr: Jaxpr, assumed: Assumed, inside: Inside) -> Flops:
    parts = []
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            parts.append(Flops(_product(equation), 0.0, 0.0))
        elif name == "conv_general_dilated":
            parts.append(Flops(_convolution(equation), 0.0, 0.0))
        elif name == "scan":
            one = _count(_plain(params["jaxpr"]), assumed, inside)
            parts.append(one.times(params["length"]))
        elif name == "while":
            body, scope = _plain(params["body_jaxpr"]), _scope(equation)
            if scope == AGENT_LOOP:
                kinds = [kind for kind in body.eqns if kind.primitive.name == "while"]
                often = assumed.kinds([_scope(kind) for kind in kinds])
                for kind, (steps, own) in zip(kinds, often, strict=True):
                    step = _plain(kind.params["body_jaxpr"])
                    parts.append(_count(step, assumed, own).times(steps))
            else:
                once, times = _count(body, assumed, inside), times_of(scope, inside)
                if once.total and times is None:
                    raise unknown_loop(scope)
                parts.append(once.times(inside.pieces if times is None else times))
        elif name == "cond":
            shares = assumed.branches(len(params["branches"]))
            for share, branch in zip(shares, params["branches"], strict=True):
                parts.append(_count(_plain(branch), assumed, inside).times(share))
        elif name == "shard_map":
            parts.append(_count(_plain(params["jaxpr"]), assumed, inside).on(_shards(params)))
        elif name == "pallas_call":
            operations = _kernel(equation, assumed, inside)
            parts.append(Flops(0.0, operations, operations))
        else:
            parts.extend(_count(inner, assumed, inside) for inner in _inside(params))
    return Flops(*(sum(numbers) for numbers in zip(*parts, strict=True))) if parts else _NOTHING


def _shards(params: Mapping) -> int:
    """Devices of a shard_map that have a part of their own. Along an axis that splits nothing of
    what goes in or comes out, they repeat each other."""
    specs = (*params["in_specs"], *params["out_specs"])
    names = [side if isinstance(side, tuple) else (side,) for spec in specs for side in spec]
    axes = set(itertools.chain(*names)) & set(params["newly_manual_axes"])
    return math.prod(params["mesh"].shape[axis] for axis in axes)


def _scope(equation) -> str:
    """The innermost named scope that an equation stands in; "" without one."""
    return str(equation.source_info.name_stack).split("/")[-1]


def _product(equation) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution(equation) -> float:
    kernel = equation.invars[1].aval.shape
    features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / features


def _kernel(equation, assumed: Assumed, inside: Inside) -> float:
    """An attention kernel's operations: those of a block of scores, for all blocks it comes to.

    Its first matrices are queries [.., N, hd] and keys [.., M, hd], and the first product in it
    makes a block of scores. One over a cache reads the filled part of it. A kernel with an
    estimate of its own is taken at its word.

    Raises:
      UserError: a kernel of another kind multiplies matrices and has no estimate.
    """
    estimate = equation.params.get("cost_estimate")
    if estimate is not None:
        return float(estimate.flops)
    if (name := equation.params.get("name")) in (OWN_KERNEL, PREFIX_KERNEL):
        query, keys = (equation.invars[i].aval.shape for i in (3, 4))
        pairs = math.prod(query) * keys[3]
        return 4.0 * pairs * (inside.own if name == OWN_KERNEL else inside.begun)
    body = _plain(equation.params["jaxpr"])
    scores = _first_product(body)
    if scores is None:
        return 0.0
    matrices = [
        var.aval.shape
        for var in equation.invars
        if len(var.aval.shape) >= 3 and jnp.issubdtype(var.aval.dtype, jnp.floating)
    ]
    if len(matrices) < 2:
        raise UserError(
            f"its kernel {equation.params.get('name') or '(no name)'} is no attention of queries "
            "and keys: give its pallas_call a cost_estimate"
        )
    query, key = matrices[:2]
    blocks = math.prod(query[:-1]) * key[-2] / math.prod(scores.outvars[0].aval.shape)
    every = dataclasses.replace(assumed, choice=(1.0, 1.0))  # its branches: do, or do nothing
    return _count(body, every, Inside(1.0, 1.0, 1.0)).total * blocks * assumed.attended


def _first_product(jaxpr: Jaxpr):
    """The first dot_general of a jaxpr or of those inside of it; None if there is none."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            return equation
        branches = equation.params.get("branches", ())
        for inner in (*map(_plain, branches), *_inside(equation.params)):
            found = _first_product(inner)
            if found is not None:
                return found
    return None


def _inside(params: Mapping) -> Iterator[Jaxpr]:
    """The jaxprs among an equation's parameters: of jit, checkpoint, custom derivatives."""
    for value in params.values():
        if isinstance(value, (ClosedJaxpr, Jaxpr)):
            yield _plain(value)


def _plain(jaxpr: ClosedJaxpr | Jaxpr) -> Jaxpr:
    """Without its constants; JAX 0.12 has one class for both."""
    plain: Any = getattr(jaxpr, "jaxpr", jaxpr)
    return plain
