"""`medscope_jax.evaluate` of an imported tiny model that writes words, and few of them."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax import evaluate
from medscope_jax.dialogue import load_qwen_tokenizer
from medscope_jax.rollout import engine, make_rollout
from medscope_jax.training import pretrained


def patches(checkpoint):
    """(object, name, value) of what makes it so: turns of 24 tokens, each a word that is drawn by
    the question's own random key.

    Without, random weights write ids that stand for nothing, or always the same.
    """
    tokenizer = load_qwen_tokenizer(checkpoint, 1024)
    words = jnp.asarray(np.array([tokenizer.decode([i]).isalnum() for i in range(1024)]))

    def sample(scores, keys, position, temperature, top_p):
        def noise(key, position):
            return jax.random.gumbel(jax.random.fold_in(key, position), (words.size,))

        drawn = scores + jax.vmap(noise)(keys, position)
        chosen = jnp.argmax(jnp.where(words, drawn, -jnp.inf), axis=-1).astype(jnp.int32)
        return chosen, jnp.zeros(position.shape)

    program = functools.cache(functools.partial(make_rollout, sampler=sample))
    short = pretrained._ROLLOUT | {"turn_tokens": 24}
    return [(engine, "rollout_program", program), (pretrained, "_ROLLOUT", short)]


if __name__ == "__main__":
    for place, name, value in patches(sys.argv[sys.argv.index("--checkpoint") + 1]):
        setattr(place, name, value)
    evaluate.main(sys.argv[1:])
