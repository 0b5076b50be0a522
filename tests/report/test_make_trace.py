"""From a trajectory and its video to a trace."""

import numpy as np

from medscope_jax.report import render_trace
from medscope_jax.report.make_trace import make_trace
from medscope_jax.rollout import Trajectory
from medscope_jax.tools import CallStatus, Tool
from medscope_jax.video import Video

VIDEO = Video(
    frames=np.random.default_rng(0).integers(0, 256, (20, 28, 56, 3), np.uint8),
    times=np.arange(20.0),
    duration=20.0,
)
RECORD = {
    "answer": "two clips",
    "evidence": np.float32([[4, 8]]),
    "evidence_time": np.float32(-1),
    "source": "ophthalmic",
    "task": "vqa",
    "video": "eye-7",
}


def test_a_trajectory_with_looks():
    turns = [
        "<think>a</think><tool_call>[]</tool_call>",
        "<think>b</think><tool_call>{}</tool_call>",
        "<think>c</think><answer>two clips</answer>",
    ]
    calls = [
        (Tool.NONE, 0.0, 0.0, CallStatus.NOT_JSON),
        (Tool.CROP_VIDEO, 4.0, 6.0, CallStatus.OK),
    ]
    trajectory = Trajectory("".join(turns), turns, calls, [[], [4, 5, 6]])
    trace = make_trace("How many?", trajectory, VIDEO, 5, RECORD, model="rl")
    failed, look, last = trace.turns
    assert (failed.status, failed.start) == ("NOT_JSON", None)
    assert failed.observation.startswith("Tool execution failed")
    assert (look.tool, look.start, look.end) == ("crop_video", 4.0, 6.0)
    assert look.frame_times == [4.0, 5.0, 6.0]
    assert (look.frame_images[1] == VIDEO.frames[5]).all()
    assert (last.status, trace.answer, trace.predicted) == ("", "two clips", [])
    assert len(trace.preview_times) == 5
    assert "IoU with the true evidence 0.50" in render_trace(trace)


def test_windows_that_answer_and_thinking_state():
    def predicted(text):
        trajectory = Trajectory(text, [text], [], [])
        trace = make_trace("When?", trajectory, VIDEO, 5)
        assert "stated window" in render_trace(trace) or not trace.predicted
        return trace.predicted

    assert predicted("<think>[1, 2]</think><answer>[4.0, 9.0]</answer>") == [(4.0, 9.0)]
    assert predicted("<think>[1, 2]</think><answer>a clip</answer>") == [(1.0, 2.0)]
    assert predicted("<think>cut off") == []
