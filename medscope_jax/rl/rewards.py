"""Reward of one trajectory: answer, format and evidence (plain Python, float64).

Follows MedScope (arXiv 2602.13332): R = R_acc + R_format + R_crop + R_frame, with three guarded
traps. `floor` in floating point loses a step at exact marks, so margins get 1e-9. The published
crop reward scores a partial overlap below no call at all; `crop_reward="smooth"` is without that
cliff. And the published evidence is a sum over tools: a policy earns most by a window that it never
narrows and a frame anywhere inside the evidence; `scored_calls="last"` scores the last call alone.
"""

import dataclasses
import json
import math
import numbers
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from medscope_jax.errors import UserError
from medscope_jax.rl.intervals import Span, interval_iou, merge_spans
from medscope_jax.rl.transcript import TOOL_RESPONSE, elements, extract_answer
from medscope_jax.tools import CallStatus, Tool, parse_call

if TYPE_CHECKING:
    from typing_extensions import TypeIs  # of typing itself from Python 3.13 on

# Guards exact marks such as IoU 0.6 with h0 = 0.5 and delta = 0.05 against rounding.
MARK_EPSILON = 1e-9
MAX_ANSWER_CHARACTERS = 1000

_TAG = re.compile(r"<(/?)(think|tool_call|answer)>")
_LETTER = {"think": "t", "tool_call": "c", "answer": "a"}
# Lower case opens, upper case closes: think, then any number of (call, think), then the answer.
_WELL_FORMED = re.compile(r"tT(?:cCtT)*aA")

# Evidence of a question: spans in seconds, or one frame time in seconds.
Evidence = Sequence[Sequence[float]] | float


def is_instant(evidence: Sequence | float) -> "TypeIs[float]":
    """Whether evidence is one time, a number of whatever library, and no spans."""
    return isinstance(evidence, numbers.Real)


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """Weights and thresholds of the reward.

    Attributes:
      h0: IoU from which a window counts as on target.
      delta: IoU gain of one bonus step above h0.
      eta: bonus of one step.
      alpha: scale of the crop reward's main term.
      frame_window: seconds over which the reward of a frame time falls to 0.
      answer_weight, format_weight, evidence_weight: weights in the total.
      crop_reward: "step" as published, or "smooth" (alpha * IoU in place of the sign).
      scored_calls: "each" as published: the last valid call of each tool earns; "last": only the
        last valid call of all, and a get_frame on a segment earns as the window that it shows
        does, `frame_window` seconds to either side.
      overlong, overlong_buffer: tokens that a rollout writes from which it loses 1, and over which
        the loss grows from 0 up to there (DAPO's soft overlong punishment, arXiv 2503.14476,
        equation 13); 0: it never loses any.
      fidelity: "masked" (a validity mask of its own) or "fork" (negative values mean "unknown").
    """

    h0: float = 0.5
    delta: float = 0.05
    eta: float = 0.1
    alpha: float = 1.0
    frame_window: float = 1.0
    answer_weight: float = 1.0
    format_weight: float = 1.0
    evidence_weight: float = 1.0
    crop_reward: str = "step"
    scored_calls: str = "each"
    overlong: int = 0
    overlong_buffer: int = 0
    fidelity: str = "masked"

    def __post_init__(self):
        if self.crop_reward not in ("step", "smooth"):
            raise UserError(f'crop_reward is "{self.crop_reward}"; choose "step" or "smooth"')
        if self.scored_calls not in ("each", "last"):
            raise UserError(f'scored_calls is "{self.scored_calls}"; choose "each" or "last"')
        if self.fidelity not in ("masked", "fork"):
            raise UserError(f'fidelity is "{self.fidelity}"; choose "masked" or "fork"')
        if not 0 <= self.overlong_buffer <= self.overlong:
            raise UserError(
                f"overlong_buffer is {self.overlong_buffer}; it must be from 0 to overlong, "
                f"{self.overlong}"
            )
        if not (self.delta > 0 and self.frame_window > 0):
            raise UserError("delta and frame_window must be positive")


def overlong_penalty(tokens: int, config: RewardConfig) -> float:
    """What a rollout that wrote so many tokens gets beside its reward, from -1 to 0."""
    beyond = tokens - (config.overlong - config.overlong_buffer)
    if not config.overlong or beyond <= 0:
        return 0.0
    return -min(1.0, beyond / max(1, config.overlong_buffer))


