"""Shapes of the Qwen2.5-VL family in miniature, and conversations that mix words, images of
different sizes and videos (NumPy only): what the parity tests and their golden values share.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from medscope_jax.models import ModelConfig, TextConfig, VisionConfig
from medscope_jax.models.hf.hf_config import hf_config
from tests.models import model_cases
from tests.models.positions_reference import Kind, token_kinds

UNIT = 28  # pixels a side of a merged token
LENGTH = 104
GENERATED = 64
BATCH = 4  # temporal patches a call of the vision tower


def family(
    heads: int,
    ratio: int,
    tied: bool,
    window: int,
    full: tuple[int, ...],
    vision_width: int,
    vision_heads: int,
    tokens_per_second: int = 2,
) -> ModelConfig:
    """A tiny model: `heads` of width 8, `ratio` of them to a key-value head."""
    return ModelConfig(
        vision=VisionConfig(
            depth=3,
            hidden_size=vision_width,
            intermediate_size=vision_width + 12,
            num_heads=vision_heads,
            window_size=window,
            fullatt_block_indexes=full,
            out_hidden_size=8 * heads,
            tokens_per_second=tokens_per_second,
        ),
        text=TextConfig(
            vocab_size=96,
            hidden_size=8 * heads,
            intermediate_size=80,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=heads // ratio,
            mrope_section=(1, 1, 2),
            tie_word_embeddings=tied,
        ),
    )


# Ratios of the published sizes: 8 (3B, tied; 72B), 7 (7B), 5 (32B). Windows of 2, 3 and 4 tokens a
# side divide few of the grids below. At 25 steps a second the time of
# a video outlasts the words after it.
FAMILY = {
    "mha-tied": family(4, 1, True, 56, (1,), 32, 2),
    "gqa2": family(4, 2, False, 84, (0, 2), 48, 3),
    "gqa4-tied": family(8, 4, True, 112, (), 32, 1),
    "gqa5": family(10, 5, False, 56, (2,), 64, 4),
    "gqa7": family(14, 7, False, 84, (0, 1, 2), 40, 5, 25),
    "gqa8-tied": family(16, 8, True, 56, (0,), 96, 6),
}

# Frames, rows and columns (in tokens) of what the conversations show. An odd number of frames is
# filled up by its last one.
CLIPS = [(1, 1, 3), (1, 1, 3), (1, 1, 3), (1, 3, 5), (1, 5, 2), (6, 2, 3), (3, 2, 3)]
FRAME_A, FRAME_B, FRAME_C, WIDE, TALL, VIDEO, SHORT_VIDEO = range(len(CLIPS))

# Rows of segments: a number of random words, an image (Kind.IMAGE, clip), or a video
# (Kind.VIDEO, clip, seconds a temporal patch).
ROWS = {
    "text": [40],
    "one image": [5, (Kind.IMAGE, WIDE), 9],
    "images of three sizes": [
        *(3, (Kind.IMAGE, FRAME_A), 2, (Kind.IMAGE, WIDE)),
        *(4, (Kind.IMAGE, TALL), 7),
    ],
    "videos": [
        *(2, (Kind.VIDEO, VIDEO, 1.7), 3, (Kind.IMAGE, FRAME_A)),
        *(1, (Kind.VIDEO, SHORT_VIDEO, 0.3), 8),
    ],
    # Instructions; a preview with time stamps and a question; a call; its observation, which
    # shows two frames of the preview again and a larger one; an answer.
    "tool conversation": [
        *(12, 4, (Kind.IMAGE, FRAME_A), 1, (Kind.IMAGE, FRAME_B), 1, (Kind.IMAGE, FRAME_C), 1, 9),
        14,
        *(3, (Kind.IMAGE, FRAME_B), 1, (Kind.IMAGE, FRAME_C), 1, (Kind.IMAGE, WIDE), 1, 2),
        10,
    ],
}


def random_weights(config: ModelConfig, boost: float = 4) -> dict[str, np.ndarray]:
    """Weights under the hub's names whose greedy text does not run into short cycles.

    boost: of what makes the decoder's attention sharp, and its layers outweigh the last word's
    embedding.
    """
    weights = model_cases.random_state_dict(config, seed=21)
    strong = ("q_proj.weight", "o_proj.weight", "down_proj.weight")
    for name in weights:
        if name.startswith("model.layers.") and name.endswith(strong):
            weights[name] *= boost
    return weights


@dataclasses.dataclass(frozen=True)
class Conversations:
    """A padded batch, and what it shows, in reading order, row after row."""

    tokens: np.ndarray  # int32 [B, L], with the reference's placeholder ids at visual slots
    valid: np.ndarray  # bool [B, L]
    kinds: np.ndarray  # int8 [B, L] Kind
    images: list[int]  # indices of CLIPS
    videos: list[int]
    seconds: list[float]  # a temporal patch, of each video


def grid_of(clip: int) -> tuple[int, int, int]:
    """Temporal patches, rows and columns of merged tokens."""
    frames, rows, columns = CLIPS[clip]
    return -(-frames // 2), rows, columns


def make_clips() -> list[np.ndarray]:
    """The pixels of CLIPS, uint8 [T, H, W, 3]."""
    return [
        model_cases.random_frames(frames, rows * UNIT, columns * UNIT, seed=50 + index)
        for index, (frames, rows, columns) in enumerate(CLIPS)
    ]


def lay_out(
    config: ModelConfig, rows: Sequence[list], length: int, left: bool, seed: int = 0
) -> Conversations:
    """The conversations of rows of segments, padded on the right or left."""
    ids, random = hf_config(config), np.random.RandomState(seed)
    placeholder = {Kind.IMAGE: ids["image_token_id"], Kind.VIDEO: ids["video_token_id"]}
    shown: dict[Kind, list[int]] = {Kind.IMAGE: [], Kind.VIDEO: []}
    tokens, valid = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), length), bool)
    seconds = []
    for row, segments in enumerate(rows):
        words: list[int] = []
        for segment in segments:
            if isinstance(segment, int):
                words += list(random.randint(0, config.text.vocab_size - 4, segment))
                continue
            kind, clip, *timing = segment
            shown[kind].append(clip)
            seconds += timing
            block = [placeholder[kind]] * int(np.prod(grid_of(clip)))
            words += [ids["vision_start_token_id"], *block, ids["vision_end_token_id"]]
        part = slice(length - len(words), length) if left else slice(0, len(words))
        tokens[row, part], valid[row, part] = words, True
    kinds = token_kinds(tokens, valid, placeholder[Kind.IMAGE], placeholder[Kind.VIDEO])
    return Conversations(tokens, valid, kinds, shown[Kind.IMAGE], shown[Kind.VIDEO], seconds)
