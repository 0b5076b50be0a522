"""A split's frame bank, from the disk where the config says so."""

from medscope_jax.training.run import Run, Split, make_split_bank
from medscope_jax.video import FrameBank
from tfds_builders.bank import stored_bank


def split_bank(run: Run, params: dict, split: Split) -> FrameBank:
    """The frame bank of a split under the given parameters.

    With config.video.stored_bank, frame tokens are kept in the run's folder as that type: stages
    that share a frozen vision tower, and a run that is continued, encode no frame twice. A bank of
    other frames or weights is never read but made again. See tfds_builders/bank.py.
    """
    dtype = run.config.video.stored_bank
    return stored_bank(run, params, split, dtype) if dtype else make_split_bank(run, params, split)
