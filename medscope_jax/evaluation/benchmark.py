"""A published benchmark's own metrics, of predictions that are stored: `evaluate --benchmark NAME`.

Each question has values whose means are the benchmark's figures; metrics/protocols/ says what they
are. SVU-31K's text metrics are of all questions together.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medscope_jax.dialogue.options import choices
from medscope_jax.errors import UserError
from medscope_jax.evaluation.measured import Measured, measure
from medscope_jax.evaluation.rescore import (
    StoredResults,
    ValuesOf,
    results_to_compare,
    stored_results,
)
from medscope_jax.evaluation.stored_qualities import qualities_of, read_qualities
from medscope_jax.evaluation.summary import Heading, plain, summarize
from medscope_jax.metrics import Scored
from medscope_jax.metrics.protocols.letters import lettered_choice
from medscope_jax.metrics.protocols.qualities import QUALITIES
from medscope_jax.metrics.protocols.spans import first_span, grounded_choice, moment
from medscope_jax.metrics.protocols.svu_text import cider_values, rouge_l_values, text_metrics
from medscope_jax.rl.choices import named_options
from medscope_jax.rl.intervals import Span

_SEED = 0  # of the draws that BLEU-4's and METEOR's intervals come from
# VideoMME's lengths: seconds up to which a video is short, or medium.
_SHORT_S, _MEDIUM_S = 120.0, 900.0
_MOMENT = {
    "iou": Heading("mIoU"),
    **{f"recall_{at}": Heading(f"R@{at:g}".replace("0.", ".")) for at in (0.3, 0.5, 0.7)},
    "unread": Heading("unread"),
}


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark's figures.

    Attributes:
      columns: its table's, by the names of values.
      values: of a prediction's line with its scores; {} where it is no question of the benchmark.
      compared: the values by which models are compared.
    """

    columns: Mapping[str, Heading]
    values: Callable[[Mapping[str, Any], Scored], dict[str, float]]
    compared: Sequence[str]


def _moment(line: Mapping[str, Any], scored: Scored) -> dict[str, float]:
    if len(line["evidence"]) != 1:
        return {}
    return moment(first_span(line["answer"]), tuple(line["evidence"][0]))


def _grounded_choice(line: Mapping[str, Any], scored: Scored) -> dict[str, float]:
    if not line["options"] or not line["evidence"]:
        return {}
    values = grounded_choice(_looked_at(line), line["evidence"], scored.judge_score == 1)
    if math.isnan(scored.judge_score):
        values |= {"acc_qa": math.nan, "acc_gqa": math.nan}
    return values


def _looked_at(line: Mapping[str, Any]) -> Span | None:
    """The span that an answer rests on: the last look's; of a model without tools, the first one
    that it tells."""
    if line["mode"] == "tools":
        return (
            (line["windows"][-1]["start"], line["windows"][-1]["end"]) if line["windows"] else None
        )
    return first_span(line["answer"])


def _lettered(line: Mapping[str, Any], scored: Scored) -> dict[str, float]:
    right = named_options(line["reference"], line["options"]) if line["options"] else set()
    if len(right) != 1:
        return {}
    return lettered_choice(line["answer"], choices(line["options"])[right.pop()].label)


def _described(line: Mapping[str, Any], scored: Scored) -> dict[str, float]:
    """Values that the texts of all questions together fill in, see _results."""
    return {} if line["task"] == "grounding" else {"cider": math.nan, "rouge_l": math.nan}


BENCHMARKS = {
    "charades": Benchmark(_MOMENT, _moment, ("iou", "recall_0.5")),
    "medvidqa": Benchmark(_MOMENT, _moment, ("iou", "recall_0.5")),
    "nextgqa": Benchmark(
        {
            **{"acc_gqa": Heading("Acc@GQA"), "acc_qa": Heading("Acc@QA"), "iop": Heading("mIoP")},
            **{"iop_0.3": Heading("IoP@.3"), "iop_0.5": Heading("IoP@.5"), "iou": Heading("mIoU")},
            **{"iou_0.3": Heading("IoU@.3"), "iou_0.5": Heading("IoU@.5")},
        },
        _grounded_choice,
        ("acc_gqa", "acc_qa", "iop"),
    ),
    "svu31k": Benchmark(
        {
            **{
                "bleu_4": Heading("BLEU-4"),
                "cider": Heading("CIDEr", 1),
                "meteor": Heading("METEOR"),
            },
            "rouge_l": Heading("ROUGE-L"),
            **{quality: Heading(quality, 1) for quality in QUALITIES},
        },
        _described,
        ("cider", "rouge_l", *QUALITIES),
    ),
    "videomme": Benchmark(
        {"accuracy": Heading("accuracy"), "unread": Heading("no letter")}, _lettered, ("accuracy",)
    ),
}


