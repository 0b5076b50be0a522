"""Tool calls: what they mean (host specification), how the device reads them, what they show."""

from medscope_jax.tools.grammar import (
    Call,
    CallStatus,
    Tool,
    error_text,
    parse_call,
)
from medscope_jax.tools.interpreter import byte_table, interpret, token_bytes
from medscope_jax.tools.windows import select_frames, select_frames_host

__all__ = [
    "Call",
    "CallStatus",
    "Tool",
    "byte_table",
    "error_text",
    "interpret",
    "parse_call",
    "select_frames",
    "select_frames_host",
    "token_bytes",
]
