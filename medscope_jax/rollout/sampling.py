"""Sampling the next token of each row, each from a key of its own."""

import jax
import jax.numpy as jnp


def nucleus_cutoff(probabilities: jax.Array, top_p: float) -> jax.Array:
    """The smallest probability that top-p keeps, [B, 1], without sorting the vocabulary.

    The kept set is the largest probabilities whose sum first reaches top_p. Bisection on the cut:
    30 halvings are finer than float32 separates probabilities that matter; a sort of [B, V] is
    slow on CPUs and TPUs alike.
    """

    def halve(_, bounds):
        low, high = bounds  # mass(low) >= top_p > mass(high)
        middle = (low + high) / 2
        mass = jnp.sum(jnp.where(probabilities >= middle, probabilities, 0), -1, keepdims=True)
        return jnp.where(mass >= top_p, middle, low), jnp.where(mass >= top_p, high, middle)

    # Derived from the probabilities (not fresh zeros), so that the carry is sharded as they are.
    low = jnp.min(probabilities, -1, keepdims=True) * 0
    high = jnp.max(probabilities, -1, keepdims=True) * 2
    return jax.lax.fori_loop(0, 30, halve, (low, high))[0]


def sample(
    logits: jax.Array, keys: jax.Array, position: jax.Array, temperature: float, top_p: float
) -> tuple[jax.Array, jax.Array]:
    """Draws one token a row.

    Args:
        logits: [B, V] float32.
        keys: [B] random keys, one a row; folded with `position`, so that a row's draws depend on
            nothing but its key and its own positions, whatever else is in the batch.
        position: [B] int32 position that the token will fill.
        temperature: 0 takes the most likely token.
        top_p: keep the most likely tokens that hold this much probability; 1 keeps all.

    Returns:
        (tokens [B] int32, logprobs [B]): the log-probability is that of the whole distribution at
        this temperature (at 1 where it is 0), which is what the policy gradient recomputes.
    """
    scaled = logits / temperature if temperature > 0 else logits
    logprobs = jax.nn.log_softmax(scaled)
    if temperature == 0:
        tokens = jnp.argmax(logits, -1).astype(jnp.int32)
    else:
        kept = logprobs
        if top_p < 1:
            probabilities = jnp.exp(logprobs)
            cutoff = nucleus_cutoff(probabilities, top_p)
            kept = jnp.where(probabilities >= cutoff, logprobs, -jnp.inf)
        draw = jax.vmap(
            lambda key, at, row: jax.random.categorical(jax.random.fold_in(key, at), row)
        )
        tokens = draw(keys, position, kept).astype(jnp.int32)
    return tokens, jnp.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]


def row_keys(key: jax.Array, ids: jax.Array) -> jax.Array:
    """One random key a row [B], from the run's key and each row's own number, not its place."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(ids)
