"""The tokenizer that this room's tests share."""

import pytest

from medscope_jax.dialogue import train_tokenizer


@pytest.fixture(scope="session")
def corpus():
    texts = [
        "When does the capsule tear? It is near 12.0, at the left edge.",
        "<think>The window shows it.</think><answer>[30.0, 42.0]</answer>",
        "How many clips are placed? Die Linse wird eingesetzt: zwei Stück.",
    ]
    return texts * 5


@pytest.fixture(scope="session")
def tokenizer(corpus):
    return train_tokenizer(corpus, 1024, 241)
