"""Tiny models, frames and conversations that the tests and the golden values share (NumPy only)."""

import numpy as np

from medscope_jax.models import ModelConfig, TextConfig, VisionConfig, hf_shapes


def tiny_config(
    kv_heads: int = 2, tied: bool = True, window: int = 56, full: tuple[int, ...] = (1,)
) -> ModelConfig:
    """A model of a few thousand parameters with every feature of the big one."""
    return ModelConfig(
        vision=VisionConfig(
            depth=3,
            hidden_size=32,
            intermediate_size=40,
            num_heads=2,
            window_size=window,
            fullatt_block_indexes=full,
            out_hidden_size=64,
        ),
        text=TextConfig(
            vocab_size=96,
            hidden_size=64,
            intermediate_size=80,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
            mrope_section=(2, 3, 3),
            tie_word_embeddings=tied,
        ),
    )


def random_state_dict(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """Weights under the hub's names, large enough that every tensor matters to the output."""
    shapes = hf_shapes(config)
    random = np.random.RandomState(seed)  # its stream is frozen, whatever NumPy's version
    weights = {}
    for name in sorted(shapes):
        draw = random.standard_normal(shapes[name])
        is_norm = len(shapes[name]) == 1 and name.endswith("weight")
        fan_in = np.prod(shapes[name][1:]) if len(shapes[name]) > 1 else 10
        weights[name] = (1 + 0.2 * draw if is_norm else draw / fan_in**0.5).astype(np.float32)
    return weights


def random_frames(count: int, height: int, width: int, seed: int) -> np.ndarray:
    """uint8 [count, height, width, 3] of noise."""
    size = (count, height, width, 3)
    return np.random.RandomState(seed).randint(0, 256, size).astype(np.uint8)


def random_conversation(
    config: ModelConfig, num_frames: int, tokens_per_frame: int, length: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [L], index [L]) of words with frames between them; at most `length` long.

    Frames come in any order and may repeat; at least one word stands between two frames, as a time
    stamp does in the product (the reference joins images that touch).
    """
    random = np.random.RandomState(seed)
    words = config.text.vocab_size - 4  # the special ids of hf_config lie at the end
    tokens, index = [], []
    while len(tokens) < length:
        run = random.randint(1, 6)
        tokens += list(random.randint(0, words, run))
        index += [-1] * run
        shown = random.randint(num_frames)
        tokens += [0] * tokens_per_frame
        index += list(shown * tokens_per_frame + np.arange(tokens_per_frame))
    cut = length - 2  # never end inside a frame: cut it back to a word
    while index[cut - 1] >= 0 and index[cut] >= 0 and index[cut] % tokens_per_frame:
        cut -= 1
    tokens, index = tokens[:cut] + [1, 2], index[:cut] + [-1, -1]
    return np.array(tokens, np.int32), np.array(index, np.int32)


def pad_rows(
    rows: list[tuple[np.ndarray, np.ndarray]], length: int, left: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens, index, valid), each [B, length], of conversations padded on the right or left."""
    tokens = np.zeros((len(rows), length), np.int32)
    index = np.full((len(rows), length), -1, np.int32)
    valid = np.zeros((len(rows), length), bool)
    for row, (words, frames) in enumerate(rows):
        part = slice(length - len(words), length) if left else slice(0, len(words))
        tokens[row, part], index[row, part], valid[row, part] = words, frames, True
    return tokens, index, valid
