"""Loops without a fixed length, named as those of rollout/ are."""

import jax


def agent_loop(x, name="agent_loop", **steps):
    """A loop that holds a loop for each step, of the step's name; x: an array of floats."""

    def body(x):
        for number, (kind, step) in enumerate(steps.items()):
            with jax.named_scope(kind):
                x = jax.lax.while_loop(lambda x, n=number: x.sum() < n, step, x)
        return x

    with jax.named_scope(name):
        return jax.lax.while_loop(lambda x: x.sum() < 9, body, x)


def read(x, piece, name="chunked_prefill"):
    """A loop that reads as many pieces as x says."""
    with jax.named_scope(name):
        return jax.lax.fori_loop(0, x.ravel()[0].astype(int), lambda _, x: piece(x), x)
