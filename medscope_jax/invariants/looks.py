"""Each invariant as a figure with its bound.

What a mesh computes is held against one device of this process, and a bank against frames that are
encoded one by one. In float32 but for the kernels, which there are for bfloat16 alone.
"""

import contextlib
import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from medscope_jax.bank import flat_tokens
from medscope_jax.data.batches import make_batches
from medscope_jax.dialogue import Role
from medscope_jax.distributed import make_mesh, on_mesh, param_shardings
from medscope_jax.distributed.multihost import (
    broadcast,
    first_process_first,
    gather,
    local_rows,
    put,
    put_batch,
)
from medscope_jax.files import is_there, make_folder, remove_folder
from medscope_jax.invariants.rolled import Found, Rolled, Skipped
from medscope_jax.invariants.tiny import Tiny
from medscope_jax.models import Cache, Prefix, encode_frames, for_mesh, take_rows
from medscope_jax.models.attention.dense import Packed
from medscope_jax.models.attention.dispatch import attend_cache, attend_self
from medscope_jax.rollout import find_special_tokens
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.make_steps import make_sft_step
from medscope_jax.training.metrics_log import MetricsWriter
from medscope_jax.training.run import Run
from medscope_jax.training.stage import run_stage
from medscope_jax.training.train_state import init_state, optimizer_of, shardings_of

_STEPS = 3  # of training on the mesh and on one device


