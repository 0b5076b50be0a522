"""The agent loop on the device: sampling, observations, the compiled rollout."""

from medscope_jax.rollout.loop import Prompts, RolloutConfig, make_rollout, rollout
from medscope_jax.rollout.observation import Vocabulary, observe, vocabulary
from medscope_jax.rollout.sampling import row_keys, sample

__all__ = [
    "Prompts",
    "RolloutConfig",
    "Vocabulary",
    "make_rollout",
    "observe",
    "rollout",
    "row_keys",
    "sample",
    "vocabulary",
]
