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
reward_model's ground_truth. Evidence is extra_info's frame_time, else its video_segment (one span
or several); a row without either has none, and only its answer can be rewarded. The task is
grounding where the answer is an interval, vqa otherwise. extra_info's split decides the split, and
with it the part: rows of a validation or test split are of the eval part and never trained on.

Sampling options of `videos`, `ability`, `style` and `tools_kwargs` are left out: the project's own
config decides these.

Obtaining: whoever made the rows says under which terms; the videos have their own.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tfds_builders.readers._fields import (
    asked,
    evidence_of,
    has,
    mapping,
    part_option,
    split_name,
    video_names,
)
from tfds_builders.readers._files import Unusable, annotate
from tfds_builders.readers._parquet import table_rows
from tfds_builders.readers._turns import cut_instruction
from tfds_builders.record import Annotation, BadRow


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
    rows = table_rows(path, ("prompt", "videos", "reward_model", "extra_info"))
    return annotate(path, rows, lambda place, row: _make(place, row, part, name_of, instruction))


def _make(
    place: str, value: Any, part: str, name_of: Callable[[Any], str], instruction: str
) -> Annotation:
    row = mapping(value)
    info = row["extra_info"] if isinstance(row.get("extra_info"), dict) else {}
    judged = row["reward_model"] if isinstance(row.get("reward_model"), dict) else {}
    videos = row.get("videos")
    if not isinstance(videos, list) or len(videos) != 1:
        raise Unusable("the question is not about one video")
    video = videos[0].get("video") if isinstance(videos[0], dict) else videos[0]
    evidence, frame_time = evidence_of(info)
    return asked(
        place,
        name_of(video),
        part,
        info["question"] if has(info, "question") else _question(row.get("prompt"), instruction),
        info["answer"] if has(info, "answer") else judged.get("ground_truth"),
        evidence=evidence,
        frame_time=frame_time,
        split=split_name(info.get("split")),
    )


def _question(prompt: Any, instruction: str) -> str:
    """The question in the last message of the user."""
    if isinstance(prompt, list):
        said = [m for m in prompt if isinstance(m, dict) and m.get("role") == "user"]
        prompt = said[-1].get("content") if said else None
    if isinstance(prompt, list):
        parts = [p.get("text") for p in prompt if isinstance(p, dict) and p.get("type") == "text"]
        prompt = " ".join(part for part in parts if isinstance(part, str))
    return cut_instruction(prompt, instruction)
