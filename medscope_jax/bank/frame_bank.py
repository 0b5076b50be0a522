"""The frame bank of a batch's videos as the device has it, where every gather finds its frames.

A split's whole bank stays on the host (host_bank.py).
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


class FrameBank(flax.struct.PyTreeNode):
    """Visual tokens of V videos, padded to T frames each; an episode only holds indices into it.

    A visual index counts within one video: its frame t has tokens t * S ... t * S + S - 1.
    flat_index turns it into a row of flat_tokens.

        two videos of 3 and 1 frames, S = 2:      length [3, 1]
        times  [[0, 1, 2], [0, inf, inf]]         video 1, frame 0: visual indices 0 1, flat 6 7

    Attributes:
      tokens: [V, T, S, D], the vision tower's output; zeros where padded.
      times: [V, T] float32 seconds; +inf where padded, so a padded frame lies in no window.
      stamps: [V, T, W] int32 token ids of each frame's time text; -1 where padded.
      length: [V] int32, how many of the T frames are real.
      duration: [V] float32 seconds, the end of each video.
    """

    tokens: jax.Array | np.ndarray
    times: jax.Array | np.ndarray
    stamps: jax.Array | np.ndarray
    length: jax.Array | np.ndarray
    duration: jax.Array | np.ndarray


def flat_tokens(bank: FrameBank) -> jax.Array | np.ndarray:
    """The bank's tokens as [V * T * S, D], for one gather over all videos; see flat_index."""
    return bank.tokens.reshape(-1, bank.tokens.shape[-1])


def flat_index(video: jax.Array, visual_index: jax.Array, tokens_per_video: int) -> jax.Array:
    """Where the visual tokens of rows stand in a flat bank [V * tokens_per_video, D].

        video [0, 2], 10 tokens a video:  visual_index  [[-1, 3], [3, -1]]
                                          result        [[-1, 3], [23, -1]]

    Args:
      video: [B] int, the video that each row sees.
      visual_index: [B, L] int, indices of that video's tokens; -1 where the position is text.
      tokens_per_video: T * S of a bank, or however many tokens the flat bank holds of each row.

    Returns:
      [B, L] rows of the flat bank; -1 where the position is text.
    """
    first = video[:, None] * tokens_per_video
    return jnp.where(visual_index >= 0, first + visual_index, -1)
