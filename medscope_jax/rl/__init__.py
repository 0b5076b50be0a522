"""Rewards, judges, grounding-aware advantages and the policy loss."""

from medscope_jax.rl.advantages import AdvantageConfig, grounding_aware_advantages
from medscope_jax.rl.chat_config import EndpointConfig
from medscope_jax.rl.endpoint import JudgeError, Verdict, endpoint_judge, judge_many
from medscope_jax.rl.intervals import (
    interval_iou,
    merge_spans,
    parse_intervals,
    total_length,
)
from medscope_jax.rl.judge import judge_answer, token_f1
from medscope_jax.rl.judging import (
    Judge,
    TellingJudge,
    judge_note,
    make_judge,
    make_telling_judge,
)
from medscope_jax.rl.loss import LossConfig, loss_normalizer, policy_loss, reference_kl
from medscope_jax.rl.rewards import (
    Reward,
    RewardConfig,
    as_evidence,
    crop_reward,
    fidelity,
    format_reward,
    frame_reward,
    overlong_penalty,
    score_transcript,
    window_iou,
)
from medscope_jax.rl.transcript import extract_answer
from medscope_jax.rl.words import normalize_answer

__all__ = [
    "AdvantageConfig",
    "EndpointConfig",
    "Judge",
    "JudgeError",
    "LossConfig",
    "Reward",
    "RewardConfig",
    "TellingJudge",
    "Verdict",
    "overlong_penalty",
    "as_evidence",
    "crop_reward",
    "endpoint_judge",
    "extract_answer",
    "fidelity",
    "format_reward",
    "frame_reward",
    "grounding_aware_advantages",
    "interval_iou",
    "judge_answer",
    "judge_many",
    "judge_note",
    "loss_normalizer",
    "make_judge",
    "make_telling_judge",
    "merge_spans",
    "normalize_answer",
    "parse_intervals",
    "policy_loss",
    "reference_kl",
    "score_transcript",
    "token_f1",
    "total_length",
    "window_iou",
]
