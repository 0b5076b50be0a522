"""All thresholds and sizes of the synthesis."""

import dataclasses
import math

from medscope_jax.errors import UserError

_MAY_BE_ZERO = ("blind_attempts", "max_tokens", "partial", "own_temperature")


@dataclasses.dataclass(frozen=True)
class SynthesisConfig:
    """What is shown to the model, what is asked of it, and what its answers must reach.

    Attributes:
      fps: bank frames a second.
      frame_rate: frames a second of recordings that have no times of their own, such as a folder of
        pictures; 0: such recordings are dropped.
      partial: take what is there of a recording that is cut short or lacks pictures.
      max_pixels: most pixels of a frame; its shape is that of the recording.
      jpeg_quality: of the frames that are sent, 1 to 100.
      max_frames: most bank frames of a recording; a longer one is thinned evenly.
      min_frames: fewest of a recording that has as many: a short one is read at a higher rate.
      min_clip_s, max_clip_s: seconds of a clip; it is cut where the picture changes most.
      clip_frames: most frames that show a clip or an event.
      merge_clips: most captions that one request merges into events.
      questions_per_event: most questions about one event.
      max_evidence_share: most of a recording that a question's evidence may cover.
      min_evidence_s: least seconds of each span of evidence.
      blind_attempts: how often a question is answered without any frame.
      blind_right: how many right ones among those answers drop it.
      verify_frames: most frames of the evidence that the verifier sees.
      outside_frames: most frames outside of the evidence that it sees.
      context_s: least seconds shown on either side of the evidence in a local window.
      right_score: what a judge (0, 0.5 or 1) must give an answer that has to be right.
      leak_score: from which score on an answer that has to fail counts as right.
      preview_frames: frames of the whole recording that the teacher sees first.
      window_frames: most frames that one of its calls shows.
      max_calls: most calls of a trajectory.
      trajectories: trajectories a question, each kept or dropped.
      min_iou: least IoU of a trajectory's last window with the evidence.
      reply_attempts: how often a request is made anew where the reply cannot be read.
      temperature: of the draws after a request's first, which is greedy.
      own_temperature: leave the temperature out of all requests, for models that take only theirs.
      max_tokens: most tokens of a reply; 0 leaves that to the endpoint.
      videos_at_once: recordings in work at a time.
    """

    fps: float = 1.0
    frame_rate: float = 0.0
    partial: bool = False
    max_pixels: int = 224 * 224
    jpeg_quality: int = 90
    max_frames: int = 7200
    min_frames: int = 8
    min_clip_s: float = 5.0
    max_clip_s: float = 30.0
    clip_frames: int = 32
    merge_clips: int = 40
    questions_per_event: int = 4
    max_evidence_share: float = 0.5
    min_evidence_s: float = 1.0
    blind_attempts: int = 3
    blind_right: int = 1
    verify_frames: int = 32
    outside_frames: int = 64
    context_s: float = 5.0
    right_score: float = 1.0
    leak_score: float = 1.0
    preview_frames: int = 64
    window_frames: int = 32
    max_calls: int = 2
    trajectories: int = 1
    min_iou: float = 0.3
    reply_attempts: int = 2
    temperature: float = 0.7
    own_temperature: bool = False
    max_tokens: int = 1024
    videos_at_once: int = 4

    def __post_init__(self):
        values = dataclasses.asdict(self)
        for name, value in values.items():
            if not math.isfinite(value) or value < 0:
                raise UserError(f"{name} must be a number of 0 or more, got {value}")
            # blind_attempts 0 switches that filter off.
            if isinstance(value, int) and value < 1 and name not in _MAY_BE_ZERO:
                raise UserError(f"{name} must be 1 or more, got {value}")
        for name in ("fps", "min_clip_s", "max_evidence_share", "right_score", "leak_score"):
            if values[name] <= 0:
                raise UserError(f"{name} must be more than 0")
        for name in ("right_score", "leak_score", "min_iou", "max_evidence_share"):
            if values[name] > 1:
                raise UserError(f"{name} must be at most 1, got {values[name]}")
        if self.min_evidence_s < 0.1:
            raise UserError("min_evidence_s must be 0.1 or more: answers tell tenths of a second")
        if self.min_frames > self.max_frames:
            raise UserError(f"min_frames {self.min_frames} is above max_frames {self.max_frames}")
        if self.max_clip_s < self.min_clip_s:
            raise UserError(f"max_clip_s {self.max_clip_s} is below min_clip_s {self.min_clip_s}")
        if self.jpeg_quality > 100:
            raise UserError(f"jpeg_quality must be at most 100, got {self.jpeg_quality}")
