"""Pages for people: the evidence trace of one answer, and the page of a run."""

from medscope_jax.report.run_page import render_report
from medscope_jax.report.trace import Trace, TurnView, trace_json
from medscope_jax.report.trace_page import render_trace

__all__ = [
    "Trace",
    "TurnView",
    "render_report",
    "render_trace",
    "trace_json",
]
