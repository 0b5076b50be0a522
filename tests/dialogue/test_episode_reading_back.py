"""Rows are read back as text: as a plain reading, position by position, has it."""

import dataclasses

import numpy as np
import pytest

from medscope_jax.dialogue import Role, generated_text, turn_texts

TAGS = ("<|im_end|>", "<|endoftext|>", "<|image_pad|>", "</tool_call>")


def plain_turns(tokens, role, tokenizer):
    """turn_texts position by position."""
    turns, turn = [], []
    for token, kind in zip(tokens.tolist(), role.tolist(), strict=True):
        if kind == Role.GENERATED and token not in tokenizer.ends:
            turn.append(tokenizer.pieces[token])
        elif turn:
            turns.append(turn)
            turn = []
    turns += [turn] if turn else []
    return [b"".join(turn).decode(errors="replace") for turn in turns]


def plain_text(tokens, role, tokenizer):
    """generated_text position by position."""
    spoken = [
        token
        for token, kind in zip(tokens.tolist(), role.tolist(), strict=True)
        if kind in (Role.GENERATED, Role.OBSERVATION) and token != tokenizer.tag("<|image_pad|>")
    ]
    if spoken and spoken[-1] in tokenizer.ends:
        spoken = spoken[:-1]
    return b"".join(tokenizer.pieces[token] for token in spoken).decode(errors="replace")


@pytest.mark.parametrize("seed", range(60))
def test_reading_back_equals_a_plain_reading(tokenizer, seed):
    """On rows that no rollout writes, too: stray tags, turns without words, broken characters."""
    if seed % 2:
        ends = (*tokenizer.ends, tokenizer.tag("<|endoftext|>"))
        tokenizer = dataclasses.replace(tokenizer, ends=ends)
    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, 80))
    common = [tokenizer.tag(tag) for tag in TAGS]
    ids = np.array([*range(tokenizer.vocab_size), *common * 100])
    tokens = rng.choice(ids, length).astype(np.int32)
    role = np.repeat(rng.integers(0, 4, length), rng.integers(1, 9, length))[:length]
    role = role.astype(np.int32)
    assert turn_texts(tokens, role, tokenizer) == plain_turns(tokens, role, tokenizer)
    assert generated_text(tokens, role, tokenizer) == plain_text(tokens, role, tokenizer)
