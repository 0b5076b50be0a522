"""One predicted span of time against the gold ones: NExT-GQA, Charades-STA, MedVidQA.

Spans are (start, end) in seconds. Every function gives one question's values by the names that the
tables use, each a number in [0, 1] whose mean over questions is the protocol's figure.
"""

import re
from collections.abc import Sequence

from medscope_jax.rl.intervals import CLOCK, Span, clock_seconds

_GQA_THRESHOLDS = (0.3, 0.5)
_MOMENT_THRESHOLDS = (0.3, 0.5, 0.7)
# Digits and spaces are bounded: numbers stay finite, and the search is linear on hostile text.
_NUMBER = rf"({CLOCK}|\d{{1,12}}(?:\.\d{{0,12}})?)"
_UNIT = r"\s{0,4}(?:seconds?|secs?|s)?\s{0,4}"
_SPAN = re.compile(
    rf"[\[(]\s{{0,4}}{_NUMBER}{_UNIT},\s{{0,4}}{_NUMBER}{_UNIT}[\])]"
    rf"|(?<![\w.:]){_NUMBER}{_UNIT}(?:[-\u2013\u2014]|to)\s{{0,4}}{_NUMBER}(?![:\d])"
)


def overlaps(prediction: Span, gold: Span) -> tuple[float, float]:
    """(IoU, IoP): the overlap by the length of both spans' hull, and by the prediction's.

    The hull is the union where the spans meet. A prediction of no length has IoU 0 and, if the gold
    span holds it, IoP 1. One that ends before it starts has neither.
    """
    (start, end), (gold_start, gold_end) = prediction, gold
    if start == end:
        return 0.0, float(gold_start <= start <= gold_end)
    shared = min(end, gold_end) - max(start, gold_start)
    if shared <= 0 or end < start:
        return 0.0, 0.0
    return shared / (max(end, gold_end) - min(start, gold_start)), shared / (end - start)


def grounded_choice(prediction: Span | None, gold: Sequence[Span], right: bool) -> dict[str, float]:
    """A question of NExT-GQA: iou, iop (the best gold span of each), iou_0.3, iou_0.5, iop_0.3,
    iop_0.5, acc_qa, and acc_gqa: the right option and an IoP of at least 0.5.

    Args:
      prediction: the one span that the answer rests on; None scores 0, but the answer counts.
      gold: one or more spans, each of which justifies the answer alone.
      right: whether the option is.
    """
    pairs = [(0.0, 0.0)] if prediction is None else [overlaps(prediction, g) for g in gold]
    iou, iop = (max(0.0, *values) for values in zip(*pairs, strict=True))
    values = {"iou": iou, "iop": iop}
    values |= {f"iou_{at}": float(iou >= at) for at in _GQA_THRESHOLDS}
    values |= {f"iop_{at}": float(iop >= at) for at in _GQA_THRESHOLDS}
    return values | {"acc_qa": float(right), "acc_gqa": float(right and iop >= 0.5)}


def moment(prediction: Span | None, gold: Span) -> dict[str, float]:
    """A question of Charades-STA or MedVidQA: iou, recall_0.3, recall_0.5, recall_0.7, unread.

    Args:
      prediction: the span answered, see first_span; None scores 0 and is unread.
      gold: the true one.
    """
    iou = 0.0 if prediction is None else overlaps(prediction, gold)[0]
    recalls = {f"recall_{at}": float(iou >= at) for at in _MOMENT_THRESHOLDS}
    return {"iou": iou} | recalls | {"unread": float(prediction is None)}


def first_span(answer: str) -> Span | None:
    """The first "a - b" in an answer, in seconds or as mm:ss; turned where it is reversed.

    "12.5 - 20", "from 12.5s to 20 seconds", "[12.5, 20]", "1:05 - 1:10"; None if there is none.
    """
    found = _SPAN.search(answer.lower())
    if not found:
        return None
    start, end = sorted(clock_seconds(text) for text in found.groups() if text)
    return start, end