@dataclasses.dataclass(frozen=True)
class Reward:
    """Reward parts of one trajectory (unweighted), their weighted total and what it looked at.

    Attributes:
      accuracy, format: answer and format reward in [0, 1].
      crop, frame: evidence reward of the last valid crop_video and get_frame call.
      total: weighted sum of the four.
      window: (start, end) seconds of the crop_video call that counted, or None.
      timestamp: seconds of the get_frame call that counted, or None.
      iou: IoU of `window` with the evidence spans (a frame time: 1 inside, 0 outside); where the
        last call alone counts and was a get_frame, of the window that it shows.
      grounded: whether the question has evidence to compare with.
    """

    accuracy: float
    format: float
    crop: float
    frame: float
    total: float
    window: Span | None = None
    timestamp: float | None = None
    iou: float = 0.0
    grounded: bool = True

    @property
    def evidence(self) -> float:
        """Evidence reward: crop plus frame."""
        return self.crop + self.frame


def as_evidence(spans: Iterable[Sequence[float]], frame_time: float = -1.0) -> Evidence:
    """Evidence of a record: its frame time where that is >= 0, else its spans [n, 2] in seconds."""
    if float(frame_time) >= 0:
        return float(frame_time)
    return [(float(start), float(end)) for start, end in spans]


def format_reward(text: str) -> float:
    """1.0 if the transcript is think, (tool_call, think)*, answer with balanced tags, else 0.0.

    Text between the elements (tool responses, role markers) is allowed; before the first <think>
    and after </answer> only white space is. An answer of 1,000 characters or more is an error.
    """
    text = text.strip()
    letters = (
        _LETTER[tag[2]].upper() if tag[1] else _LETTER[tag[2]] for tag in _TAG.finditer(text)
    )
    if not (text.startswith("<think>") and text.endswith("</answer>")):
        return 0.0
    if not _WELL_FORMED.fullmatch("".join(letters)):
        return 0.0
    answer = extract_answer(text)
    return 1.0 if answer is not None and len(answer) < MAX_ANSWER_CHARACTERS else 0.0


def written_calls(text: str, duration: float | None = None) -> list[tuple]:
    """Valid calls (tool, start, end, status) of a transcript, in order; see `last_valid_calls`."""
    if TOOL_RESPONSE not in text:
        return []
    limit = math.inf if duration is None else float(duration)
    calls = []
    for written in elements(text, "tool_call"):
        call = parse_call(written, limit)
        if call.status != CallStatus.OK:
            continue
        # parse_call rounds times to float32 as the device does; the reward is float64.
        arguments = json.loads(written, parse_int=float)["arguments"]
        if call.tool == Tool.CROP_VIDEO:
            times = float(arguments["start_time"]), min(float(arguments["end_time"]), limit)
        else:
            times = float(arguments["timestamp"]), float(arguments["timestamp"])
        calls.append((call.tool, *times, call.status))
    return calls


def _last_of_each(calls: Iterable[tuple]) -> tuple[Span | None, float | None]:
    """(window, timestamp) of the last valid call of each tool."""
    window = timestamp = None
    for tool, start, end, status in calls:
        if int(status) != CallStatus.OK:
            continue
        if int(tool) == Tool.CROP_VIDEO:
            window = (float(start), float(end))
        elif int(tool) == Tool.GET_FRAME:
            timestamp = float(start)
    return window, timestamp


def window_iou(window: Span, evidence: Evidence) -> float:
    """IoU of a window with the union of the evidence spans; for a frame time 1 inside, else 0."""
    if is_instant(evidence):
        return 1.0 if window[0] <= evidence <= window[1] else 0.0
    return interval_iou([window], evidence)


def crop_reward(iou: float, config: RewardConfig) -> float:
    """Reward of a window with the given IoU with a segment of evidence.

    IoU 0 gives 0. "step": alpha * sign(IoU - h0), sign(0) = +1; "smooth": alpha * IoU. Both add
    eta for every full delta above h0.
    """
    if iou <= 0:
        return 0.0
    margin = iou - config.h0 + MARK_EPSILON
    bonus = config.eta * math.floor(margin / config.delta) if margin >= 0 else 0.0
    if config.crop_reward == "smooth":
        return config.alpha * iou + bonus
    return (config.alpha if margin >= 0 else -config.alpha) + bonus


