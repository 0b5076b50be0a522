"""Metrics of answers and of evidence, summed up, and the table of results."""

from medscope_jax.metrics.grounding import (
    answer_spans,
    last_look,
    localization,
    mean_iou,
    predicted_evidence,
    recall_at,
    stated_window,
)
from medscope_jax.metrics.scoring import Scored, result_rows, score
from medscope_jax.metrics.table import columns_of, print_results, read_results, write_results
from medscope_jax.metrics.text import accuracy, bleu, mean_token_f1

__all__ = [
    "Scored",
    "accuracy",
    "answer_spans",
    "bleu",
    "columns_of",
    "last_look",
    "localization",
    "mean_iou",
    "mean_token_f1",
    "predicted_evidence",
    "print_results",
    "read_results",
    "recall_at",
    "result_rows",
    "score",
    "stated_window",
    "write_results",
]
