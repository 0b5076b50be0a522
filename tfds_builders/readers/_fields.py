"""Questions made of a row's fields; the names of its videos.

Everything raises Unusable, in words that quote none of the field's content.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medscope_jax.errors import UserError, closest
from medscope_jax.rl.intervals import Span
from tfds_builders.readers._values import (
    absent,
    anything,
    chosen,
    has,
    identifier,
    optional,
    options_of,
    required,
    signs,
    split_name,
    words,
)
from tfds_builders.record import Annotation, Unusable
from tfds_builders.times import answer_turn, interval_text, seconds, span, spans, stated_spans

# What evidence_of looks at.
EVIDENCE_FIELDS = (
    "frame_time",
    "anchor_frame_time",
    "video_segment",
    "spans",
    "qa_start_time",
    "qa_end_time",
)
CAPTION_QUESTION = "Describe what the clip shows."
QUESTION_PARTS = ("rl", "eval", "qa")
_EQUAL_SECONDS = 0.1  # an answer written with one decimal may differ from the evidence by this


def part_option(part: str, allowed: Sequence[str] = QUESTION_PARTS) -> str:
    """The option `part` of a reader; "" leaves it to the row's split.

    Raises:
      UserError: it is not one of those allowed.
    """
    if part and part not in allowed:
        raise UserError(
            f"option part must be one of {', '.join(allowed)}, got {part!r}{closest(part, allowed)}"
        )
    return part


def ends_of(row: dict, start_key: str, end_key: str, name: str) -> Span | None:
    """The span between two fields; None where both are absent."""
    if not has(row, start_key, end_key):
        return None
    return span(*(required(row, anything, key) for key in (start_key, end_key)), name)


def split_of(*rows: dict) -> str:
    """The split that a row, or an object inside it, names; "" where none does."""
    named = {optional(row, split_name, "split", "") for row in rows} - {""}
    if len(named) > 1:
        raise Unusable("the row names two splits")
    return named.pop() if named else ""


def evidence_of(*rows: dict) -> tuple[tuple[Span, ...], float | None]:
    """(spans, frame time) of a row, or an object inside it; ((), None) where none says it."""
    found = {_evidence_of(row) for row in rows} - {((), None)}
    if len(found) > 1:
        raise Unusable("the row names two pieces of evidence")
    return found.pop() if found else ((), None)


def _evidence_of(row: dict) -> tuple[tuple[Span, ...], float | None]:
    """(spans, frame time) of one object; a frame time wins, since it is more precise."""
    for key in ("frame_time", "anchor_frame_time"):
        if has(row, key):
            return (), required(row, seconds, key)
    for key in ("video_segment", "spans"):
        if given := optional(row, spans, key, ()):
            return given, None
    evidence = ends_of(row, "qa_start_time", "qa_end_time", "the evidence")
    return ((evidence,) if evidence else ()), None


def options_in(*rows: dict) -> dict[str, str]:
    """The options that a row, or an object inside it, has, by their labels; {} for none."""
    found = [given for row in rows if (given := optional(row, options_of, "options", {}))]
    if any(given != found[0] for given in found):
        raise Unusable("the row has two lists of options")
    return found[0] if found else {}


def asked(
    place: str,
    video: str,
    part: str,
    question: Any,
    answer: Any,
    *,
    evidence: tuple[Span, ...] = (),
    frame_time: float | None = None,
    task: str = "",
    split: str = "",
    options: Mapping[str, str] | None = None,
    turns: tuple[str, ...] = (),
    window: Span | None = None,
) -> Annotation:
    """A question as an Annotation, by the rules of the package's docstring.

    Args:
      part: "" for rl or, in a split that is evaluated, eval.
      answer: a text, or for grounding also [start, end], or absent where the evidence says it.
      task: "" for grounding where the answer is intervals, vqa where it is not.
      evidence: for grounding also () where the answer says it.
      options: by their labels; the answer is one of them, or names it. None or {} for none.
    """
    question = words(question, "the question")
    stated = ()
    if options:
        answer = chosen(required({"the answer": answer}, signs, "the answer"), options)
        task = task or "vqa"
    elif isinstance(answer, (list, tuple, dict)) and task in ("", "grounding"):
        stated = spans(answer, "the answer's interval")
        answer = interval_text(stated)
    elif not absent(answer) or task != "grounding":
        answer = words(answer, "the answer")
        stated = stated_spans(answer, bare=task == "grounding")
    if task == "grounding" or (stated and not task):
        if frame_time is not None:
            raise Unusable("a grounding answer needs a span of evidence, not a frame time")
        if not absent(answer) and not stated:
            raise Unusable("the answer of a grounding question is no interval")
        if evidence and stated and not _same(evidence, stated):
            raise Unusable("the answer's interval is not the evidence")
        evidence = evidence or stated
        if not evidence:
            raise Unusable("a grounding question has no span of evidence")
        task, answer = "grounding", interval_text(evidence)
    part = part or ("eval" if split in ("validation", "test") else "rl")
    if part in ("cap", "qa") and not turns:
        turns = (answer_turn(answer, window),)
    return Annotation(
        place=place,
        video=video,
        part=part,
        task=task or "vqa",
        question=question,
        answer=answer,
        split=split,
        options=tuple((options or {}).values()),
        spans=() if frame_time is not None else evidence,
        frame_time=frame_time,
        turns=turns,
        window=window if part in ("cap", "qa") else None,
    )


def _same(evidence: Sequence[Span], stated: Sequence[Span]) -> bool:
    """Whether two lists of spans agree but for rounding, in whatever order."""
    return len(evidence) == len(stated) and all(
        abs(a - b) <= _EQUAL_SECONDS
        for one, other in zip(sorted(evidence), sorted(stated), strict=True)
        for a, b in zip(one, other, strict=True)
    )


def video_names(root: str = "") -> Callable[[Any, str], str]:
    """The type of a source's video paths: as paths below its video folder. A number is a name, too.

    It remembers the folders of absolute paths that are not under `root`: those lose them, and two
    videos must not become one.
    """
    prefix = root.replace("\\", "/").rstrip("/") + "/"
    folders: dict[str, str] = {}

    def name_of(value: Any, name: str = "the video's path") -> str:
        path = identifier(value, "the video's path").removeprefix("file://").replace("\\", "/")
        if "://" in path:
            raise Unusable("the video is an address on the web, not a file")
        if root and path.startswith(prefix):
            return _below(path.removeprefix(prefix))
        if not re.match(r"/|[A-Za-z]:", path):
            return _below(path)
        folder, _, last = path.rpartition("/")
        if folders.setdefault(last, folder) != folder:
            raise Unusable(
                "a video of this name is in another folder too; set the option video_root"
            )
        return _below(last)

    return name_of


def _below(path: str) -> str:
    """A relative path that stays where it is joined to."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or re.match(r"[A-Za-z]:", parts[0]):
        raise Unusable("the video's path leads out of the source's folder")
    try:
        too_long = any(len(part.encode()) > 255 for part in parts) or len(path) > 4096
    except UnicodeEncodeError:
        raise Unusable("the video's path is broken text") from None
    if too_long or re.search(r"[\x00-\x1f\x7f]", path):
        raise Unusable("the video's path is no path of a file")
    return "/".join(parts)


def asked_of_clip(row: dict, place: str, video: str, part: str, clip: Span | None) -> Annotation:
    """A row's question about a clip of a video; the clip is its evidence if it states none."""
    evidence, frame_time = evidence_of(row)
    if not evidence and frame_time is None:
        evidence = (clip,) if clip else ()
    ends = [end for found in evidence for end in found] if frame_time is None else [frame_time]
    if part == "qa" and not (clip and all(clip[0] <= time <= clip[1] for time in ends)):
        raise Unusable("the clip does not hold the evidence")
    question, answer = (required(row, anything, key) for key in ("question", "answer"))
    return asked(
        place,
        video,
        part,
        question,
        answer,
        evidence=evidence,
        frame_time=frame_time,
        window=clip,
        split=split_of(row),
        options=options_in(row),
    )
