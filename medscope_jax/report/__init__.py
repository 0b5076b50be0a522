"""Pages for people: the evidence trace of an answer, the page of a run, an evaluation's tables."""

from medscope_jax.report.run_page import render_report
from medscope_jax.report.tables_page import render_tables
from medscope_jax.report.trace import Trace, TurnView, Window, render_trace, trace_json

__all__ = [
    "Trace",
    "TurnView",
    "Window",
    "render_report",
    "render_tables",
    "render_trace",
    "trace_json",
]
