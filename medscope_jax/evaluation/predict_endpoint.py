"""Predictions of a model behind an OpenAI-compatible endpoint, several questions at a time."""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from medscope_jax.errors import UserError
from medscope_jax.evaluation.chat_rollout import ChatLayout, Messages, converse, request_body
from medscope_jax.evaluation.predict import Predictions, oracle_frames
from medscope_jax.evaluation.predictions import PredictionHeader, record_fields, trajectory_fields
from medscope_jax.rl.chat import in_a_loop, open_client, persist
from medscope_jax.rl.chat_config import EndpointConfig, told
from medscope_jax.rl.chat_reply import AttemptFailed, quoted
from medscope_jax.rollout import Trajectory
from medscope_jax.training.metrics_log import Progress
from medscope_jax.training.pretrained import DIALOGUE, TURN_TOKENS
from medscope_jax.training.run import VideoSplit
from medscope_jax.video import preview_indices

PREVIEW_FRAMES: int = DIALOGUE["preview_frames"]
LAYOUT = ChatLayout(**{key: DIALOGUE[key] for key in DIALOGUE if key != "preview_frames"})
_MOST_FAILED = 0.25  # share of the questions that may stay without a prediction


@dataclasses.dataclass(frozen=True)
class EndpointSubject:
    """A model under evaluation.

    Attributes:
      endpoint: where it is.
      temperature: of its words; None leaves it to the server.
      mode: of predictions.MODES.
    """

    endpoint: EndpointConfig
    temperature: float | None
    mode: str

    @property
    def name(self) -> str:
        """Its name in the table."""
        return self.endpoint.model + ("" if self.mode == "tools" else f", {self.mode}")


def endpoint_header(
    subject: EndpointSubject, suite: str, split: str, count: int, frame_window: float
) -> PredictionHeader:
    """The PredictionHeader of predictions of `count` questions; suite: its fingerprint."""
    return PredictionHeader(
        split=split,
        suite=suite,
        seed=0,
        frame_window=frame_window,
        expected={"greedy": count},
        settings={
            "layout": {"preview_frames": PREVIEW_FRAMES, **dataclasses.asdict(LAYOUT)},
            "turn_tokens": TURN_TOKENS,
            "temperature": subject.temperature,
        },
    )


def predict_endpoint(
    subject: EndpointSubject,
    records: Sequence[Mapping[str, Any]],
    split: VideoSplit,
    chosen: range,
    predictions: Predictions,
) -> None:
    """Predicts what is missing of the chosen records; each batch is on the disk before the next.

    A question whose conversation fails is left out, and told: the same command asks it again.

    Raises:
      UserError: more than a quarter of the questions fail; the predictions so far are kept.
    """
    name, workers = subject.name, subject.endpoint.workers
    due = [n for n in chosen if not predictions.has((name, "greedy", n, 0))]
    progress = Progress(len(chosen), name, len(chosen) - len(due), "questions")
    reasons: list[str] = []
    most_failed = max(1, _MOST_FAILED * len(due))
    for first in range(0, len(due), workers):
        batch = due[first : first + workers]
        found = in_a_loop(_converse_all(subject, [records[n] for n in batch], split))
        reasons += [why for why in found if isinstance(why, str)]
        both = zip(batch, found, strict=True)
        made = [(n, one) for n, one in both if isinstance(one, Trajectory)]
        lines = [
            {
                **{"model": name, "weights": 0, "mode": subject.mode},
                **{"decoding": "greedy", "number": n, "sample": 0},
                **record_fields(records[n]),
                **trajectory_fields(one, split.videos[split.rows[records[n]["video"]]].times),
            }
            for n, one in made
        ]
        predictions.add([records[n] for n, _ in made], lines)
        progress.update(len(batch))
        if len(reasons) > most_failed:
            break
    progress.close()
    if not reasons:
        return
    words = f"{name} gave no conversation for {len(reasons)} of {len(due)} questions; the first"
    words += f" time: {reasons[0]}"
    if len(reasons) > most_failed:
        raise UserError(f"{words}; mend it, and run again: the others are kept")
    print(f"{words}; run again, and they are asked again")


async def _converse_all(
    subject: EndpointSubject, records: Sequence[Mapping[str, Any]], split: VideoSplit
) -> list[Trajectory | str]:
    """The trajectory of each question, or why there is none."""
    async with open_client(subject.endpoint) as client:

        async def ask(messages: Messages) -> str:
            body = request_body(subject.endpoint.model, messages, TURN_TOKENS, subject.temperature)
            completion, _ = await persist(client, subject.endpoint, body, lambda found: found)
            return completion.text or ""

        async def one(record: Mapping[str, Any]) -> Trajectory | str:
            video = split.videos[split.rows[record["video"]]]
            seen = preview_indices(len(video.times), PREVIEW_FRAMES)
            if subject.mode == "oracle":
                seen = oracle_frames(record, video.times, PREVIEW_FRAMES, LAYOUT.window_frames)
            try:
                return await converse(ask, record, video, seen, LAYOUT, subject.mode == "tools")
            except AttemptFailed as error:
                return told(subject.endpoint, quoted(str(error)))

        return list(await asyncio.gather(*map(one, records)))
