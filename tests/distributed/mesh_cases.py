"""Steps of stages 1, 2 and 3, greedy and sampled rollouts: on any mesh, by any processes.

python -m tests.distributed.mesh_cases FILE.npz AXES    one of several processes; AXES is JSON
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medscope_jax.distributed import batch_shardings, make_mesh, state_shardings
from medscope_jax.distributed.multihost import (
    gather,
    is_first,
    join_processes,
    local_rows,
    put,
    put_batch,
    replicate,
)
from medscope_jax.models import init_params, model_config
from medscope_jax.rl import LossConfig
from medscope_jax.rollout import RolloutConfig, find_special_tokens, make_rollout, row_keys
from medscope_jax.training.packing import Packing
from medscope_jax.training.steps import ga_grpo_step, sft_step
from medscope_jax.training.train_state import init_state
from tests.rollout.rollout_cases import LAYOUT, make_prompts, make_world
from tests.training import step_cases as cases

BATCH = 16
# The eps is large since AdamW divides a gradient by its own size: where the true gradient is zero,
# rounding noise would become whole steps.
ADAMW = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, eps=1e-3, weight_decay=0.01))
COMMON = {"model": cases.MODEL, "optimizer": ADAMW, "grid": cases.GRID}


def new_state(mesh, train_vision: bool):
    params = jax.tree.map(jnp.asarray, cases.params())
    state = init_state(params, ADAMW, jax.random.key(5), train_vision)
    return put(state, state_shardings(state, mesh))


def outcome(after, metrics) -> dict[str, np.ndarray]:
    """Parameters and metrics as named arrays on the host."""
    leaves = {f"params{i}": leaf for i, leaf in enumerate(jax.tree.leaves(after.params))}
    return gather(leaves | metrics)


def warm_up(mesh) -> dict[str, np.ndarray]:
    """A step of stage 1: the vision tower trains too. Each process gives its own rows."""
    random = np.random.default_rng(7)
    batch = cases.batch(BATCH)
    batch["frames"] = random.integers(0, 256, (BATCH, cases.FRAMES, 28, 56, 3)).astype(np.uint8)
    return _supervised(mesh, batch, train_vision=True)


def cold_start(mesh) -> dict[str, np.ndarray]:
    """A step of stage 2: each row brings the visual tokens that it shows."""
    return _supervised(mesh, cases.sft_batch(BATCH), train_vision=False)


def _supervised(mesh, batch, train_vision):
    rows = local_rows(mesh, BATCH)
    batch = put_batch({name: array[rows] for name, array in batch.items()}, mesh, BATCH)
    step = jax.jit(functools.partial(sft_step, **COMMON, targets=10, train_vision=train_vision))
    with jax.set_mesh(mesh):
        return outcome(*step(new_state(mesh, train_vision), batch))


def ga_grpo(mesh) -> dict[str, np.ndarray]:
    """A policy step in two micro batches, with a KL penalty."""
    random = np.random.default_rng(7)
    batch = cases.batch(BATCH)
    old = random.normal(-4, 0.5, batch["role"].shape)
    arrays = (cases.episode(batch, old), random.normal(size=BATCH).astype("f"), cases.bank(BATCH))
    arrays = put(arrays, batch_shardings(arrays, mesh))
    reference = jax.tree.map(lambda x: jnp.asarray(x * 0.9), cases.params())
    reference = put(reference, state_shardings(reference, mesh))
    step = functools.partial(
        ga_grpo_step,
        **COMMON,
        size=Packing(group=1, prompt=16, rest=cases.LENGTH),
        targets=10,
        loss=LossConfig(0.2, 0.3, 2.0),
        temperature=0.7,
        kl_coefficient=0.1,
        micro_batch=8,
    )
    with jax.set_mesh(mesh):
        return outcome(*jax.jit(step)(new_state(mesh, False), *arrays, reference))


def rollout_program(mesh, greedy: bool):
    """The compiled rollout of eight questions, two rollouts each, and its arguments."""
    tokenizer, model, _, bank, _, _ = world = make_world(layers=1)
    text = {"vocab_size": model.text.vocab_size, "hidden_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    model = model_config({"text": text | {"mrope_section": (2, 1, 1)}})
    params = init_params(model, jax.random.key(0))
    params = jax.tree.map(lambda x: x * 4 if x.ndim > 2 else x, params)
    bank = jax.tree.map(lambda leaf: leaf[jnp.arange(8) % 4], bank)
    once = make_prompts(world, [0, 1, 2, 3])
    prompts = once.replace(
        tokens=jnp.tile(once.tokens, (2, 1)),
        visual_index=jnp.tile(once.visual_index, (2, 1)),
        length=jnp.tile(once.length, 2),
        video=jnp.arange(8, dtype=jnp.int32),
        keys=row_keys(jax.random.key(7), jnp.arange(16)).reshape(8, 2),
    )
    config = RolloutConfig(2, 24, 40, 3, *((0.0, 1.0) if greedy else (0.7, 0.9)))
    program = make_rollout(mesh, model, LAYOUT, config)
    return program, (
        put(params, state_shardings(params, mesh)),
        put(bank, batch_shardings(bank, mesh)),
        put(prompts, batch_shardings(prompts, mesh)),
        replicate(find_special_tokens(tokenizer, LAYOUT), mesh),
    )


def rollouts(mesh, greedy: bool) -> dict[str, np.ndarray]:
    """What was written, seen and called in the rollouts."""
    program, arguments = rollout_program(mesh, greedy)
    episode = gather(program(*arguments)[0])
    arrays = {
        n: getattr(episode, n) for n in ("tokens", "visual_index", "role", "positions", "logprobs")
    }
    return arrays | episode.calls._asdict()


KINDS = {
    "warm_up": warm_up,
    "cold_start": cold_start,
    "ga_grpo": ga_grpo,
    "greedy": functools.partial(rollouts, greedy=True),
    "sampled": functools.partial(rollouts, greedy=False),
}


def one_device():
    """A mesh of the first device alone."""
    return make_mesh({}, jax.devices()[:1])


def largest_difference(kind: str, found: dict, wanted: dict) -> float:
    """Of parameters, losses and log-probabilities; all whole numbers must be equal."""
    assert found.keys() == wanted.keys()
    largest = 0.0
    for name, want in wanted.items():
        if not np.issubdtype(want.dtype, np.floating):
            np.testing.assert_array_equal(found[name], want, err_msg=f"{kind}: {name}")
            continue
        assert found[name].shape == want.shape
        largest = max(largest, float(np.max(np.abs(found[name] - want), initial=0.0)))
    return largest


if __name__ == "__main__":
    join_processes(False)
    mesh = make_mesh(json.loads(sys.argv[2]))
    found = {f"{k}/{n}": a for k, make in KINDS.items() for n, a in make(mesh).items()}
    if is_first():
        np.savez(sys.argv[1], **found)
