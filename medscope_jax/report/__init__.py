"""Pages for people: the evidence trace of one answer, and the page of a run."""

from medscope_jax.report.run_page import render_report
from medscope_jax.report.trace import Trace, TurnView, Window, render_trace, trace_json

__all__ = [
    "Trace",
    "TurnView",
    "Window",
    "render_report",
    "render_trace",
    "trace_json",
]
