"""Weights that talk: random ones whose turns keep to the protocol, tool calls and all.

A model with random weights writes no tool call, so its rollouts would be one turn of noise. Here
the head knows which words may follow a word (a small graph of the protocol's), and the random
layers choose among these: whether to look or to answer, with which tool, from when to when. So rows
differ in turns and length, every token depends on all that the row has seen, and what they cost is
that of a model of the same shape that has learned to use its tools. What they say means nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np

from medscope_jax.dialogue import Tokenizer, protocol
from medscope_jax.models import ModelConfig, init_params

WORDS = ("so", "left")  # single tokens that a tokenizer for chatter must have


def chatter(
    tokenizer: Tokenizer,
    model: ModelConfig,
    seed: int,
    sharpness: float = 4.0,
    late: int = 10,
    faults: bool = True,
    answers: bool = True,
) -> dict:
    """Parameters of such a model, whose embeddings must not be tied.

    Args:
        sharpness: scales the layers' random matrices: how much they have to say.
        late: windows begin within the first ten seconds and end within ten from this one on.
        faults: whether calls may lack an argument or have one too many.
        answers: False for a model that calls in every turn, until it may not any more.
    """
    params = init_params(model, jax.random.key(seed))
    params = jax.tree.map(lambda x: x * sharpness if x.ndim > 2 else x, params)
    rng = np.random.default_rng(seed)
    size, width = model.text.vocab_size, model.text.hidden_size
    embedding = rng.normal(size=(size, width))
    starts, ends, moments = (
        [f"{t}.0" for t in range(first, first + 10)] for first in (0, late, late + 10)
    )
    # Ticks that share a direction, by the first of them.
    common = {starts[0]: starts, ends[0]: ends} | ({} if faults else {moments[0]: moments})
    for first, ticks in common.items():
        common[first] = rng.normal(size=width)
        own = 0.7 * rng.normal(size=(len(ticks), width))
        embedding[[tokenizer.tag(text) for text in ticks]] = common[first] + own
    crop, middle, frame, end = protocol.CALL_PHRASES
    follows = {
        "assistant\n": ["<think>"],
        "<think>": ["so"],
        "so": ["</think>"],
        "</think>": ["<tool_call>", "<answer>"] if answers else ["<tool_call>"],
        "<tool_call>": [crop, frame] if answers else [crop],
        crop: starts,
        middle: ends,
        frame: starts if faults else moments,
        starts[0]: [middle, end] if faults else [middle],
        ends[0]: [end],
        **({} if faults else {moments[0]: [end]}),
        end: ["</tool_call>"],
        "<answer>": ["left"],
        "left": ["</answer>"],
        "</answer>": [protocol.IM_END],
    }
    rows = [common.get(text, embedding[tokenizer.tag(text)]) for text in follows]
    head = np.zeros((width, size))
    for row, successors in zip(rows, follows.values(), strict=True):
        for successor in successors:
            head[:, tokenizer.tag(successor)] += 3 * row / np.linalg.norm(row)
    free, _ = np.linalg.qr(np.stack(rows, axis=1))
    noise = rng.normal(size=head.shape)
    head += np.where(head.any(axis=0), noise - free @ (free.T @ noise), 0)
    text = params["text"] | {
        "embed_tokens": jnp.asarray(embedding, jnp.float32),
        "lm_head": jnp.asarray(head, jnp.float32),
    }
    return params | {"text": text}
