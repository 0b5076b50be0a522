"""LongVT's conversations for supervised fine-tuning, and MedScope's trajectories in their form.

Layout: Parquet, JSON Lines or one list in a .json file, one conversation a row:

    {"id": "c1",
     "messages": [
       {"role": "system", "content": [{"type": "text", "text": "..."}]},
       {"role": "user", "content": [
         {"type": "video_url", "video_url": {"url": "/data/v.mp4"}},
         {"type": "text", "text": "What is inserted? Think first, call **crop_video** ..."}]},
       {"role": "assistant", "content": [{"type": "text",
         "text": "<think>...</think><tool_call>{\"name\": \"crop_video\", ...}</tool_call>"}]},
       {"role": "user", "content": [{"type": "text", "text": "<tool_response>..."}, ...]},
       {"role": "assistant", "content": [{"type": "text",
         "text": "<think>...</think><answer>A lens.</answer>"}]}],
     "metadata": {"question": "...", "answer_gt": "...", "qa_start_time": 1.0, "qa_end_time": 9.0}}

Content may also be one text, and metadata may lack any of its keys or be absent.

What becomes of a row:

- Its assistant turns, in the protocol's form: calls are read by the project's own grammar and
  written anew, with the protocol's name for the video and times to a tenth of a second. The
  system's words and the observations are left out: a record's calls are executed when it is used.
- part vcot where a tool is called, cot where none is. A video part with video_start and video_end
  (seconds, as qwen-vl-utils has them) shows a clip: without calls it becomes part qa with that
  window; with calls it is refused, since the calls' times could count from either start.
- The question is metadata's, else the user's text up to the peers' instruction, or up to the words
  of the option `instruction`.
- The answer is metadata's answer_gt, else the one in the last turn. The task is grounding where it
  is an interval, vqa otherwise.
- Evidence is frame_time or anchor_frame_time, video_segment or spans, or qa_start_time and
  qa_end_time, in metadata or beside it, as `options` may be (see plain.py); a grounding
  answer is its own evidence. Where none is known none is invented: what a teacher looked at is no
  evidence.

Refused: turns of another form, calls that can't be executed, a conversation that does not end in an
answer, a second question, and questions about images, of which LongVT's files have many.

Obtaining: longvideotool/LongVT-Parquet and -Source on Hugging Face; read their terms and those of
the videos' own sources.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from medscope_jax.rl.intervals import Span
from tfds_builders.readers._fields import (
    EVIDENCE_FIELDS,
    asked,
    ends_of,
    evidence_of,
    options_in,
    split_of,
    video_names,
)
from tfds_builders.readers._files import annotate
from tfds_builders.readers._parquet import table_rows
from tfds_builders.readers._turns import calls_in, cut_instruction, final_answer, own_turns
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


class _Conversation(NamedTuple):
    """A row's messages: the user's text, what the video part says, the assistant's texts."""

    prompt: str
    video: Any
    window: Span | None
    turns: list[str]


def read(
    path: Path, *, video_root: str = "", instruction: str = ""
) -> Iterator[Annotation | BadRow]:
    """Conversations of one file.

    Args:
      path: .parquet, .jsonl or .json.
      video_root: as in the package's docstring.
      instruction: words with which the user's instruction begins, where they are not the peers'.

    Raises:
      UserError: no such file.
    """
    name_of = video_names(video_root)
    rows = table_rows(path, ("id", "messages", "metadata", "split", "options", *EVIDENCE_FIELDS))
    return annotate(path, rows, lambda place, row: _make(place, row, name_of, instruction))


def _make(place: str, value: Any, name_of: Callable[[Any], str], instruction: str) -> Annotation:
    row = mapping(value)
    about = optional(row, mapping, "metadata", {})
    prompt, video, window, texts = _conversation(required(row, listing, "messages"))
    turns = own_turns(texts)
    calls = calls_in(turns)
    if calls and window is not None:
        raise Unusable("calls about a clip: their times could count from either start")
    question = optional(about, anything, "question")
    if question is None:
        question = cut_instruction(prompt, instruction)
    answer = optional(about, anything, "answer_gt")
    evidence, frame_time = evidence_of(row, about)
    return asked(
        place,
        name_of(video),
        "qa" if window else "vcot" if calls else "cot",
        question,
        final_answer(turns) if answer is None else answer,
        evidence=evidence,
        frame_time=frame_time,
        turns=turns,
        window=window,
        split=split_of(row, about),
        options=options_in(row, about),
    )


def _conversation(messages: list) -> _Conversation:
    if not messages:
        raise Unusable("messages is a list of none")
    user, texts = None, []
    for message in messages:
        message = mapping(message, "a message")
        role = required(message, plain_text, "role")
        if role in ("system", "tool"):
            continue
        if role not in ("user", "assistant"):
            raise Unusable("a message has an unknown role")
        parts = _parts(required(message, anything, "content"))
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        if role == "assistant":
            texts.append(text)
        elif user is None and not texts:
            user = text, [part for part in parts if part["type"] != "text"]
        elif not text.lstrip().startswith("<tool_response>"):
            raise Unusable("a later user turn is no tool response")
    if user is None:
        raise Unusable("the user says nothing")
    prompt, media = user
    if len(media) != 1 or media[0]["type"] not in ("video_url", "video"):
        raise Unusable("the question is not about one video")
    shown = media[0]
    video = from_json(required(shown, anything, shown["type"]))
    window = ends_of(shown, "video_start", "video_end", "the clip")
    if not isinstance(video, str):
        video = required(mapping(video, "the video"), anything, "url")
    return _Conversation(prompt, video, window, texts)


def _parts(content: Any) -> list[dict]:
    """A message's content as parts, each with a type, text parts with a text."""
    if isinstance(content, str) and not is_list(content):
        return [{"type": "text", "text": content}]
    parts = [mapping(part, "a part of a message") for part in listing(content, "content")]
    for part in parts:
        kind = required(part, plain_text, "type")
        if kind not in ("text", "video_url", "video", "image_url", "image"):
            raise Unusable("a part of a message is neither text nor video nor image")
        if kind == "text" and not isinstance(part.get("text"), str):
            raise Unusable("a text part of a message has no text")
    return parts
