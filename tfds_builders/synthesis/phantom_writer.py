"""The built-in model: it answers every request from a phantom procedure's script, offline.

It sees what frames show: their times say what was visible then. It guesses where it sees nothing,
looks too widely, and now and then errs on purpose, so that every filter has something to do. All
its chances are a function of the procedure, the seed and the request.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping

import numpy as np

from medscope_jax.dialogue.protocol import crop_call
from medscope_jax.phantom.procedure import COLOURS, COUNTS, PHASES, SIDES, Procedure
from medscope_jax.phantom.questions import (
    Question,
    details_text,
    easy_questions,
    hard_questions,
    span_text,
)
from medscope_jax.phantom.suite_config import TeacherConfig
from medscope_jax.phantom.teacher import answer_turn, trajectory
from medscope_jax.rl.judge import judge_answer
from tfds_builders.synthesis.items import Ask, Footage, Frame, Reply, Request
from tfds_builders.synthesis.settings import SynthesisConfig

_ASKED, _DRAWN = 4, 5  # purpose words of Procedure.random
# It looks less widely than the phantom suite's teacher: a grounding answer is what it looked at.
_TEACHER = TeacherConfig(margin_max=2)
_DOMAINS = (("yes", "no"), SIDES, COLOURS, COUNTS, PHASES)
_LINE = re.compile(r"^\d+\. \[([\d.]+), ([\d.]+)\]", re.MULTILINE)
_AT = re.compile(r" at ([\d.]+)\?$")


def phantom_footage(procedure: Procedure) -> Footage:
    """A script as footage of one frame a second, without pictures; phases change like cuts."""
    frames = tuple(Frame(float(tick), b"") for tick in range(procedure.duration))
    kinds = [procedure.phase_at(frame.time).kind for frame in frames]
    changes = np.array([0.0] + [float(a != b) for a, b in zip(kinds, kinds[1:], strict=False)])
    video = f"{procedure.id}.mp4"
    return Footage(video, float(procedure.duration), frames, changes, procedure.split)


def phantom_ask(
    procedure: Procedure, config: SynthesisConfig, seed: int = 0, errors: float = 0.1
) -> Ask:
    """An `ask` that knows one procedure.

    Args:
      procedure: its script.
      config: the run's.
      seed: of all its chances.
      errors: share of captions, questions and trajectories that it spoils.
    """
    model = _Phantom(procedure, config, seed, errors)

    async def ask(request: Request) -> Reply:
        return Reply(getattr(model, request.kind)(request, model.random(request)))

    return ask


class _Phantom:
    """A method for each kind of request: (request, rng) -> the reply's text."""

    def __init__(self, procedure: Procedure, config: SynthesisConfig, seed: int, errors: float):
        self._procedure, self._config = procedure, config
        self._seed, self._errors = seed, errors
        rng = procedure.random(_ASKED, seed)
        self._hard = hard_questions(procedure, rng)
        # Of the easy ones those about a moment: frames beside it show the same phase.
        self._easy = [q for q in easy_questions(procedure, rng) if _AT.search(q.text)]

    def random(self, request: Request, *less: str) -> np.random.Generator:
        """The chances of a request; `less`: as if all of these requests' fields were the same."""
        said = {
            "kind": request.kind,
            "values": dict(request.values),
            "frames": [frame.time for frame in request.frames],
            "history": [turn for turn, _ in request.history],
            "draw": request.draw,
        }
        text = json.dumps({k: v for k, v in said.items() if k not in less}, sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return self._procedure.random(_DRAWN, self._seed, int.from_bytes(digest))

    def caption(self, request: Request, rng: np.random.Generator) -> str:
        if rng.random() < self._errors:
            return "The clip shows"  # cut off: no JSON
        return json.dumps({"caption": self._describe(f.time for f in request.frames)})

    def merge(self, request: Request, rng: np.random.Generator) -> str:
        spans = [tuple(map(float, m.groups())) for m in _LINE.finditer(request.values["captions"])]
        events: list[dict] = []
        for number, (start, end) in enumerate(spans, start=1):
            phase = self._procedure.phase_at((start + end) / 2)
            if events and events[-1]["phase"] == phase.kind:
                events[-1]["last"] = number
            else:
                events.append({"first": number, "last": number, "phase": phase.kind})
        for event in events:
            start, end = spans[event["first"] - 1][0], spans[event["last"] - 1][1]
            event["caption"] = self._describe(np.arange(start, end + 1).tolist())
        return json.dumps({"events": events})

    def questions(self, request: Request, rng: np.random.Generator) -> str:
        start, end, count = (request.values[name] for name in ("start", "end", "count"))
        easy = [q for q in self._easy if start + 1 <= _moment(q) <= end - 1][:1]
        hard = [q for q in self._hard if start <= q.event.start and q.event.end <= end]
        most = min(len(hard), count - len(easy))
        chosen = sorted(rng.choice(len(hard), most, replace=False).tolist()) if most > 0 else []
        entries = [self._entry(hard[i], start, end, rng) for i in chosen]
        for question in easy:
            time = _moment(question)
            entries.append(_as_entry(question, time - 1, time + 1))
        return json.dumps({"questions": entries})

    def blind(self, request: Request, rng: np.random.Generator) -> str:
        question, told = self._asked(request.values)
        return _answer(question.answer if told else self._guess(question, rng))

    def answer(self, request: Request, rng: np.random.Generator) -> str:
        question, _ = self._asked(request.values)
        times = [frame.time for frame in request.frames]
        return _answer(self._look(question, times) or "unknown")

    def judge(self, request: Request, rng: np.random.Generator) -> str:
        values = request.values
        score = judge_answer(values["answer"], values["reference"], "vqa")
        return json.dumps({"score": int(score) if score in (0, 1) else 0.5})

    def teach(self, request: Request, rng: np.random.Generator) -> str:
        # One plan a trajectory, whatever its turns have shown by now.
        rng = self.random(request, "history")
        question, _ = self._asked(request.values)
        if question.event is None:
            time = _moment(question)
            look = "<think>I look there.</think>" + crop_call(max(0, time - 2), time + 2)
            return answer_turn(question.thought, question.answer) if request.history else look
        most = self._config.window_frames
        turns = trajectory(self._procedure, question, _TEACHER, most, rng)
        if rng.random() < self._errors:
            turns = self._spoil(turns, question, rng)
        return turns[min(len(request.history), len(turns) - 1)]

    def think(self, request: Request, rng: np.random.Generator) -> str:
        question, _ = self._asked(request.values)
        times = [frame.time for frame in request.frames]
        return answer_turn(question.thought, self._look(question, times) or "unknown")

    def _asked(self, values: Mapping) -> tuple[Question, bool]:
        """The question that is asked, and whether its words tell more than it should."""
        text = values["question"]
        known = next(q for q in [*self._hard, *self._easy] if text.endswith(q.text))
        return known, text != known.text

    def _entry(self, question: Question, start: float, end: float, rng) -> dict:
        """A question as a reply holds it, at times spoiled."""
        event = question.event
        entry = _as_entry(question, event.start, event.end)
        if rng.random() >= self._errors:
            return entry
        match int(rng.integers(3)):
            case 0:  # tells its answer
                entry["question"] = f"{question.thought} {question.text}"
            case 1:  # evidence beside the event
                length = event.end - event.start
                before = event.start - start > end - event.end
                entry["evidence"] = [[start, start + length] if before else [end - length, end]]
            case 2:
                entry["task"] = "opinion"
        return entry

    def _spoil(self, turns: list[str], question: Question, rng) -> list[str]:
        """A trajectory with one thing wrong."""
        first, second, last = turns
        match int(rng.integers(5)):
            case 0:  # no JSON
                return [first.replace('{"name"', '{name"'), second, last]
            case 1:  # after the end
                late = self._procedure.duration + 5.0
                return [first, "<think>Later.</think>" + crop_call(late, late + 5), last]
            case 2:  # beside the event
                event = question.event
                place = (event.end + 1, event.end + 8)
                if event.start > 10:
                    place = (event.start - 9, event.start - 1)
                return [first, "<think>Here.</think>" + crop_call(*place), last]
            case 3:
                return [first, second, answer_turn(question.thought, "unknown")]
        return [first, second, second]  # never answers

    def _look(self, question: Question, times: list[float]) -> str:
        """The answer that frames at these times show; "" if they show none."""
        if question.event is None:
            moment = _moment(question)
            beside = [max((t for t in times if t <= moment), default=None)]
            beside.append(min((t for t in times if t >= moment), default=None))
            kinds = {None if t is None else self._procedure.phase_at(t).kind for t in beside}
            return (kinds.pop() or "") if len(kinds) == 1 else ""
        seen = [t for t in times if question.event.start <= t <= question.event.end]
        if seen and question.task == "grounding":
            return span_text(seen[0], seen[-1])
        return question.answer if seen else ""

    def _guess(self, question: Question, rng: np.random.Generator) -> str:
        """An answer out of the blue, of the right kind."""
        if question.task == "grounding":
            start = int(rng.integers(self._procedure.duration - 8))
            return span_text(start, start + int(rng.integers(3, 9)))
        words = question.answer.split(", ")
        domains = [next(d for d in _DOMAINS if word in d) for word in words]
        return ", ".join(str(rng.choice(domain)) for domain in domains)

    def _describe(self, times: Iterable[float]) -> str:
        """Phases and events in time order, with the times at which frames show them."""
        times, said = list(times), []
        for phase in self._procedure.phases:
            shown = [t for t in times if phase.start <= t < phase.end]
            if shown:
                said.append(f"{phase.kind} from {shown[0]:.1f} to {shown[-1]:.1f}")
            for event in self._procedure.events:
                seen = [t for t in shown if event.start <= t <= event.end]
                if seen:
                    when = f"from {seen[0]:.1f} to {seen[-1]:.1f}"
                    said.append(f"{event.kind} {when}, {details_text(event)}")
        return "; ".join(said) + "."


def _moment(question: Question) -> float:
    """The time that an easy question asks about."""
    return float(_AT.search(question.text)[1])


def _as_entry(question: Question, start: float, end: float) -> dict:
    return {
        "task": question.task,
        "question": question.text,
        "answer": question.answer,
        "reason": question.thought,
        "options": [],
        "evidence": [[start, end]],
    }


def _answer(text: str) -> str:
    return json.dumps({"answer": text})
