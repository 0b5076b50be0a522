"""How long the conversations of the paper's stages 1 and 2 are: drawn after its means.

A conversation is counted as by Qwen's tokenizer, with two frames a bank frame of 64 tokens and ten
more for its time. Words are 1.35 tokens each.
"""

from typing import NamedTuple

import numpy as np

FRAME_TOKENS = 74  # positions of a bank frame
CLIP_LENGTH, EPISODE_LENGTH = 6144, 32768  # positions of a row of stages 1 and 2
MOST_FRAMES = 64  # of a clip, and of a look
# Of each source: median, spread and most of the seconds; mean and spread of the words.
SOURCES = {
    "MedVideoCap": (7, 0.35, 10, 112, 0.35),
    "SurgVidLM": (42, 1.0, 1200, 26, 0.5),
    "OphVL": (20, 0.9, 300, 296, 0.4),
}
STAGES = (*SOURCES, "stage 1", "stage 2")


class Drawn(NamedTuple):
    """Conversations that fit a row of `length` positions; arrays are int [N]."""

    length: int
    lengths: np.ndarray  # positions of each
    frames: np.ndarray  # bank frames that each shows
    generated: np.ndarray  # tokens of its answer


def draw_conversations(stage: str, count: int, seed: int = 0) -> Drawn:
    """About `count` conversations of one of STAGES; stage 1 is all its sources alike."""
    random = np.random.default_rng(seed)
    if stage in SOURCES:
        return _clips(stage, count, random)
    if stage == "stage 1":
        parts = [_clips(source, count // len(SOURCES), random) for source in SOURCES]
        return Drawn(CLIP_LENGTH, *map(np.concatenate, list(zip(*parts, strict=True))[1:]))
    return _episodes(count, random)


def _clips(source: str, count: int, random: np.random.Generator) -> Drawn:
    median, spread, most, words, word_spread = SOURCES[source]
    seconds = np.clip(random.lognormal(np.log(median), spread, count), 1, most)
    words = random.lognormal(np.log(words) - word_spread**2 / 2, word_spread, count)
    answer = 1.35 * np.clip(words, 5, 1000)
    frames = np.minimum(np.ceil(seconds / 2), MOST_FRAMES)
    return _that_fit(CLIP_LENGTH, 105 + frames * FRAME_TOKENS + answer, frames, answer)


def _episodes(count: int, random: np.random.Generator) -> Drawn:
    """A preview of videos of 124 s on average, and one or two looks by 34 of 118 records."""
    seconds = np.clip(random.lognormal(np.log(124) - 0.5, 1.0, count), 5, 3600)
    frames = np.minimum(np.ceil(seconds / 2), 256)
    answer = np.clip(random.lognormal(np.log(150), 0.5, count), 20, 512)
    lengths = 400 + frames * FRAME_TOKENS + answer
    looks = np.where(random.random(count) < 34 / 118, random.integers(1, 3, count), 0)
    for look in (1, 2):
        turn = np.clip(random.lognormal(np.log(150), 0.5, count), 20, 512) * (looks >= look)
        window = np.clip(random.lognormal(np.log(30), 0.9, count), 2, 300)
        shown = np.minimum(np.ceil(np.minimum(seconds, window) / 2), MOST_FRAMES) * (looks >= look)
        frames, answer = frames + shown, answer + turn
        lengths += turn + (25 + shown * FRAME_TOKENS) * (looks >= look)
    return _that_fit(EPISODE_LENGTH, lengths, frames, answer)


def _that_fit(length: int, *arrays: np.ndarray) -> Drawn:
    lengths, frames, generated = (np.ceil(array).astype(int) for array in arrays)
    fit = lengths <= length
    return Drawn(length, lengths[fit], frames[fit], generated[fit])
