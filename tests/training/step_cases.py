"""A tiny model and a batch of conversations that the tests of the training steps share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax import models
from medscope_jax.bank import flat_index
from medscope_jax.dialogue import CallRecord, Episode, Role

MODEL = models.ModelConfig(
    vision=models.VisionConfig(
        depth=1, hidden_size=32, intermediate_size=48, num_heads=2, out_hidden_size=32
    ),
    text=models.TextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        mrope_section=(4, 2, 2),
    ),
)
GRID = (1, 2)
LENGTH, FRAMES = 32, 4  # positions of a row, frames of a video


@functools.cache
def params():
    """Weights larger than an initializer's, so that scores differ from uniform; on the host."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: models.init_params(MODEL, key), jax.random.key(0))
    return jax.tree.map(lambda leaf: random.normal(0, 0.3, leaf.shape).astype("f"), shapes)


def conversation(random, turns: int, last: Role):
    """(tokens, visual_index, role) of prompt, then turns with an observation after each but the
    last.

    last: GENERATED ends with an answer, OBSERVATION
    with what a tool returned, PROMPT has no turn at all.
    """
    parts = [Role.PROMPT]
    for turn in range(turns):
        parts.append(Role.GENERATED)
        if turn + 1 < turns or last == Role.OBSERVATION:
            parts.append(Role.OBSERVATION)
    tokens, visual_index, role = [], [], []
    for part in parts:
        length = random.integers(2, 5)
        tokens += list(random.integers(0, 64, length))
        visual_index += [-1] * length
        if part != Role.GENERATED:
            shown = 2 * random.integers(FRAMES)
            tokens += [0, 0, 7]
            visual_index += [shown, shown + 1, -1]
        role += [part] * (len(tokens) - len(role))
    return tokens, visual_index, role


def batch(rows: int, length: int = LENGTH, seed: int = 1) -> dict:
    """tokens, visual_index, role [rows, length]: turns and lengths differ, some rows have no turn.

    Padding positions hold arbitrary tokens.
    """
    random = np.random.default_rng(seed)
    arrays = {
        "tokens": random.integers(0, 64, (rows, length)).astype(np.int32),
        "visual_index": np.full((rows, length), -1, np.int32),
        "role": np.zeros((rows, length), np.int32),
    }
    kinds = [(1, Role.GENERATED), (2, Role.GENERATED), (2, Role.OBSERVATION), (0, Role.PROMPT)]
    for row in range(rows):
        values = conversation(random, *kinds[row % 4])
        assert len(values[0]) <= length
        for name, value in zip(arrays, values, strict=True):
            arrays[name][row, : len(value)] = value
    return arrays


def bank(rows: int) -> np.ndarray:
    """Visual tokens [rows * FRAMES * 2, D] of `rows` videos."""
    return np.random.default_rng(2).normal(0, 1, (rows * FRAMES * 2, 32)).astype(np.float32)


def flat(batch: dict, group: int = 1) -> dict:
    """tokens, index, role of a batch: what each position shows of bank(rows / group).

    group: rows, one after the other, that see the same video.
    """
    video = np.arange(len(batch["tokens"])) // group
    index = flat_index(video, batch["visual_index"], FRAMES * 2)
    return {"tokens": batch["tokens"], "index": np.asarray(index), "role": batch["role"]}


def sft_batch(rows: int) -> dict:
    """batch and bank as stages 1 and 2 take them: each row brings what it shows, [rows, M, D]."""
    return {**batch(rows), "visual": bank(rows).reshape(rows, FRAMES * 2, 32)}


def chosen_logprobs(weights, tokens, index, role, visual, temperature=1.0):
    """Log-probability [B, L] of every token given those before it, from scores of all positions.

    What the steps compute for generated tokens only, without their packing; 0 in position 0.
    """
    valid = role != Role.PADDING
    positions, _ = models.mrope_positions(index, valid, GRID, jnp.zeros(tokens.shape[0], jnp.int32))
    inputs = models.embed(weights, MODEL, tokens, index, visual)
    scores = models.logits(weights, MODEL, models.forward(weights, MODEL, inputs, positions, valid))
    every = jax.nn.log_softmax(scores[:, :-1] / temperature)
    found = jnp.take_along_axis(every, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.pad(found, [(0, 0), (1, 0)]), scores


@functools.partial(jax.jit, static_argnames="temperature")
def pull_back(weights, batch, visual, cotangent, temperature=1.0):
    """(log-probabilities [B, L], scores [B, L, V], gradient of sum(cotangent * log-probabilities)
    in the language model's parameters) of a `flat` batch."""

    def of(text):
        whole = {**weights, "text": text}
        return chosen_logprobs(whole, **batch, visual=visual, temperature=temperature)

    values, pull, scores = jax.vjp(of, weights["text"], has_aux=True)
    return values, scores, pull(cotangent)[0]


def episode(arrays: dict, logprobs: np.ndarray) -> Episode:
    """The Episode of a batch whose tokens were sampled with these log-probabilities [B, L]."""
    rows, length = logprobs.shape
    empty = np.full((rows, 2), -1, np.int32)
    return Episode(
        tokens=arrays["tokens"],
        visual_index=arrays["visual_index"],
        role=arrays["role"],
        positions=np.zeros((3, rows, length), np.int32),
        logprobs=np.where(arrays["role"] == Role.GENERATED, logprobs, 0).astype(np.float32),
        calls=CallRecord(empty, empty.astype(np.float32), empty.astype(np.float32), empty, empty),
    )
