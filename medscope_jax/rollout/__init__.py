"""The agent loop on the device: sampling, observations, the compiled rollout."""

from medscope_jax.rollout.engine import (
    FinishedRollouts,
    RolloutEngine,
    RunningRollouts,
    VideoQuestion,
)
from medscope_jax.rollout.loop import device_rollouts, make_rollout, rollout
from medscope_jax.rollout.observation import SpecialTokens, find_special_tokens, observe
from medscope_jax.rollout.placement import (
    place_weights,
    rollout_mesh,
    rollout_model,
    weights_program,
)
from medscope_jax.rollout.prompts import (
    PromptWidth,
    Trajectory,
    make_prompts,
    prompt_width,
    read_trajectories,
)
from medscope_jax.rollout.sampling import row_keys, sample
from medscope_jax.rollout.state import Prompts, RolloutConfig

__all__ = [
    "device_rollouts",
    "FinishedRollouts",
    "PromptWidth",
    "Prompts",
    "RolloutConfig",
    "RolloutEngine",
    "RunningRollouts",
    "SpecialTokens",
    "Trajectory",
    "VideoQuestion",
    "find_special_tokens",
    "make_prompts",
    "make_rollout",
    "observe",
    "place_weights",
    "prompt_width",
    "read_trajectories",
    "rollout",
    "rollout_mesh",
    "rollout_model",
    "row_keys",
    "sample",
    "weights_program",
]
