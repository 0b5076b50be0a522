"""Rows for reinforcement learning as verl reads them, made by LongVT's and MedScope's authors.

Layout: Parquet, JSON Lines or one list in a .json file, one question a row:

    {"data_source": "surgvidlm",
     "prompt": [{"role": "user", "content": "<video>What is avoided? Think first, call ..."}],
     "videos": [{"type": "video", "video": "file:///data/v.mp4", "fps": 1, "min_frames": 1,
                 "max_frames": 512, "max_pixels": 50176}],
     "ability": "video_tool",
     "reward_model": {"ground_truth": "Undue tension.", "style": "model"},
     "extra_info": {"question": "What is avoided?", "answer": "Undue tension.", "split": "train",
                    "video_segment": [435.0, 600.0], "index": 1, "tools_kwargs": {...}}}

A row becomes one question. Its text is extra_info's, else the last user message up to the peers'
instruction, or up to the words of the option `instruction`; its answer is extra_info's, else
reward_model's ground_truth. Evidence is frame_time, else video_segment or spans (one span or
several), else qa_start_time and qa_end_time, in extra_info or beside it; a row without any has
none, and only its answer can be rewarded. `options` may stand there, too, as plain.py has them. The
task is grounding where the answer is an interval, vqa otherwise. extra_info's split decides the
split, and with it the part: rows of a validation or test split are of the eval part and never
trained on.

Sampling options of `videos`, `ability`, `style` and `tools_kwargs` are left out: the project's own
config decides these.

Obtaining: whoever made the rows says under which terms; the videos have their own.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tfds_builders.readers._fields import (
    EVIDENCE_FIELDS,
    asked,
    evidence_of,
    options_in,
    part_option,
    split_of,
    video_names,
)
from tfds_builders.readers._files import annotate
from tfds_builders.readers._parquet import table_rows
from tfds_builders.readers._turns import cut_instruction
from tfds_builders.readers._values import (
    anything,
    from_json,
    is_list,
    listing,
    mapping,
    optional,
    plain_text,
    required,
)
from tfds_builders.record import Annotation, BadRow, Unusable


def read(
    path: Path, *, part: str = "", video_root: str = "", instruction: str = ""
) -> Iterator[Annotation | BadRow]:
    """Questions of one file.

    Args:
      path: .parquet, .jsonl or .json.
      part: "", rl or eval; part, video_root: as in the package's docstring.
      instruction: words with which a prompt's instruction begins, where they are not the peers'.

    Raises:
      UserError: no such file, or another part.
    """
    part = part_option(part, ("rl", "eval"))
    name_of = video_names(video_root)
    columns = ("prompt", "videos", "reward_model", "extra_info", "split", "options")
    rows = table_rows(path, (*columns, *EVIDENCE_FIELDS))
    return annotate(path, rows, lambda place, row: _make(place, row, part, name_of, instruction))


def _make(
    place: str, value: Any, part: str, name_of: Callable[[Any], str], instruction: str
) -> Annotation:
    row = mapping(value)
    info, judged = (optional(row, mapping, key, {}) for key in ("extra_info", "reward_model"))
    evidence, frame_time = evidence_of(row, info)
    question, answer = (optional(info, anything, key) for key in ("question", "answer"))
    if question is None:
        question = _question(required(row, anything, "prompt"), instruction)
    if answer is None:
        answer = optional(judged, anything, "ground_truth")
    return asked(
        place,
        name_of(_video(required(row, anything, "videos"))),
        part,
        question,
        answer,
        evidence=evidence,
        frame_time=frame_time,
        split=split_of(row, info),
        options=options_in(row, info),
    )


def _video(videos: Any) -> Any:
    """The path of the one video."""
    videos = from_json(videos)
    if not isinstance(videos, str):
        if len(found := listing(videos, "videos")) != 1:
            raise Unusable("the question is not about one video")
        videos = from_json(found[0])
    if isinstance(videos, str):
        return videos
    return required(mapping(videos, "the video"), anything, "video")


def _question(prompt: Any, instruction: str) -> str:
    """The question in the last message of the user."""
    if is_list(prompt):
        messages = [mapping(message, "a message") for message in listing(prompt, "prompt")]
        said = [m for m in messages if required(m, plain_text, "role") == "user"]
        if not said:
            raise Unusable("the prompt holds no message of the user")
        prompt = required(said[-1], anything, "content")
    if is_list(prompt):
        parts = [mapping(part, "a part of a message") for part in listing(prompt, "content")]
        texts = [part for part in parts if required(part, plain_text, "type") == "text"]
        prompt = " ".join(required(part, plain_text, "text") for part in texts)
    return cut_instruction(prompt, instruction)
