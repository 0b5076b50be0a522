"""What a compiled program costs: arithmetic, bytes moved, collectives, and the time they allow."""

from medscope_jax.planning.advice import advice
from medscope_jax.planning.buffers import largest_buffers
from medscope_jax.planning.chips import CHIPS, roofline
from medscope_jax.planning.cost import Cost, assume, cost_of, rollout_least, to_dict, units_of
from medscope_jax.planning.flops import Assumed, count_flops
from medscope_jax.planning.hlo import Moved, read_work
from medscope_jax.planning.show import print_plan

__all__ = [
    "CHIPS",
    "Assumed",
    "Cost",
    "Moved",
    "advice",
    "assume",
    "cost_of",
    "count_flops",
    "largest_buffers",
    "print_plan",
    "read_work",
    "rollout_least",
    "roofline",
    "to_dict",
    "units_of",
]
