"""The stages that doubt: questions that need no look, evidence that does not hold the answer."""

from collections.abc import Sequence

from medscope_jax.rl.choices import named_options
from medscope_jax.rl.endpoint import parse_score
from medscope_jax.rl.judge import judge_answer
from medscope_jax.rl.words import normalize_answer
from tfds_builders.synthesis.footage import frames_inside, frames_outside, local_window
from tfds_builders.synthesis.items import Ask, Dropped, Frame, Outcome, Request, WrittenQuestion
from tfds_builders.synthesis.settings import SynthesisConfig
from tfds_builders.synthesis.stages import for_each
from tfds_builders.synthesis.wire import ask_object

# The reason for which a question that the rest of the recording answers is dropped: it is easy.
EASY = "verify: answered without its evidence"


async def judged(
    question: WrittenQuestion, answer: str, ask: Ask, config: SynthesisConfig
) -> float:
    """The score (0, 0.5 or 1) of an answer: by rule where that can tell, else by the model.

    Grounding answers are measured by their IoU with the evidence. Other words than the reference's
    may mean the same: the model is asked.

    Raises:
      Dropped: the model refused, or gave no score.
    """
    score = judge_answer(answer, question.answer, question.task, question.spans, question.options)
    if score == 1 or question.task == "grounding":
        return score
    if question.options and named_options(answer, question.options):
        return 0.0  # another one, or several
    said = normalize_answer(answer)
    if said in ("", "unknown") or {said, normalize_answer(question.answer)} == {"yes", "no"}:
        return 0.0
    values = {"question": question.asked, "answer": answer, "reference": question.answer}
    for draw in range(config.reply_attempts):
        reply = await ask(Request("judge", values, draw=draw))
        if reply.refused:
            raise Dropped("refused (judge)")
        try:
            return parse_score(reply.text, answer)
        except ValueError:
            continue
    raise Dropped("unreadable reply (judge)")


async def blind(items: Sequence[WrittenQuestion], ask: Ask, config: SynthesisConfig) -> Outcome:
    """Questions that are not answered right without any frame.

    Of blind_attempts independent answers, blind_right right ones drop a question.
    """

    async def one(question: WrittenQuestion) -> WrittenQuestion:
        values = {"question": question.asked, "duration": question.footage.duration}
        right = 0
        for draw in range(config.blind_attempts):
            request = Request("blind", values, draw=draw)
            score = await _score(question, request, ask, config)
            right += score >= config.leak_score
            if right >= config.blind_right:
                raise Dropped("blind: answered without frames")
        return question

    return await for_each(items, one)


async def verify(items: Sequence[WrittenQuestion], ask: Ask, config: SynthesisConfig) -> Outcome:
    """Questions that are answered right from their evidence, and wrong from all other frames.

    A grounding question's evidence is shown with what comes before and after it (local_window):
    alone, its own first and last time would be the answer. A model that declines to answer from
    the other frames has failed to, as it should.
    """

    async def one(question: WrittenQuestion) -> WrittenQuestion:
        footage, spans = question.footage, list(question.spans)
        shown = [local_window(footage, spans, config.context_s)]
        shown = shown if question.task == "grounding" else spans
        inside = frames_inside(footage, shown, config.verify_frames)
        outside = frames_outside(footage, spans, config.outside_frames)
        if not outside:
            raise Dropped("verify: no frames outside of the evidence")
        if await _seen(question, inside, ask, config) < config.right_score:
            raise Dropped("verify: not answered from its evidence")
        if await _seen(question, outside, ask, config) >= config.leak_score:
            raise Dropped(EASY)
        return question

    return await for_each(items, one)


async def _seen(
    question: WrittenQuestion, frames: tuple[Frame, ...], ask: Ask, config: SynthesisConfig
) -> float:
    values = {"question": question.asked, "duration": question.footage.duration}
    return await _score(question, Request("answer", values, frames), ask, config)


async def _score(
    question: WrittenQuestion, request: Request, ask: Ask, config: SynthesisConfig
) -> float:
    """The score of the answer to a request; one that declines to answer scores 0."""
    try:
        answer = await ask_object(request, ask, config.reply_attempts, "answer")
    except Dropped as reason:
        if str(reason) == "refused":
            return 0.0
        raise
    return await judged(question, str(answer), ask, config)
