"""Turning a trajectory and its video into a Trace that can be shown."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from medscope_jax.metrics.grounding import answer_spans, stated_window
from medscope_jax.report.trace import Trace, TurnView
from medscope_jax.rl import Reward, extract_answer
from medscope_jax.rollout import Trajectory
from medscope_jax.tools import CallStatus, Tool, error_text
from medscope_jax.video import Video, preview_indices


def make_trace(
    question: str,
    trajectory: Trajectory,
    video: Video,
    preview_frames: int,
    record: Mapping | None = None,
    reward: Reward | None = None,
    model: str = "",
) -> Trace:
    """The trace of one trajectory; record and reward are there where the truth is known."""
    answer = extract_answer(trajectory.text) or ""
    shown = preview_indices(len(video.times), preview_frames)
    known = {}
    if record is not None:
        instant = float(record["evidence_time"])
        known = {
            "reference": record["answer"],
            "evidence": [[float(x) for x in span] for span in record["evidence"]],
            "evidence_time": instant if instant >= 0 else None,
            "split": record["source"],
            "task": record["task"],
            "video": record["video"],
        }
    parts = (
        {}
        if reward is None
        else {
            name: getattr(reward, name)
            for name in ("accuracy", "format", "crop", "frame", "total")
            if not math.isnan(getattr(reward, name))  # the judge gave no score
        }
    )
    stated = stated_window(trajectory.text) if not trajectory.calls else None
    predicted = answer_spans(trajectory.text) or stated or []
    return Trace(
        question=question,
        answer=answer,
        duration=video.duration,
        predicted=predicted,
        turns=_turns(trajectory, video),
        preview_times=[float(t) for t in video.times[shown]],
        preview_images=[_picture(video, t) for t in shown],
        reward=parts,
        notes=video.notes,
        model=model,
        **{"reference": "", **known},
    )


def _turns(trajectory: Trajectory, video: Video) -> Sequence[TurnView]:
    """Each turn with what its call brought back; a turn beyond the last executed call has none."""
    views = []
    for index, text in enumerate(trajectory.turns):
        if index >= len(trajectory.calls):
            views.append(TurnView(text=text))
            continue
        tool, start, end, status = trajectory.calls[index]
        good = status == CallStatus.OK
        frames = trajectory.frames[index]
        views.append(
            TurnView(
                text=text,
                tool=str(Tool(tool)) if tool else "",
                start=start if good else None,
                end=end if good else None,
                status=CallStatus(status).name,
                observation="" if good else error_text(CallStatus(status)),
                frame_times=[float(video.times[t]) for t in frames],
                frame_images=[_picture(video, t) for t in frames],
            )
        )
    return views


def _picture(video: Video, index: int) -> np.ndarray:
    """A bank frame [H, W, 3]; the two of a pair side by side."""
    frame = video.frames[index]
    return frame if frame.ndim == 3 else np.concatenate(frame, axis=1)
