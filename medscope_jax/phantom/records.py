"""The records of every part of the suite, made of a procedure's script alone."""

from collections.abc import Callable, Iterator

import numpy as np

from medscope_jax.parts import PARTS
from medscope_jax.phantom.captions import captions
from medscope_jax.phantom.procedure import Event, Procedure
from medscope_jax.phantom.questions import (
    Question,
    easy_questions,
    eval_questions,
    hard_questions,
    span_text,
)
from medscope_jax.phantom.suite_config import SuiteConfig
from medscope_jax.phantom.teacher import answer_turn, trajectory

_RECORDS = 2  # the purpose word of Procedure.random; _QUESTIONS: one stream for all parts
_QUESTIONS = 3
_WHOLE = (-1.0, -1.0)


def records(procedure: Procedure, part: str, config: SuiteConfig) -> list[dict]:
    """All records of one part about one procedure: a function of the arguments alone.

    Args:
      procedure: the script.
      part: of PARTS.
      config: the suite's.

    Returns:
      record dicts: id, video, part, source, split, task, question, answer, options, turns as str
      and lists of str; evidence float32 [n, 2] seconds; evidence_time float32 seconds or -1;
      evidence_frame_range int32 [n, 2] inclusive; evidence_mask uint8 [T]; visible float32
      [n, 2]: when the event can be seen, which for endoscopic evidence is wider than the one
      frame time; duration float32 seconds; window float32 [2], [-1, -1] for the whole video.
    """
    rng = procedure.random(_RECORDS, PARTS.index(part))
    made = _MAKERS[part](procedure, config, rng)
    return [_record(procedure, part, i, *fields) for i, fields in enumerate(made)]


_Fields = tuple[Question, list[str], tuple[float, float]]


def _cap(procedure: Procedure, config: SuiteConfig, rng: np.random.Generator) -> Iterator[_Fields]:
    for caption in captions(procedure, config, rng):
        question = Question("caption", caption.question, caption.text, "", caption.event)
        thought = "The clip is from {:.1f} to {:.1f}.".format(*caption.window)
        yield question, [answer_turn(thought, caption.text)], caption.window


def _qa(procedure: Procedure, config: SuiteConfig, rng: np.random.Generator) -> Iterator[_Fields]:
    for question in _hard(procedure):
        assert question.event is not None
        for _ in range(config.qa_windows):
            window = _local_window(procedure, question.event, config.window_frames, rng)
            yield question, [answer_turn(question.thought, question.answer)], window


def _cot(procedure: Procedure, config: SuiteConfig, rng: np.random.Generator) -> Iterator[_Fields]:
    for question in easy_questions(procedure, rng):
        yield question, [answer_turn(question.thought, question.answer)], _WHOLE


def _vcot(procedure: Procedure, config: SuiteConfig, rng: np.random.Generator) -> Iterator[_Fields]:
    teacher = config.teacher
    for question in _hard(procedure):
        for _ in range(rng.integers(teacher.trajectories_min, teacher.trajectories_max + 1)):
            turns = trajectory(procedure, question, teacher, config.window_frames, rng)
            yield question, turns, _WHOLE


def _passive(
    procedure: Procedure, config: SuiteConfig, rng: np.random.Generator
) -> Iterator[_Fields]:
    for question in _hard(procedure):
        event = question.event
        assert event is not None
        thought = f"The {event.kind} is at {span_text(event.start, event.end)}."
        yield question, [answer_turn(thought, question.answer)], _WHOLE


def _rl(procedure: Procedure, config: SuiteConfig, rng: np.random.Generator) -> Iterator[_Fields]:
    return ((question, [], _WHOLE) for question in _hard(procedure))


def _eval(procedure: Procedure, config: SuiteConfig, rng: np.random.Generator) -> Iterator[_Fields]:
    return ((question, [], _WHOLE) for question in eval_questions(procedure, rng))


_MAKERS: dict[str, Callable[..., Iterator[_Fields]]] = {
    "cap": _cap,
    "qa": _qa,
    "cot": _cot,
    "vcot": _vcot,
    "passive": _passive,
    "rl": _rl,
    "eval": _eval,
}


def _hard(procedure: Procedure) -> list[Question]:
    """The hard questions, the same ones in every part."""
    return hard_questions(procedure, procedure.random(_QUESTIONS))


def _local_window(
    procedure: Procedure, event: Event, window_frames: int, rng: np.random.Generator
) -> tuple[float, float]:
    """A window with the event at a random place, every tick of it shown."""
    spare = window_frames - 1 - (event.end - event.start)
    before = int(rng.integers(0, spare + 1))
    after = int(rng.integers(0, spare - before + 1))
    if rng.random() < 0.5:
        before, after = after, before
    start = max(0, event.start - before)
    end = min(procedure.duration - 1, event.end + after)
    return float(start), float(end)


def _record(
    procedure: Procedure,
    part: str,
    index: int,
    question: Question,
    turns: list[str],
    window: tuple[float, float],
) -> dict:
    """One record, its evidence in seconds, in frames and as a mask."""
    event = question.event
    spans = [] if event is None else [(event.start, event.end)]
    one_frame = event.centre if event is not None and procedure.source == "endoscopic" else None
    evidence = spans if one_frame is None else []
    mask = np.zeros(procedure.duration, np.uint8)
    for start, end in evidence:
        mask[start : end + 1] = 1
    if one_frame is not None:
        mask[one_frame] = 1
    return {
        "id": f"{procedure.id}-{part}-{index:03d}",
        "video": procedure.id,
        "part": part,
        "source": procedure.source,
        "split": procedure.split,
        "task": question.task,
        "question": question.text,
        "answer": question.answer,
        "options": [],
        "turns": turns,
        "evidence": np.asarray(evidence, np.float32).reshape(-1, 2),
        "evidence_time": np.float32(-1 if one_frame is None else one_frame),
        "evidence_frame_range": np.asarray(evidence, np.int32).reshape(-1, 2),
        "evidence_mask": mask,
        "visible": np.asarray(spans, np.float32).reshape(-1, 2),
        "duration": np.float32(procedure.duration),
        "window": np.asarray(window, np.float32),
    }
