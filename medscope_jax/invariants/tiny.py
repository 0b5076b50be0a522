"""A small model, videos and conversations, all drawn at random, on a mesh of real devices."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.config import load_config
from medscope_jax.dialogue import (
    Layout,
    Tokenizer,
    build_episode,
    pad_row,
    pad_vocabulary,
    protocol,
    train_tokenizer,
)
from medscope_jax.models import ModelConfig, init_params
from medscope_jax.training.from_config import layouts, with_vocabulary
from medscope_jax.video import Video, preview_indices

QUESTION = "where is it?"
_END = "<think>so</think><answer>left</answer>"
# What the two rollouts of a question write: both tools, a window past the end, three turns.
SCRIPTS = (
    ("<think>a</think>" + protocol.crop_call(2, 6), _END),
    ("<think>b</think>" + protocol.frame_call(9), protocol.crop_call(15.5, 99), _END),
)
FRAMES = 17  # of a video, one a second
# Heads that every tensor axis up to 8 divides; all else is as in the shortest run of a laptop.
_CHANGES = (
    "model.text.num_attention_heads=8",
    "model.text.num_key_value_heads=8",
    "model.text.mrope_section=(4, 2, 2)",
    "dialogue.length=384",
    "dialogue.clip_length=256",
    "dialogue.preview_frames=8",
    "dialogue.window_frames=8",
    "dialogue.max_tool_turns=2",
    "video.max_frames=32",
    "warm_up.steps=4",
    "log.every=1",
    "log.checkpoint_every=2",
)


@dataclasses.dataclass(frozen=True)
class Tiny:
    """What the checks share. Arrays are on the host, the same in every process."""

    config: ConfigDict
    mesh: Mesh
    model: ModelConfig  # float32, dense attention
    tokenizer: Tokenizer
    layout: Layout  # of conversations about whole videos
    clip_layout: Layout
    params: dict
    videos: list[Video]  # one a question

    @property
    def record(self) -> dict:
        """The question that is asked about every video."""
        return {"question": QUESTION}

    def clips(self) -> dict[str, np.ndarray]:
        """A batch of stage 1, a row a video: tokens, visual_index, role, and the frames shown."""
        layout, rows = self.clip_layout, []
        for video in self.videos:
            shown = range(layout.window_frames)
            row = build_episode(
                QUESTION,
                [_END],
                shown,
                video.times,
                video.duration,
                self.tokenizer,
                layout,
                tools=False,
            )
            frames = video.frames[: layout.window_frames]
            rows.append({**pad_row(row, layout.length), "frames": frames})
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def written(self) -> np.ndarray:
        """int32 [2 a video, L]: what SCRIPTS write and read, position by position."""
        tokens = np.zeros((2 * len(self.videos), self.layout.length), np.int32)
        for number, row in enumerate(tokens):
            video = self.videos[number // 2]
            shown = preview_indices(len(video.times), self.layout.preview_frames)
            episode = build_episode(
                QUESTION,
                SCRIPTS[number % 2],
                shown,
                video.times,
                video.duration,
                self.tokenizer,
                self.layout,
                tools=True,
            )
            row[: len(episode.tokens)] = episode.tokens
        return tokens


def make_tiny(mesh: Mesh) -> Tiny:
    """The Tiny of a mesh: a question and a row for each part that its axes split a batch into."""
    rows = max(2, math.prod(mesh.shape[axis] for axis in ("data", "fsdp", "context")))
    config = load_config("tpu_configs/cpu.py:smoke", [*_CHANGES, f"warm_up.batch_size={rows}"])
    corpus = [_END, QUESTION, "0123456789 .,:[]{}\"'<>/?!-+"]
    size = config.dialogue.vocab_size
    tokenizer = train_tokenizer(corpus * 5, size, config.video.max_frames + 1)
    model = with_vocabulary(config.model, tokenizer.vocab_size)
    layout, clip_layout = layouts(config, model)
    random = np.random.default_rng(0)
    frames = (FRAMES, config.video.height, config.video.width, 3)
    times = np.arange(FRAMES, dtype=np.float64)
    videos = [
        Video(random.integers(0, 256, frames).astype(np.uint8), times, float(FRAMES))
        for _ in range(rows)
    ]
    params = jax.tree.map(_spread, jax.device_get(init_params(model, jax.random.key(0))))
    tokenizer = pad_vocabulary(tokenizer, model.text.vocab_size)
    return Tiny(config, mesh, model, tokenizer, layout, clip_layout, params, videos)


def _spread(leaf: np.ndarray) -> np.ndarray:
    """Larger weights than an initializer's, so that scores differ from uniform."""
    return leaf * 4 if leaf.ndim > 2 else leaf


def scripted(script: np.ndarray, keys: jax.Array) -> Callable:
    """What takes sampling.sample's place: row by row the script's tokens, with the model's scores.

    script: int32 [B, L]; keys: [B] each row's random key, by which it is known.
    """
    known, written = jax.random.key_data(keys), jnp.asarray(script)

    def sample(scores, keys, position, temperature, top_p):
        row = jnp.argmax((jax.random.key_data(keys)[:, None] == known).all(-1), axis=1)
        place = position[:, None]
        token = jnp.take_along_axis(written[row], place, axis=1, mode="clip")[:, 0]
        every = jax.nn.log_softmax(scores)
        return token, jnp.take_along_axis(every, token[:, None], axis=1)[:, 0]

    return sample
