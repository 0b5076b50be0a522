"""The stages in which a teacher demonstrates: with calls, and from the preview alone."""

import itertools
import re
from collections.abc import Sequence

from medscope_jax.dialogue.protocol import TOOL_CALL, TOOL_CALL_END
from medscope_jax.dialogue.sanitize import check_turns
from medscope_jax.errors import UserError
from medscope_jax.phantom.questions import span_text
from medscope_jax.rl.rewards import MAX_ANSWER_CHARACTERS, window_iou
from medscope_jax.rl.transcript import extract_answer
from medscope_jax.tools.grammar import CallStatus, parse_call
from tfds_builders.synthesis.filters import judged
from tfds_builders.synthesis.footage import frames_of_call, preview
from tfds_builders.synthesis.items import (
    Ask,
    Dropped,
    Frame,
    Outcome,
    Request,
    Span,
    WrittenQuestion,
    WrittenTrajectory,
    unrepeated,
)
from tfds_builders.synthesis.request_texts import TELLTALE
from tfds_builders.synthesis.settings import SynthesisConfig
from tfds_builders.synthesis.stages import for_each
from tfds_builders.synthesis.wire import is_refusal

_MAX_CHARACTERS = 8000  # of a turn
_TELLTALE = re.compile(TELLTALE, re.IGNORECASE)


async def teach(items: Sequence[WrittenQuestion], ask: Ask, config: SynthesisConfig) -> Outcome:
    """Trajectories: the teacher looks by calls, which are executed, and answers.

    It is told where the evidence is, never the answer: an answer that is right was seen. A
    trajectory is kept only if every turn has the protocol's form and says nothing of what the
    teacher was told, every call executes on the recording's own duration, the last window has
    min_iou with the evidence, and the answer is judged right. The window of a get_frame call is
    that of the frames which it shows.
    """
    pairs = list(itertools.product(items, range(config.trajectories)))
    outcome = await for_each(pairs, lambda pair: _demonstrate(*pair, ask, config))
    return unrepeated(outcome, lambda t: (id(t.question), t.turns), "trajectory: said twice")


async def think(items: Sequence[WrittenQuestion], ask: Ask, config: SynthesisConfig) -> Outcome:
    """Trajectories without calls, for easy questions: one turn that answers from the preview."""

    async def one(question: WrittenQuestion) -> WrittenTrajectory:
        frames = preview(question.footage, config.preview_frames)
        turn = await _turn(Request("think", {"question": question.asked}, frames), ask)
        if TOOL_CALL in turn:
            raise Dropped("trajectory: calls without tools")
        await _check_answer(question, turn, ask, config)
        return WrittenTrajectory(question, (turn,))

    return await for_each(items, one)


async def _demonstrate(
    question: WrittenQuestion, draw: int, ask: Ask, config: SynthesisConfig
) -> WrittenTrajectory:
    footage = question.footage
    values = {
        "question": question.asked,
        "duration": footage.duration,
        "evidence": ", ".join(span_text(*span) for span in question.spans),
        "max_calls": config.max_calls,
    }
    frames = preview(footage, config.preview_frames)
    history: list[tuple[str, tuple[Frame, ...]]] = []
    window: Span | None = None
    while True:
        turn = await _turn(Request("teach", values, frames, tuple(history), draw), ask)
        if TOOL_CALL not in turn:
            break
        if len(history) == config.max_calls:
            raise Dropped("trajectory: too many calls")
        words = turn.partition(TOOL_CALL)[2].rpartition(TOOL_CALL_END)[0]
        call = parse_call(words, footage.duration)
        if call.status != CallStatus.OK:
            raise Dropped(f"trajectory: call fails ({call.status.name.lower()})")
        shown = frames_of_call(footage, call, config.window_frames)
        # A get_frame call has one time; what it shows is a window.
        window = (call.start, call.end)
        window = window if call.end > call.start else (shown[0].time, shown[-1].time)
        history.append((turn, shown))
    if window is None:
        raise Dropped("trajectory: answers without a look")
    if window_iou(window, question.spans) < config.min_iou:
        raise Dropped("trajectory: last window misses the evidence")
    await _check_answer(question, turn, ask, config)
    return WrittenTrajectory(question, (*(said for said, _ in history), turn))


async def _turn(request: Request, ask: Ask) -> str:
    """One turn of the teacher, in the protocol's form."""
    reply = await ask(request)
    turn = reply.text.strip()
    if is_refusal(reply):
        raise Dropped("refused")
    try:
        check_turns([turn])
    except UserError:
        raise Dropped("trajectory: form") from None
    if len(turn) > _MAX_CHARACTERS:
        raise Dropped("trajectory: too long")
    if _TELLTALE.search(turn):
        raise Dropped("trajectory: speaks of its instructions")
    return turn


async def _check_answer(
    question: WrittenQuestion, turn: str, ask: Ask, config: SynthesisConfig
) -> None:
    answer = extract_answer(turn)
    if not answer or len(answer) >= MAX_ANSWER_CHARACTERS:
        raise Dropped("trajectory: no usable answer")
    if await judged(question, answer, ask, config) < config.right_score:
        raise Dropped("trajectory: wrong answer")
