"""Recomputing layers in the backward pass: the same numbers, and as little of it as was asked."""

import dataclasses
import functools

import jax
import jax.extend
import numpy as np
import pytest

from medscope_jax import models
from medscope_jax.errors import UserError
from tests.training import step_cases as cases

POLICIES = ("none", "dots", "attention", "full")


def gradient(policy: str):
    """Function of the decoder's parameters: gradient of the sum of hidden states' squares."""
    keys = {"remat": False} if policy == "none" else {"remat": True, "remat_policy": policy}
    # More layers than are unrolled, as in a model that needs this.
    text = dataclasses.replace(cases.MODEL.text, num_hidden_layers=5)
    model = dataclasses.replace(cases.MODEL, text=text, **keys)
    random = np.random.default_rng(0)
    embeddings = random.normal(size=(2, 12, 32)).astype(np.float32)
    positions = np.tile(np.arange(12, dtype=np.int32), (3, 2, 1))
    shapes = models.param_shapes(model)["text"]
    text = jax.tree.map(lambda leaf: random.normal(0, 0.3, leaf.shape).astype("f"), shapes)

    def loss(text):
        valid = np.ones((2, 12), bool)
        hidden = models.forward({"text": text}, model, embeddings, positions, valid)
        return (hidden**2).sum()

    return jax.grad(loss), text


@functools.cache
def computed(policy: str):
    function, text = gradient(policy)
    return jax.jit(function)(text)


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_no_policy_changes_the_gradient(policy):
    def check(found, wanted):
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max() + 1e-6)

    jax.tree.map(check, computed(policy), computed("none"))


def products(jaxpr) -> int:
    """Matrix products in a jaxpr and its inner jaxprs."""
    inner = jax.extend.core.Jaxpr | jax.extend.core.ClosedJaxpr
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name == "dot_general"
        values = list(equation.params.values())
        for value in jax.tree.leaves(values, is_leaf=lambda v: isinstance(v, inner)):
            if isinstance(value, inner):
                count += products(getattr(value, "jaxpr", value))
    return count


def test_the_more_is_kept_the_less_is_computed_again():
    counts = []
    for policy in POLICIES:
        function, text = gradient(policy)
        counts.append(products(jax.make_jaxpr(function)(text).jaxpr))
    assert counts == sorted(set(counts)), dict(zip(POLICIES, counts, strict=True))


def test_an_unknown_policy_is_refused():
    with pytest.raises(UserError, match="remat_policy is 'most'; choose one of full, attention"):
        models.model_config({"remat": True, "remat_policy": "most"})
