"""What a guess scores that reads the question and never looks: priors of train, scored elsewhere.

A suite whose prior scores high measures little of what a model sees.
"""

import collections
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from medscope_jax.metrics.text import accuracy
from medscope_jax.rl.words import normalize_answer
from tfds_builders.card.stats import CardRow

# Tasks whose answers are sentences or times: there is no most frequent one to speak of.
_OPEN = ("caption", "description", "grounding")
_GRID = 20  # constant spans start and end at multiples of 1 / 20 of the video
_MOST_FITTED = 10_000


@dataclasses.dataclass(frozen=True)
class Prior:
    """A blind guess on the questions of one kind.

    Attributes:
      split, source, task: where it is scored.
      count: questions there.
      answer: the answer that train gives most often to this task; "" where there is none.
      by_task: accuracy of that answer; None where answers are open, or train has no such task.
      by_question: accuracy of the answer that train gives most often to the same question (else to
        the task), of the options where there are some.
      span: the constant window, shares of the video, that fits train best by mean IoU.
      recall: R@0.5 of the constant window that has the highest in train.
      miou: mean IoU of `span`. Both are None where evidence is no span.
    """

    split: str
    source: str
    task: str
    count: int
    answer: str = ""
    by_task: float | None = None
    by_question: float | None = None
    span: tuple[float, float] | None = None
    recall: float | None = None
    miou: float | None = None


def priors(rows: Iterable[CardRow], train: str = "train") -> list[Prior]:
    """The blind guesses for every (split, source, task) outside train, sorted.

    A source that train has is guessed from its own rows of train, another from all of them.
    Captions (the cap part) are left out.
    """
    fitted: dict[tuple[str, str], list[CardRow]] = collections.defaultdict(list)
    asked: dict[tuple[str, str, str], list[CardRow]] = collections.defaultdict(list)
    for row in rows:
        if row.part == "cap":
            continue
        if row.split == train:
            fitted[row.source, row.task].append(row)
        else:
            asked[row.split, row.source, row.task].append(row)
    found = []
    for (split, source, task), questions in sorted(asked.items()):
        every = [row for (_, t), group in sorted(fitted.items()) if t == task for row in group]
        known = fitted.get((source, task)) or every
        guesses = {} if task in _OPEN else _answers(known, questions)
        found.append(
            Prior(split, source, task, len(questions), **guesses, **_spans(known, questions))
        )
    return found


def _answers(known: Sequence[CardRow], questions: Sequence[CardRow]) -> dict:
    """The fields of Prior that are about answers."""
    counts = collections.Counter(normalize_answer(row.answer) for row in known)
    if not counts:
        return {}
    by_question: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for row in known:
        by_question[normalize_answer(row.question)][normalize_answer(row.answer)] += 1
    common = _most(counts)

    def guess(row: CardRow) -> str:
        seen = by_question.get(normalize_answer(row.question), counts)
        options = [normalize_answer(option) for option in row.options]
        if not options:
            return _most(seen)
        # The option most frequent under this question, then under the task.
        return max(options, key=lambda option: (seen[option], counts[option]))

    truth = [normalize_answer(row.answer) for row in questions]
    return {
        "answer": common,
        "by_task": accuracy([float(answer == common) for answer in truth]),
        "by_question": accuracy(
            [float(answer == guess(row)) for answer, row in zip(truth, questions, strict=True)]
        ),
    }


def _most(counts: collections.Counter) -> str:
    """The most frequent; of equally frequent ones the first by name."""
    return min(counts, key=lambda name: (-counts[name], name))


def _spans(known: Sequence[CardRow], questions: Sequence[CardRow]) -> dict:
    """The fields of Prior that are about evidence."""
    known = [row for row in known if row.spans]
    scored = [row for row in questions if row.spans]
    if not known or not scored:
        return {}
    known = known[:: -(-len(known) // _MOST_FITTED)]
    candidates = [(a / _GRID, b / _GRID) for a in range(_GRID) for b in range(a + 1, _GRID + 1)]
    fits = constant_ious(known, candidates)
    order = range(len(candidates))
    for_miou = candidates[max(order, key=lambda i: fits[i].mean())]
    # Many windows reach the same recall: of those the one that overlaps most.
    for_recall = candidates[max(order, key=lambda i: (_reached(fits[i]), fits[i].mean()))]
    return {
        "span": for_miou,
        "miou": float(constant_ious(scored, [for_miou])[0].mean()),
        "recall": _reached(constant_ious(scored, [for_recall])[0]),
    }


def _reached(ious: np.ndarray) -> float:
    """Share of 0.5 or more; an IoU that misses it by rounding reaches it."""
    return float((ious >= 0.5 - 1e-9).mean())


def constant_ious(rows: Sequence[CardRow], windows: Sequence[tuple[float, float]]) -> np.ndarray:
    """IoU of N rows' evidence with each of M windows (shares of the video): float64 [M, N]."""
    owner = np.repeat(np.arange(len(rows)), [len(row.spans) for row in rows])
    spans = np.array([span for row in rows for span in row.spans], np.float64).reshape(-1, 2)
    durations = np.array([row.duration for row in rows])
    evidence = np.bincount(owner, spans[:, 1] - spans[:, 0], len(rows))
    ious = np.empty((len(windows), len(rows)))
    for row, window in zip(ious, windows, strict=True):
        start, end = window[0] * durations, window[1] * durations
        overlap = np.minimum(spans[:, 1], end[owner]) - np.maximum(spans[:, 0], start[owner])
        shared = np.bincount(owner, np.maximum(overlap, 0), len(rows))
        row[:] = shared / np.maximum(evidence + (end - start) - shared, 1e-12)
    return ious
