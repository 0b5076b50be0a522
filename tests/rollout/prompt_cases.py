"""The layout of the conversations that tests of prompts and trajectories lay out."""

from medscope_jax.dialogue import Layout

LAYOUT = Layout(
    length=256,
    preview_frames=4,
    window_frames=5,
    grid=(1, 2),
    frame_format="{frame}{time:.1f}",
    max_tool_turns=3,
)
