"""Choosing the judge that a config names: the built-in rules, or a model behind an endpoint."""

from collections.abc import Callable, Mapping, Sequence

from medscope_jax.rl.endpoint import EndpointConfig, judge_many
from medscope_jax.rl.judge import judge_answer

# (questions, answers) -> scores in {0, 0.5, 1}, one for each pair.
Judge = Callable[[Sequence[Mapping], Sequence[str]], list[float]]


def make_judge(section: Mapping) -> Judge:
    """The judge of a config's judge section: an endpoint where a url is given.

    Questions are records: question, answer (the reference), task, evidence. Grounding answers are
    intervals and are measured, never sent to a model.
    """

    def rules(question: Mapping, answer: str) -> float:
        return judge_answer(answer, question["answer"], question["task"], question["evidence"])

    if not section["url"]:
        return lambda questions, answers: list(map(rules, questions, answers))
    config = EndpointConfig(
        section["url"],
        section["model"],
        timeout_s=section["timeout"],
        workers=section["concurrency"],
    )

    def ask(questions: Sequence[Mapping], answers: Sequence[str]) -> list[float]:
        pairs = list(zip(questions, answers, strict=True))
        open_ended = [(q["question"], a, q["answer"]) for q, a in pairs if q["task"] != "grounding"]
        replies = iter(judge_many(config, open_ended))
        return [rules(q, a) if q["task"] == "grounding" else next(replies) for q, a in pairs]

    return ask
