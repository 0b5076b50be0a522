"""The project's invariants, looked at on the devices at hand: what `check` runs."""

from medscope_jax.invariants.looks import CHECKS
from medscope_jax.invariants.rolled import Found, Rolled, Skipped
from medscope_jax.invariants.tiny import Tiny, make_tiny

__all__ = ["CHECKS", "Found", "Rolled", "Skipped", "Tiny", "make_tiny"]
