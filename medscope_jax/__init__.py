"""MedScope for JAX: a medical video model that looks before it answers.

    medscope = medscope_jax.load("runs/cpu")
    trace = medscope.ask("recording.mp4", "When is the clip placed?")

Research software, not a medical device.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medscope_jax.inference import MedScope

__version__ = "0.1.0"


def load(folder: str | os.PathLike) -> "MedScope":
    """A model to ask about recordings, see medscope_jax.inference.

    Args:
        folder: a training run's workdir, or weights that medscope_jax.convert imported.

    Returns:
        MedScope: medscope.ask(video, question) gives a Trace.

    Raises:
        UserError: one line: the folder is neither, or holds no finished or whole model.
    """
    # Late: importing the package alone must not take the seconds that JAX takes.
    from medscope_jax import inference

    return inference.load(folder)
