"""Choosing the judge that a config names: the built-in rules, or a model behind an endpoint."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medscope_jax.dialogue import question_text
from medscope_jax.errors import UserError
from medscope_jax.rl.chat_config import EndpointConfig
from medscope_jax.rl.endpoint import judge_many
from medscope_jax.rl.judge import judge_answer

# (questions, answers) -> scores in {0, 0.5, 1}, one for each pair; NaN where the judge gives none.
Judge = Callable[[Sequence[Mapping], Sequence[str]], list[float]]


def make_judge(section: Mapping) -> Judge:
    """The judge of a config's judge section: an endpoint where a url is given.

    Questions are records: question, options, answer (the reference), task, evidence. Grounding
    answers are intervals and are measured, never sent to a model. An endpoint's judge raises
    JudgeError where more than max_failed of a call's questions stay without a score, see
    judge_many.

    Raises:
      UserError: the section's url or model can't be used.
    """

    def rules(question: Mapping, answer: str) -> float:
        return judge_answer(
            answer,
            question["answer"],
            question["task"],
            question["evidence"],
            question.get("options", ()),
        )

    if not section["url"]:
        return lambda questions, answers: list(map(rules, questions, answers))
    config = EndpointConfig(
        section["url"],
        section["model"],
        timeout_s=section["timeout"],
        workers=section["concurrency"],
    )
    if not config.model:
        raise UserError("url needs model, the name of the endpoint's model")

    def ask(questions: Sequence[Mapping], answers: Sequence[str]) -> list[float]:
        pairs = list(zip(questions, answers, strict=True))
        open_ended = [
            (question_text(q), a, q["answer"]) for q, a in pairs if q["task"] != "grounding"
        ]
        scores = judge_many(config, open_ended, section["temperature"], section["max_failed"])
        replies = iter(scores)
        return [rules(q, a) if q["task"] == "grounding" else next(replies) for q, a in pairs]

    return ask


def judge_note(section: Mapping) -> str | dict[str, Any]:
    """What metrics.jsonl says of a judge: "built-in", or the config's section."""
    return dict(section) if section["url"] else "built-in"
