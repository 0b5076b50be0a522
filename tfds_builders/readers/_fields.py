"""Fields of foreign rows, checked: times, spans, words, video names; and questions made of them.

Everything raises Unusable, in words that quote none of the field's content.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from medscope_jax.dialogue.foreign import clean_question
from medscope_jax.errors import UserError, closest
from tfds_builders.readers._files import Unusable
from tfds_builders.record import Annotation

Span = tuple[float, float]

MAX_SECONDS = 1e7  # 115 days: whatever is later is no time of a video
MAX_WORDS = 20_000  # characters of a question or an answer
CAPTION_QUESTION = "Describe what the clip shows."
QUESTION_PARTS = ("rl", "eval", "qa")
_SPLITS = {
    "": "",
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?", re.ASCII)
_INTERVALS = re.compile(r"\[[^\[\]]*\](?: ?[,;]? ?\[[^\[\]]*\])*")
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


def mapping(value: Any, name: str = "the row") -> dict:
    """A JSON object."""
    if not isinstance(value, dict):
        raise Unusable(f"{name} is no JSON object")
    return value


def first_of(row: dict, *keys: str) -> Any:
    """The value of the first key that has one; null and "" are none."""
    for key in keys:
        if row.get(key) not in (None, ""):
            return row[key]
    raise Unusable(f"{keys[0]} is missing" if len(keys) == 1 else f"{', '.join(keys)} are missing")


def has(row: dict, *keys: str) -> bool:
    """Whether every key has a value."""
    return all(row.get(key) not in (None, "") for key in keys)


def seconds(value: Any, name: str) -> float:
    """A time: a number, or a text that is nothing but one."""
    if isinstance(value, str) and len(value) <= 64 and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unusable(f"{name} is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Unusable(f"{name} is not finite")
    if number < 0:
        raise Unusable(f"{name} is negative")
    if number > MAX_SECONDS:
        raise Unusable(f"{name} is later than any video lasts")
    return abs(number)  # -0.0 is 0.0


def span(start: Any, end: Any, name: str) -> Span:
    """A span of time that has a length."""
    first, last = seconds(start, f"the start of {name}"), seconds(end, f"the end of {name}")
    if last <= first:
        raise Unusable(f"{name} ends {'before' if last < first else 'where'} it starts")
    return first, last


def spans(value: Any, name: str) -> tuple[Span, ...]:
    """[[start, end], ...], or one [start, end]."""
    if not isinstance(value, (list, tuple)):
        raise Unusable(f"{name} is no list of spans")
    pairs = value
    if len(value) == 2 and not any(isinstance(item, (list, tuple)) for item in value):
        pairs = [value]
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise Unusable(f"{name} holds a span that is not two numbers")
    return tuple(span(*pair, name) for pair in pairs)


def evidence_of(row: dict) -> tuple[tuple[Span, ...], float | None]:
    """(spans, frame time) of a row or its metadata; a frame time wins: it is the finer one."""
    for key in ("frame_time", "anchor_frame_time"):
        if has(row, key):
            return (), seconds(row[key], key)
    if has(row, "video_segment"):
        return spans(row["video_segment"], "video_segment"), None
    if has(row, "qa_start_time") or has(row, "qa_end_time"):
        ends = row.get("qa_start_time"), row.get("qa_end_time")
        return (span(*ends, "the evidence"),), None
    return (), None


def words(value: Any, name: str) -> str:
    """A question or an answer on one line."""
    if value is None:
        raise Unusable(f"{name} is missing")
    if not isinstance(value, str):
        raise Unusable(f"{name} is no text")
    if not any(map(str.isalnum, value)):
        raise Unusable(f"{name} is empty")
    if len(value) > MAX_WORDS:
        raise Unusable(f"{name} is longer than {MAX_WORDS} characters")
    try:
        return clean_question(value, name)
    except UserError as error:
        raise Unusable(str(error)) from None


def split_name(value: Any) -> str:
    """train, validation or test by any of their usual names; "" for none."""
    if value is None:
        return ""
    if not isinstance(value, str) or value.strip().lower() not in _SPLITS:
        raise Unusable("the split is none of train, validation and test")
    return _SPLITS[value.strip().lower()]


def split_of_file(stem: str) -> str:
    """The split that a file's name ends in ("charades_sta_test", "val"), else ""."""
    return _SPLITS.get(re.split(r"[^a-z]+", stem.lower())[-1], "")


def interval_text(intervals: Sequence[Span]) -> str:
    """Spans, at least one, as answers write them: "[12.0, 20.5], [40.0, 55.0]".

    One decimal, as the protocol's times have; three where one would leave nothing of a span.
    """
    texts = []
    if not intervals:
        raise Unusable("an answer of intervals has none")
    for start, end in intervals:
        for decimals in (1, 3):
            first, last = f"{start:.{decimals}f}", f"{end:.{decimals}f}"
            if first != last:
                break
        else:
            raise Unusable("a span is shorter than a millisecond")
        texts.append(f"[{first}, {last}]")
    return ", ".join(texts)


def stated_spans(answer: str) -> tuple[Span, ...]:
    """The spans of an answer that is nothing but intervals "[start, end]"; else none."""
    if not _INTERVALS.fullmatch(answer):
        return ()
    pairs = [pair.split(",") for pair in re.findall(r"\[([^\[\]]*)\]", answer)]
    if not all(
        len(pair) == 2 and all(_NUMBER.fullmatch(end.strip()) for end in pair) for pair in pairs
    ):
        return ()
    return tuple(span(start, end, "the answer's interval") for start, end in pairs)


def answer_turn(answer: str, window: Span | None) -> str:
    """The one turn of a record that shows a clip; what it thinks is true whatever is asked."""
    clip = "The clip is the whole video."
    if window is not None:
        clip = f"The clip is from {window[0]:.1f} to {window[1]:.1f}."
    return f"<think>{clip}</think><answer>{answer}</answer>"


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
    options: tuple[str, ...] = (),
    turns: tuple[str, ...] = (),
    window: Span | None = None,
) -> Annotation:
    """A question as an Annotation, by the rules of the package's docstring.

    Args:
      part: "" for rl or, in a split that is evaluated, eval.
      answer: a text, or for grounding also [start, end] or None where the evidence says it.
      task: "" for grounding where the answer is intervals, vqa where it is not.
      evidence: for grounding also () where the answer says it.
    """
    question = words(question, "the question")
    stated = ()
    if isinstance(answer, (list, tuple)):
        stated = spans(answer, "the answer's interval")
        answer = interval_text(stated)
    elif answer not in (None, "") or task != "grounding":
        answer = words(answer, "the answer")
        stated = stated_spans(answer)
    if task == "grounding" or (stated and not task):
        if frame_time is not None:
            raise Unusable("a grounding answer needs a span of evidence, not a frame time")
        if answer not in (None, "") and not stated:
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
        options=options,
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


def video_names(root: str = "") -> Callable[[Any], str]:
    """A function from a source's video paths to paths below its video folder.

    It remembers the folders of absolute paths that are not under `root`: those lose them, and two
    videos must not become one.
    """
    prefix = root.replace("\\", "/").rstrip("/") + "/"
    folders: dict[str, str] = {}

    def name_of(value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise Unusable("the video's path is no text")
        path = value.strip().removeprefix("file://").replace("\\", "/")
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
