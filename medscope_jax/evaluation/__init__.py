"""Evaluation: grounding and text metrics, tables, evidence traces and the report."""

from medscope_jax.evaluation.grounding import (
    answer_spans,
    last_look,
    localization,
    mean_iou,
    predicted_evidence,
    recall_at,
    stated_window,
)
from medscope_jax.evaluation.report import render_report
from medscope_jax.evaluation.scoring import Scored, metrics, over_seeds, result_rows, score
from medscope_jax.evaluation.table import columns_of, print_results, read_results, write_results
from medscope_jax.evaluation.text import accuracy, bleu, mean_token_f1
from medscope_jax.evaluation.trace import Trace, TurnView, render_trace, trace_json

__all__ = [
    "Scored",
    "Trace",
    "TurnView",
    "accuracy",
    "answer_spans",
    "bleu",
    "columns_of",
    "last_look",
    "localization",
    "mean_iou",
    "mean_token_f1",
    "metrics",
    "over_seeds",
    "predicted_evidence",
    "print_results",
    "read_results",
    "recall_at",
    "render_report",
    "render_trace",
    "result_rows",
    "score",
    "stated_window",
    "trace_json",
    "write_results",
]
