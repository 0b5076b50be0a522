"""Our side of benchmarks/model.py: python -m benchmarks.model_ours FOLDER REPEATS"""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.model_job import HEIGHT, LEARNING_RATE, NEW_TOKENS, SIZES, WIDTH, read_job
from benchmarks.model_side import run_side
from medscope_jax.bank import flat_index
from medscope_jax.dialogue import Role
from medscope_jax.models import (
    embed,
    encode_frames,
    forward_cached,
    frame_grid,
    import_hf,
    init_cache,
    logits,
    model_config,
    mrope_positions,
)
from medscope_jax.training.steps import sft_step
from medscope_jax.training.train_state import init_state, make_optimizer


def prefill(params, tokens, visual_index, frames, *, model, grid, room):
    """(scores of the last slot [B, V], cache, next position [B]) of whole conversations."""
    batch, length = tokens.shape
    visual = encode_frames(params, model, frames.reshape(-1, *frames.shape[2:]))
    index = flat_index(jnp.arange(batch), visual_index, frames.shape[1] * visual.shape[1])
    inputs = embed(params, model, tokens, index, visual.reshape(-1, visual.shape[-1]))
    zeros = jnp.zeros((batch,), jnp.int32)
    positions, following = mrope_positions(visual_index, jnp.ones(tokens.shape, bool), grid, zeros)
    cache = init_cache(model, batch, length + room, per_layer=model.text.num_hidden_layers <= 8)
    hidden, cache = forward_cached(
        params, model, inputs, positions, cache, zeros, jnp.full((batch,), length, jnp.int32)
    )
    return logits(params, model, hidden[:, -1]), cache, following


def generate(params, tokens, visual_index, frames, *, model, grid):
    """NEW_TOKENS greedy tokens [B, NEW_TOKENS] after the conversations."""
    scores, cache, position = prefill(
        params, tokens, visual_index, frames, model=model, grid=grid, room=NEW_TOKENS
    )
    batch, length = tokens.shape
    nothing = jnp.zeros((0, model.text.hidden_size))

    def step(carry, index):
        scores, cache = carry
        token = jnp.argmax(scores, axis=-1).astype(jnp.int32)
        inputs = embed(params, model, token[:, None], jnp.full((batch, 1), -1), nothing)
        places = jnp.broadcast_to((position + index)[:, None], (3, batch, 1))
        start = jnp.full((batch,), length, jnp.int32) + index
        ones = jnp.ones((batch,), jnp.int32)
        hidden, cache = forward_cached(params, model, inputs, places, cache, start, ones)
        return (logits(params, model, hidden[:, 0]), cache), token

    _, made = jax.lax.scan(step, (scores, cache), jnp.arange(NEW_TOKENS))
    return made.T


def main(folder: Path, repeats: int) -> None:
    """Measures the three jobs and writes ours.json and ours.npz."""
    facts, weights, batch = read_job(folder)
    model = model_config(SIZES[facts["size"]]["model"])
    grid = frame_grid(model, HEIGHT, WIDTH)
    params = import_hf(weights, model)
    arrays = [jnp.asarray(batch[name]) for name in ("tokens", "visual_index", "frames")]

    first = jax.jit(lambda *a: prefill(*a, model=model, grid=grid, room=0)[0])
    sample = jax.jit(functools.partial(generate, model=model, grid=grid))
    stage = {
        "learning_rate": LEARNING_RATE,
        "warmup": 0.0,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "final_scale": 1.0,
    }
    optimizer = make_optimizer(stage, 1000)
    # The reference is trained on the words only too; slot 0 has nothing before it.
    words = np.asarray(batch["visual_index"]) < 0
    role = np.where(words, int(Role.GENERATED), int(Role.PROMPT)).astype(np.int32)
    role[:, 0] = int(Role.PROMPT)
    step = functools.partial(
        sft_step,
        model=model,
        optimizer=optimizer,
        grid=grid,
        targets=int((role == Role.GENERATED).sum(axis=1).max()),
        train_vision=True,
    )
    step = jax.jit(step, donate_argnums=0)
    state = init_state(jax.tree.map(jnp.copy, params), optimizer, jax.random.key(0), True)
    inputs = {"tokens": arrays[0], "visual_index": arrays[1], "frames": arrays[2]}
    inputs["role"] = jnp.asarray(role)
    losses = []

    def train():
        nonlocal state
        state, metrics = step(state, inputs)
        losses.append(float(jax.block_until_ready(metrics)["loss"]))

    outputs = {}

    def keep(name, function):
        def once():
            outputs[name] = np.asarray(jax.block_until_ready(function(params, *arrays)))

        return once

    jobs = {"prefill": keep("prefill", first), "sample": keep("sample", sample), "train": train}
    run_side(folder, "ours", jobs, repeats, lambda: {**outputs, "losses": np.array(losses)})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
