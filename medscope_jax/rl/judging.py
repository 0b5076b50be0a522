"""Choosing the judge that a config names: the built-in rules, or a model behind an endpoint."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medscope_jax.dialogue import question_text
from medscope_jax.errors import UserError
from medscope_jax.rl.chat_config import EndpointConfig
from medscope_jax.rl.endpoint import Verdict, verdicts
from medscope_jax.rl.judge import judge_answer

# (questions, answers) -> scores in {0, 0.5, 1}, one for each pair; NaN where the judge gives none.
Judge = Callable[[Sequence[Mapping], Sequence[str]], list[float]]
# The same with the judge's words.
TellingJudge = Callable[[Sequence[Mapping], Sequence[str]], list[Verdict]]


def make_judge(section: Mapping) -> Judge:
    """make_telling_judge's without its words."""
    ask = make_telling_judge(section)
    return lambda questions, answers: [verdict.score for verdict in ask(questions, answers)]


def make_telling_judge(section: Mapping) -> TellingJudge:
    """The judge of a config's judge section: an endpoint where a url is given.

    Questions are records: question, options, answer (the reference), task, evidence. Grounding
    answers are intervals and are measured, never sent to a model. An endpoint's judge raises
    JudgeError where more than max_failed of a call's questions stay without a score, see
    endpoint.verdicts.

    Raises:
      UserError: the section's url or model can't be used.
    """

    def rules(question: Mapping, answer: str) -> Verdict:
        score = judge_answer(
            answer,
            question["answer"],
            question["task"],
            question["evidence"],
            question.get("options", ()),
        )
        return Verdict(score)

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

    def ask(questions: Sequence[Mapping], answers: Sequence[str]) -> list[Verdict]:
        pairs = list(zip(questions, answers, strict=True))
        open_ended = [
            (question_text(q), a, q["answer"]) for q, a in pairs if q["task"] != "grounding"
        ]
        said = iter(verdicts(config, open_ended, section["temperature"], section["max_failed"]))
        return [rules(q, a) if q["task"] == "grounding" else next(said) for q, a in pairs]

    return ask


def judge_note(section: Mapping) -> str | dict[str, Any]:
    """What metrics.jsonl says of a judge: "built-in", or the config's section."""
    return dict(section) if section["url"] else "built-in"
