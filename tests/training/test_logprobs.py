"""Log-probabilities in chunks: as of all scores at once by NumPy, and those scores never exist."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax.distributed import make_mesh
from medscope_jax.training.logprobs import Targets, score_targets
from tests.training import step_cases as cases

ROWS, COUNT, VOCABULARY = 4, 11, cases.MODEL.text.vocab_size
POSITION_BYTES = 4 * ROWS * VOCABULARY


@functools.cache
def inputs():
    """hidden [B, G, D], tokens [B, L], Targets of which some are masked."""
    random = np.random.default_rng(3)
    hidden = random.normal(0, 1, (ROWS, COUNT, 32)).astype(np.float32)
    tokens = random.integers(0, VOCABULARY, (ROWS, 20)).astype(np.int32)
    mask = np.arange(COUNT) < np.array([[COUNT], [3], [0], [7]])
    positions = np.where(mask, 1 + np.arange(COUNT), 0).astype(np.int32)
    return hidden, tokens, Targets(positions, mask)


def by_numpy(temperature):
    """Log-probabilities, entropies and the gradient of sum(weights * log-probabilities) in float64:
    d/d hidden = weights / temperature * (onehot - probabilities) @ head.T, and the table's alike.
    """
    hidden, tokens, (positions, mask) = inputs()
    table = cases.params()["text"]["embed_tokens"].astype(np.float64)
    scores = hidden.astype(np.float64) @ table.T / temperature
    scores -= scores.max(-1, keepdims=True)
    every = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    wanted = np.take_along_axis(tokens, positions, axis=1)
    chosen = np.take_along_axis(every, wanted[..., None], axis=-1)[..., 0]
    entropy = -(np.exp(every) * every).sum(-1)
    slope = (np.eye(VOCABULARY)[wanted] - np.exp(every)) / temperature
    slope *= np.where(mask, weights(), 0)[..., None]
    gradients = slope @ table, np.einsum("bgv,bgd->vd", slope, hidden)
    return np.where(mask, chosen, 0), np.where(mask, entropy, 0), gradients


def weights():
    return np.random.default_rng(4).normal(size=(ROWS, COUNT)).astype(np.float32)


def pulled_back(hidden, table, chunk_bytes, temperature):
    """((sum(weights * log-probabilities), (log-probabilities, entropies)), gradients)."""
    _, tokens, targets = inputs()
    text = {**cases.params()["text"]}

    def of(hidden, table):
        params = {"text": {**text, "embed_tokens": table}}
        found = score_targets(
            params, cases.MODEL, hidden, tokens, targets, temperature, chunk_bytes
        )
        return jnp.sum(found[0] * weights()), found

    return jax.value_and_grad(of, argnums=(0, 1), has_aux=True)(hidden, table)


# One position a chunk, chunks that divide the positions unevenly, one chunk.
@pytest.mark.parametrize("positions", [1, 2, 4, 10, 11])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunks_change_no_value_and_no_gradient(positions, temperature):
    table = cases.params()["text"]["embed_tokens"]
    run = functools.partial(
        pulled_back, chunk_bytes=positions * POSITION_BYTES, temperature=temperature
    )
    (_, (chosen, entropy)), gradients = jax.jit(run)(inputs()[0], table)
    wanted_chosen, wanted_entropy, wanted_gradients = by_numpy(temperature)
    np.testing.assert_allclose(chosen, wanted_chosen, atol=2e-5)
    np.testing.assert_allclose(entropy, wanted_entropy, atol=2e-5)
    for got, wanted in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


def sizes(jaxpr) -> set[int]:
    """Elements of every array that a jaxpr computes, those of its inner jaxprs included."""
    found = set()
    for equation in jaxpr.eqns:
        found |= {variable.aval.size for variable in equation.outvars}
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda p: isinstance(p, jax.extend.core.Jaxpr | jax.extend.core.ClosedJaxpr),
        ):
            if isinstance(inner, jax.extend.core.ClosedJaxpr):
                inner = inner.jaxpr
            if isinstance(inner, jax.extend.core.Jaxpr):
                found |= sizes(inner)
    return found


@pytest.mark.parametrize("positions", [2, COUNT])
def test_no_array_holds_the_scores_of_all_positions(positions):
    """Neither forward nor backward; without chunks the same look does find it."""
    table = cases.params()["text"]["embed_tokens"]
    run = functools.partial(pulled_back, chunk_bytes=positions * POSITION_BYTES, temperature=1.0)
    found = sizes(jax.make_jaxpr(run)(inputs()[0], table).jaxpr)
    assert positions * ROWS * VOCABULARY in found
    assert (ROWS * COUNT * VOCABULARY in found) == (positions == COUNT)
    assert positions == COUNT or max(found) < ROWS * COUNT * VOCABULARY


def test_a_mesh_takes_larger_chunks():
    """What counts is what a device holds: rows over data and fsdp, the vocabulary over tensor."""
    table = cases.params()["text"]["embed_tokens"]
    run = functools.partial(pulled_back, chunk_bytes=POSITION_BYTES, temperature=1.0)
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2}, jax.devices()[:8])
    assert 6 * ROWS * VOCABULARY not in sizes(jax.make_jaxpr(run)(inputs()[0], table).jaxpr)
    with jax.set_mesh(mesh):
        found = sizes(jax.make_jaxpr(run)(inputs()[0], table).jaxpr)
    assert 6 * ROWS * VOCABULARY in found  # 11 positions in two chunks of at most 8
