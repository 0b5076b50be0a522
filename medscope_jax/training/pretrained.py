"""The Run of imported weights: what stands in place of a training run's config.

What a released model expects is known: Qwen's tokenizer, frames as images of at most 224 x 224
pixels, each with its time before it. How much of a video it is shown is our choice, of a size that
one accelerator serves; the paper's preview has up to 512 frames.
"""

import dataclasses
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict, FrozenConfigDict

from medscope_jax.dialogue import Layout, Tokenizer, protocol
from medscope_jax.errors import UserError
from medscope_jax.models import ModelConfig, frame_grid
from medscope_jax.models.hf.preprocessor import pixel_limits
from medscope_jax.rl import RewardConfig
from medscope_jax.rollout import find_special_tokens
from medscope_jax.training.run import Run
from medscope_jax.video import bucket_size

VIDEO = FrozenConfigDict(
    {
        "fps": 1.0,
        "max_frames": 3600,
        "min_frames": 8,
        "max_pixels": 224 * 224,
        "resample": "bicubic",
        "native_pairs": False,
    }
)
DIALOGUE: dict[str, Any] = {
    "preview_frames": 64,
    "window_frames": 32,
    "frame_format": protocol.QWEN_FRAME,
    "response_format": protocol.QWEN_RESPONSE,
    "max_tool_turns": 5,
}
TURN_TOKENS = 512  # most of an assistant's turn
_ROLLOUT: dict[str, Any] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "turn_tokens": TURN_TOKENS,
    "call_tokens": 96,
    "prefill_rows": 1,
    "slots": 0,
    "prefill_tokens": 0,
    "kv_dtype": "",
    "weights_dtype": "",
    "tensor": 0,
}
# Greedy alone: sampling several times is for models that were trained by it.
_SAMPLES = 0
_QUESTIONS = 4  # a question's video and conversation may take gigabytes of a device
_PROMPT_TOKENS = 1024  # room for the system prompt, the tools and the question
_FRAME_TEXT = 16  # room for a frame's time and tags, tokens


def most_pixels(folder: Path) -> int:
    """How many pixels a frame has at most: ours, or fewer where the folder's processor says so.

    Raises:
        UserError: it says that frames have more than we show.
    """
    least, most = pixel_limits(folder)
    if least > VIDEO.max_pixels:
        raise UserError(
            f"{folder}'s image processor has min_pixels {least:,}, and frames are shown with at "
            f"most {VIDEO.max_pixels:,} here: this model can't be asked"
        )
    return min(most, VIDEO.max_pixels)


def frame_size(
    model: ModelConfig, height: int, width: int, max_pixels: int = VIDEO.max_pixels
) -> tuple[int, int]:
    """The (height, width) in pixels at which the model is shown a recording of that resolution."""
    unit = model.vision.patch_size * model.vision.spatial_merge_size
    return bucket_size(height, width, max_pixels, unit)


def pretrained_run(
    folder: Path, model: ModelConfig, tokenizer: Tokenizer, mesh: Mesh, size: tuple[int, int]
) -> Run:
    """The Run of a weights folder for frames of size (height, width) in pixels."""
    grid = frame_grid(model, *size)
    turns, frame = DIALOGUE["max_tool_turns"], grid[0] * grid[1] + _FRAME_TEXT
    shown = DIALOGUE["preview_frames"] + turns * DIALOGUE["window_frames"]
    length = _PROMPT_TOKENS + shown * frame + (turns + 1) * TURN_TOKENS
    layout = Layout(length=length, grid=grid, **DIALOGUE)
    config = ConfigDict(
        {
            "seed": 0,
            "video": {**VIDEO, "height": size[0], "width": size[1]},
            "dialogue": {**DIALOGUE, "length": length},
            "rollout": _ROLLOUT,
            "evaluation": {
                "rollouts": _QUESTIONS * mesh.shape["data"] * mesh.shape["fsdp"],
                "samples": _SAMPLES,
            },
            "reward": {"frame_window": RewardConfig().frame_window},
        }
    )
    return Run(
        config=config,
        folder=folder,
        mesh=mesh,
        tokenizer=tokenizer,
        special_tokens=find_special_tokens(tokenizer, layout),
        model=dataclasses.replace(model, remat=False),
        layout=layout,
        clip_layout=layout,
    )
