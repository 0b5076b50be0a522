"""Banks that tests are made of."""

import numpy as np

from medscope_jax.bank import HostBank
from medscope_jax.bank.host_bank import MemoryTokens


def on_host(bank):
    """A padded FrameBank as the HostBank whose padded() it is."""
    lengths = np.asarray(bank.length).astype(int)
    first = np.concatenate([[0], np.cumsum(lengths)])
    tokens = MemoryTokens(first)
    for video, length in zip(np.asarray(bank.tokens), lengths, strict=True):
        tokens.add(video[:length])

    def joined(leaf):
        rows = zip(np.asarray(leaf), lengths, strict=True)
        return np.concatenate([row[:length] for row, length in rows])

    most, duration = bank.tokens.shape[1], np.asarray(bank.duration)
    return HostBank(tokens, first, joined(bank.times), joined(bank.stamps), duration, most)
