"""Draws one answer as a picture: what the model was shown, where it looked, what it said.

    python -m benchmarks.trace_picture --workdir runs/cpu --out docs/trace.png --record 5

The record is one of the test split's questions, by number. Needs a finished run.
"""

import textwrap
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import medscope_jax
from medscope_jax.config import parse_arguments
from medscope_jax.data.phantom_reader import prepared_suite, suite_dir
from medscope_jax.errors import run_main
from medscope_jax.report import Trace
from medscope_jax.report.trace import DISCLAIMER

FRAMES = 8  # at most, of a row


def draw_trace(trace: Trace, evidence: Sequence[Sequence[float]]) -> plt.Figure:
    """The preview, a timeline with the true evidence and the windows, and the windows' frames."""
    rows = [("preview", trace.preview_times, trace.preview_images)]
    for number, window in enumerate(trace.windows, 1):
        rows.append((f"{number}  {window.tool}", window.times, window.frames))
    figure, axes = plt.subplots(
        len(rows) + 1, 1, figsize=(9, 1.1 * len(rows) + 1.9), height_ratios=[*[1] * len(rows), 0.9]
    )
    for axis, (label, times, frames) in zip(axes, rows, strict=False):
        chosen = np.linspace(0, len(times) - 1, min(FRAMES, len(times))).round().astype(int)
        _, width, _ = np.shape(frames[0])
        axis.imshow(np.concatenate([frames[i] for i in chosen], axis=1), aspect="equal")
        axis.set_xticks(
            [(i + 0.5) * width for i in range(len(chosen))],
            [f"{times[i]:.0f} s" for i in chosen],
            fontsize=7,
        )
        axis.set_yticks([])
        axis.set_title(label, loc="left", fontsize=8)
    line = axes[-1]
    for start, end in evidence:
        line.axvspan(start, end, color="tab:green", alpha=0.4, label="true evidence")
    for number, window in enumerate(trace.windows, 1):
        line.plot([window.start, window.end], [number] * 2, lw=5, solid_capstyle="butt")
    line.set_yticks(range(1, len(trace.windows) + 1))
    line.set(xlim=(0, trace.duration), ylim=(0.4, len(trace.windows) + 0.6), xlabel="seconds")
    line.set_ylabel("window")
    line.legend(fontsize=7, loc="upper right")
    question = textwrap.fill(f"Q: {trace.question}", 110)
    figure.suptitle(f"{question}\nA: {trace.answer}", x=0.02, ha="left", fontsize=9)
    figure.text(0.98, 0.005, DISCLAIMER, ha="right", fontsize=6, color="gray")
    figure.tight_layout()
    return figure


def main(argv: Sequence[str]) -> None:
    """Asks the run's newest model one question of its test split and draws what it did."""
    flags = parse_arguments(
        __doc__,
        argv,
        {
            "--workdir": {"required": True, "metavar": "DIR", "help": "folder of a finished run"},
            "--out": {"required": True, "metavar": "FILE", "help": "the picture, png"},
            "--record": {"type": int, "default": 0, "help": "which question of the test split"},
        },
    )
    record = prepared_suite(flags.workdir).records("eval", "test")[flags.record]
    video = suite_dir(flags.workdir) / "videos" / f"{record['video']}.mp4"
    trace = medscope_jax.load(flags.workdir).ask(video, record["question"])
    print(trace)
    figure = draw_trace(trace, record["evidence"].reshape(-1, 2))
    figure.savefig(flags.out, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    run_main(main)