def frame_reward(timestamp: float, evidence: Evidence, config: RewardConfig) -> float:
    """Reward of a get_frame time: 1 inside the spans, else 0; near a frame time by distance."""
    if is_instant(evidence):
        return max(0.0, 1.0 - abs(timestamp - evidence) / config.frame_window)
    return 1.0 if any(start <= timestamp <= end for start, end in merge_spans(evidence)) else 0.0


def score_transcript(
    text: str,
    evidence: Evidence,
    judge_score: float,
    config: RewardConfig = RewardConfig(),
    *,
    duration: float | None = None,
    calls: Iterable[tuple] | None = None,
) -> Reward:
    """Scores one finished trajectory.

    Args:
      text: the transcript: the model's turns with the <tool_response> markers of observations.
      evidence: spans [[start, end], ...] in seconds ([] if unknown), or one frame time (float).
      judge_score: what a judge says of the answer: 1, 0.5 or 0.
      config: weights and thresholds.
      duration: seconds of the video; calls beyond it are invalid, ends are clamped to it.
      calls: executed calls (tool, start, end, status), failed ones included, where the caller
        has them; empty slots (status < 0) are skipped. They then replace what the text says, so
        that a response that the model made up itself earns nothing: more <tool_response> markers
        than calls is a format error.

    Returns: a Reward. Raises ValueError for a judge score outside [0, 1].
    """
    if not 0.0 <= judge_score <= 1.0:
        raise ValueError(f"judge_score is {judge_score}; it must lie in [0, 1]")
    answer = extract_answer(text)
    usable = answer is not None and 0 < len(answer) < MAX_ANSWER_CHARACTERS
    accuracy = float(judge_score) if usable else 0.0
    formatted = format_reward(text)

    if calls is None:
        calls = written_calls(text, duration)
    else:
        calls = [call for call in calls if int(call[3]) >= 0]
        if text.count(TOOL_RESPONSE) > len(calls):
            formatted = 0.0
    if config.scored_calls == "last":
        calls = [call for call in calls if int(call[3]) == CallStatus.OK][-1:]
    window, timestamp = _last_of_each(calls)

    single = is_instant(evidence)
    evidence = float(evidence) if is_instant(evidence) else merge_spans(evidence)
    grounded = single or bool(evidence)
    crop = frame = iou = 0.0
    if grounded and window is not None:
        iou = window_iou(window, evidence)
        crop = iou if single else crop_reward(iou, config)
    if grounded and timestamp is not None:
        frame = frame_reward(timestamp, evidence, config)
        if config.scored_calls == "last":
            reach = config.frame_window
            iou = window_iou((max(0.0, timestamp - reach), timestamp + reach), evidence)
            frame = frame if single else crop_reward(iou, config)
    total = (
        config.answer_weight * accuracy
        + config.format_weight * formatted
        + config.evidence_weight * (crop + frame)
    )
    return Reward(
        accuracy, formatted, crop, frame, total, window, timestamp, iou, grounded=grounded
    )


def fidelity(reward: Reward, config: RewardConfig = RewardConfig()) -> tuple[float, bool]:
    """Evidence fidelity f of a trajectory and whether it may modulate the advantage.

    f is the crop reward, or the frame reward where no window was cropped. "masked": valid if the
    question has evidence and a call counted, whatever the sign of f. "fork": additionally
    f >= 0, which leaves partial overlaps unmodulated, as the co-author's fork does.

    The smooth crop reward is positive for any overlap and could not tell good from bad, so f is
    then IoU - h0: positive on target, as with the published reward.
    """
    looked = reward.window is not None or reward.timestamp is not None
    value = reward.crop if reward.window is not None else reward.frame
    if config.fidelity == "fork":
        return value, reward.grounded and looked and value >= 0
    spanned = reward.window is not None or config.scored_calls == "last"
    if config.crop_reward == "smooth" and spanned:
        value = reward.iou - config.h0 + MARK_EPSILON
    return value, reward.grounded and looked