def bank_is_reencoded(rolled: Rolled) -> Found:
    """Rollouts from the bank against a pass over the frames that they showed, encoded one by one.

    A frame that none of them showed is no number there: nothing may depend on it.
    """
    tiny, episode = rolled.tiny, rolled.episode
    shape = np.shape(rolled.bank.tokens)
    fresh = np.full(shape, np.nan, np.float32)
    encode = jax.jit(encode_frames, static_argnums=1)
    for video, frames in enumerate(tiny.videos):
        index = episode.visual_index[2 * video : 2 * video + 2]
        for frame in np.unique(index[index >= 0] // shape[2]):
            one = encode(tiny.params, tiny.model, frames.frames[frame : frame + 1])
            fresh[video, frame] = np.asarray(one)[0]
    gap = rolled.gap(fresh.reshape(-1, shape[-1]))
    return Found(gap, 1e-3, "largest difference of log-probabilities")


def rollout_is_forward(rolled: Rolled) -> Found:
    """Log-probabilities that were recorded while sampling against one pass over the episodes."""
    gap = rolled.gap(np.asarray(flat_tokens(rolled.bank)))
    return Found(gap, 1e-3, "largest difference of log-probabilities")


def sharding_changes_nothing(rolled: Rolled) -> Found | Skipped:
    """Three steps of stage 1, tower and decoder, on the mesh against one device."""
    tiny = rolled.tiny
    if tiny.mesh.size == 1:
        return Skipped("one device: nothing is split")
    here = make_mesh({}, jax.local_devices()[:1])
    split, one = _losses(tiny, tiny.mesh), _losses(tiny, here)
    gap = np.max(np.abs(split - one) / np.abs(one))
    return Found(float(gap), 1e-3, "largest relative difference of losses and gradient norms")


def _losses(tiny: Tiny, mesh: Mesh) -> np.ndarray:
    """[_STEPS, 2]: loss and gradient norm of each step."""
    state, update = _stage(tiny, mesh)
    own, found = local_rows(mesh, len(tiny.videos)), []
    batch = {name: array[own] for name, array in tiny.clips().items()}
    for _ in range(_STEPS):
        state, metrics = update(state, batch)
        found.append(gather([metrics["loss"], metrics["gradient_norm"]]))
    return np.array(found, np.float64)


def _stage(tiny: Tiny, mesh: Mesh):
    """Stage 1's first state on a mesh, and its update: (state, rows of the host) -> ..."""
    config, rows = tiny.config, len(tiny.videos)
    optimizer = optimizer_of(config, "warm_up")
    params = put(tiny.params, param_shardings(tiny.params, mesh))
    create = functools.partial(init_state, optimizer=optimizer, train_vision=True)
    place = shardings_of(config, tiny.model, mesh, "warm_up")
    state = jax.jit(lambda p, k: create(p, key=k), out_shardings=place)(params, jax.random.key(1))
    most = int((tiny.clips()["role"] == Role.GENERATED).sum(axis=1).max())
    step = make_sft_step(config, "warm_up", tiny.model, mesh, tiny.clip_layout, (most,))
    compiled = on_mesh(mesh, step)
    return state, lambda state, batch: compiled(state, put_batch(batch, mesh, rows))


def kernels_are_dense(rolled: Rolled) -> Found | Skipped:
    """The devices' attention kernels against dense attention, of bfloat16: causal rows and packed
    ones, with their gradients, and rows of a cache that begin with one prompt."""
    tiny, mesh = rolled.tiny, rolled.tiny.mesh
    width = 8 * 128
    text = dataclasses.replace(tiny.model.text, hidden_size=width, mrope_section=(32, 16, 16))
    vision = dataclasses.replace(tiny.model.vision, out_hidden_size=width)
    model = dataclasses.replace(tiny.model, text=text, vision=vision, dtype="bfloat16")
    kernel = for_mesh(model, mesh)
    if kernel.attention == "xla":
        return Skipped(f"no kernel for {mesh.devices.flat[0].device_kind}")
    rows, length = len(tiny.videos), 256 * mesh.shape["context"]
    random = np.random.default_rng(0)
    inputs = [random.normal(size=(rows, length, 8, 128)) for _ in range(4)]
    inputs = [x[local_rows(mesh, rows)].astype(jnp.bfloat16) for x in inputs]
    inputs = put_batch(inputs, mesh, rows)
    prompt, group = length // 2, 2
    rest = jnp.ones((rows, group, length // (2 * group)), bool)
    kinds = (jnp.ones((rows, length), bool), Packed(jnp.ones((rows, prompt), bool), rest))
    figures = []
    for valid in kinds:
        found, wanted = (
            _attended(on_mesh(mesh, jax.jit(_pull(one, valid))), inputs) for one in (kernel, model)
        )
        figures += [_error(*pair) for pair in zip(found, wanted, strict=True)]
    found, wanted = (
        _attended(on_mesh(mesh, jax.jit(_cached(one))), inputs[:3]) for one in (kernel, model)
    )
    figures.append(_error(found[0], wanted[0]))
    return Found(max(figures), 0.02, "largest relative error of outputs and gradients")


def _pull(model, valid) -> Callable:
    """(query, key, value, weights) -> attention's outputs and gradients of their weighted sum."""

    def of(query, key, value, weights):
        def weighted(query, key, value):
            out = attend_self(query, key, value, valid, model).astype(jnp.float32)
            return jnp.sum(out * weights), out

        run = jax.value_and_grad(weighted, argnums=(0, 1, 2), has_aux=True)
        (_, out), gradients = run(query, key, value)
        return (out, *gradients)

    return of


def _cached(model) -> Callable:
    """(query, key, value) -> attention of a few inputs to a cache: all rows begin with row 0."""

    def of(query, key, value):
        own = Cache(*(x.transpose(0, 2, 1, 3)[None] for x in (key, value)))
        rows, inputs = len(query), 40
        begun = take_rows(own, jnp.zeros(1, jnp.int32))
        length = jnp.full((rows,), 200)
        cache = own.replace(prefix=Prefix(begun, jnp.zeros_like(length), length, rows))
        start, count = length + 7 * jnp.arange(rows), jnp.full((rows,), inputs)
        return (attend_cache(query[:, :inputs], cache, 0, start, count, model),)

    return of


def _attended(program: Callable, inputs: list) -> list[np.ndarray]:
    return [np.asarray(x, np.float32) for x in gather(program(*inputs))]


def _error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Root mean square of the difference, as a share of what is wanted."""
    return float(np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)))


class _Killed(Exception):
    """Ends a stage in the middle."""


def resume_is_exact(rolled: Rolled) -> Found | Skipped:
    """A stage that is killed between two checkpoints and started again, against one that is not:
    parameters that differ in any bit."""
    if jax.process_count() > 1 and rolled.scratch is None:
        return Skipped("the hosts need a folder that all of them see: --scratch DIR")
    with scratch_folder(rolled.scratch) as folder:
        whole = _train(rolled.tiny, folder / "whole", None)
        _train(rolled.tiny, folder / "killed", 3)
        again = _train(rolled.tiny, folder / "killed", None)
    pairs = zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True)
    return Found(float(sum((a != b).sum() for a, b in pairs)), 0.0, "parameters that differ")


@contextlib.contextmanager
def scratch_folder(scratch: Path | None) -> Iterator[Path]:
    """A folder of its own in `scratch`, or a temporary one of this machine; gone afterwards."""
    if scratch is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    folder = scratch / f"medscope_check_{broadcast(np.array(os.getpid()))}"
    with first_process_first("scratch"):
        make_folder(folder)
    try:
        yield folder
    finally:
        with first_process_first("scratch again"):
            if is_there(folder):
                remove_folder(folder)


def _train(tiny: Tiny, folder: Path, kill_at: int | None) -> dict | None:
    """Stage 1 in a folder; the parameters that it ends with, None where it is killed."""
    mesh, rows = tiny.mesh, tiny.clips()
    make_folder(folder)
    tokens = find_special_tokens(tiny.tokenizer, tiny.layout)
    layouts = tiny.layout, tiny.clip_layout
    run = Run(tiny.config, folder, mesh, tiny.tokenizer, tokens, tiny.model, *layouts)
    _, update = _stage(tiny, mesh)
    taken = 0

    def counted(state, batch):
        nonlocal taken
        taken += 1
        if taken == kill_at:
            raise _Killed
        return update(state, batch)

    def prepare(params):
        count = len(tiny.videos)

        def example(row: int) -> dict:
            return {name: array[row] for name, array in rows.items()}

        own = local_rows(mesh, count)
        return make_batches(range(count), example, count, seed=1, rows=own), counted

    start = put(tiny.params, param_shardings(tiny.params, mesh))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        try:
            ended = run_stage(
                run, "warm_up", lambda: start, prepare, checkpoints, MetricsWriter(None)
            )
        except _Killed:
            return None
    return gather(ended)


# Names as in BUILD.md, each with what to do where it does not hold.
CHECKS: dict[str, tuple[Callable[[Rolled], Found | Skipped], str]] = {
    "bank = re-encode": (
        bank_is_reencoded,
        "a frame's tokens depend on what is encoded beside it: unset JAX_DEFAULT_MATMUL_PRECISION "
        "and XLA_FLAGS, and update jax; until then no bank can be trusted here",
    ),
    "rollout = forward": (
        rollout_is_forward,
        "what is sampled is scored otherwise in training: unset JAX_DEFAULT_MATMUL_PRECISION and "
        "XLA_FLAGS, and update jax; until then stage 3 would not be on-policy",
    ),
    "sharding changes nothing": (
        sharding_changes_nothing,
        "try another mesh (--config.mesh.context=1, then tensor=1) to see which axis it is, and "
        "check the devices (a faulty chip or link computes otherwise every time)",
    ),
    "kernels = dense": (
        kernels_are_dense,
        "train in float32 (--config.model.dtype=float32), which has no kernels, or update jax and "
        "its cuDNN or libtpu",
    ),
    "resume is exact": (
        resume_is_exact,
        "run it again: if figures differ from one run to the next, the devices are not "
        "deterministic (XLA_FLAGS=--xla_gpu_deterministic_ops=true); else check the disk of TMPDIR",
    ),
}