def benchmark_results(
    name: str, out: Path, against: Path | None = None
) -> tuple[dict[str, Any], list[str]]:
    """(what summarize makes of a benchmark's values, notes) of all predictions of a folder.

    Args:
      name: of BENCHMARKS.
      against: of another evaluation, with whose models each of this folder's is compared.

    Raises:
      UserError: no predictions, none of a question of the benchmark, or a library is missing.
    """
    found = _results(name, stored_results(out, _valued(name, out)))
    notes, others = list(found.notes), None
    if against:
        there = results_to_compare(against, found.header, _valued(name, against))
        others = _results(name, there)
        notes += others.notes
    compared = BENCHMARKS[name].compared
    summary = summarize(found.measured, others.measured if others else (), compared)
    if name == "svu31k":
        notes += _add_texts(summary, found)
        if not any(quality in one.values for one in found.measured for quality in QUALITIES):
            notes.append(f"{', '.join(QUALITIES)} need a judge: --judge.url, --judge.model")
    return summary, notes


def _valued(name: str, folder: Path) -> ValuesOf:
    """What makes a prediction's values of the benchmark."""
    qualities = read_qualities(folder) if name == "svu31k" else {}

    def values_of(line: Mapping[str, Any], scored: Scored, frame_window: float) -> Measured:
        values = BENCHMARKS[name].values(line, scored)
        if values:
            values |= qualities_of(line, qualities)
        task = line["task"]
        if name == "videomme":
            task += f", {_length(line['duration'])}"
        return dataclasses.replace(measure(line, scored, frame_window), task=task, values=values)

    return values_of


def _length(duration: float) -> str:
    """What VideoMME calls a video of so many seconds."""
    return "short" if duration <= _SHORT_S else "medium" if duration <= _MEDIUM_S else "long"


def _results(name: str, found: StoredResults) -> StoredResults:
    """Those that are of the benchmark's questions, told how many are not."""
    own = [i for i, one in enumerate(found.measured) if one.values]
    if not own:
        raise UserError(
            f"none of the predictions answers a question of {name}: name another --benchmark"
        )
    notes = list(found.notes)
    if other := len(found.measured) - len(own):
        notes.append(f"{other} predictions answer no question of {name}, and are left out")
    measured = [found.measured[i] for i in own]
    scored = [found.scored[i] for i in own]
    found = dataclasses.replace(found, measured=measured, scored=scored, notes=notes)
    if name == "svu31k":
        for places in _groups(measured).values():
            answers, references = _texts(found, places)
            ciders, rouges = cider_values(answers, references), rouge_l_values(answers, references)
            for i, cider, rouge in zip(places, ciders, rouges, strict=True):
                measured[i].values.update(cider=cider, rouge_l=rouge)
    return found


def _add_texts(summary: dict[str, Any], found: StoredResults) -> list[str]:
    """Adds BLEU-4 and METEOR, which are no means, to each group's values; returns notes."""
    notes: dict[str, None] = {}
    rows = zip(summary["estimates"], _groups(found.measured).values(), strict=True)
    for row, places in rows:
        videos = [found.measured[i].video for i in places]
        values, told = text_metrics(*_texts(found, places), videos, seed=_SEED)
        row["values"] |= {
            metric: plain(values[metric]) for metric in ("bleu_4", "meteor") if metric in values
        }
        notes |= dict.fromkeys(told)
    return list(notes)


def _groups(measured: Sequence[Measured]) -> dict[tuple[str, ...], list[int]]:
    """Places by what summarize groups by, in its order."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, one in enumerate(measured):
        groups.setdefault((one.model, one.decoding, one.source, one.task), []).append(i)
    return groups


def _texts(found: StoredResults, places: Sequence[int]) -> tuple[list[str], list[str]]:
    """(answers, references) of some of the predictions."""
    chosen = [found.scored[i] for i in places]
    return [one.answer for one in chosen], [one.reference for one in chosen]
