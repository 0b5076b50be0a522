"""Learning curves of a run, drawn by matplotlib as SVG data URIs for light and dark pages."""

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medscope_jax.visible import visible

# Shown first, in this order; the rest follows as logged. First whether it learns what it should,
# then what goes wrong before the reward shows it: a policy that stiffens, leaves its samples or has
# nothing to learn from, answers that grow, a sampler and a trainer that disagree.
_FIRST = (
    *(
        "loss",
        "reward",
        "validation_score",
        "reward_accuracy",
        "iou",
        "tool_rate",
        "entropy",
        "groups_without_signal",
    ),
    *("tokens", "clip_fraction", "logprob_gap_mean", "kl", "gradient_norm", "skipped"),
    *("learning_rate", "calls", "reward_format"),
)
_HIDDEN = ("step", "stage", "time", "seconds", "seed", "epoch")
_MOST_PANELS = 9
_MOST_POINTS = 600
_LARGEST = 3.5e38  # beyond float32, in which all is computed: a damaged line's number
_COLORS = {
    "light": {"text": "#59636e", "line": "#1f55b5", "grid": "#d8dde3"},
    "dark": {"text": "#a3adb8", "line": "#8ab8ff", "grid": "#363d46"},
}


def series(metrics: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, list[tuple]]]:
    """Metric rows as {stage: {name: [(step, value), ...]}}; what is no float32 is left out.

    Rows are {"stage", "step", name: value, ...}. Names that are wall-clock figures, and names with
    fewer than two points, are left out.
    """
    stages: dict[str, dict[str, list[tuple]]] = {}
    for row in metrics:
        names = stages.setdefault(str(row.get("stage", "run")), {})
        for name, value in row.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number and abs(value) < _LARGEST and not name.startswith(_HIDDEN):
                names.setdefault(name, []).append((row.get("step", 0), float(value)))

    def order(name: str) -> int:
        return _FIRST.index(name) if name in _FIRST else len(_FIRST)

    return {
        stage: {name: names[name] for name in sorted(names, key=order) if len(names[name]) > 1}
        for stage, names in stages.items()
        if any(len(points) > 1 for points in names.values())
    }


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """Mean of each value with up to `reach` neighbours on each side, fewer near the ends."""
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [math.fsum(window) / len(window) for window in windows]


def _draw(names: Mapping[str, list[tuple]], colors: Mapping[str, str]) -> str:
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(names) :]:
        panel.remove()
    for panel, (name, points) in zip(panels, names.items(), strict=False):
        steps, values = zip(*points[:: math.ceil(len(points) / _MOST_POINTS)], strict=True)
        panel.plot(steps, values, color=colors["line"], alpha=0.35, linewidth=0.8)
        panel.plot(steps, smooth(values, len(values) // 20), color=colors["line"], linewidth=1.8)
        title = visible(name).replace("_", " ")
        panel.set_title(title, color=colors["text"], fontsize=9, loc="left", parse_math=False)
        panel.tick_params(colors=colors["text"], labelsize=7.5, length=0)
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        panel.yaxis.set_major_locator(MaxNLocator(4))
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        panel.grid(color=colors["grid"], linewidth=0.6)
        panel.spines[:].set_visible(False)
    buffer = io.BytesIO()
    # A fixed salt and no date: the same run gives the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "medscope"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def learning_curves(metrics: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One figure a stage: {stage, light, dark, text, flat}; the text says where each curve ends.

    light and dark are SVG data URIs; at most nine metrics are drawn. What never changed has no
    curve: flat names those of interest with their value, "skipped 0, clip fraction 0".
    """
    figures = []
    for stage, names in series(metrics).items():
        still = {name: points[0][1] for name, points in names.items() if _is_flat(points)}
        flat = (f"{name.replace('_', ' ')} {still[name]:.3g}" for name in _FIRST if name in still)
        moving = [(name, points) for name, points in names.items() if name not in still]
        shown = dict((moving or list(names.items()))[:_MOST_PANELS])
        ends = "; ".join(
            f"{name.replace('_', ' ')} {points[0][1]:.3g} to {points[-1][1]:.3g}"
            for name, points in shown.items()
        )
        last = max(step for points in shown.values() for step, _ in points)
        drawn = {theme: _draw(shown, colors) for theme, colors in _COLORS.items()}
        text = {"text": f"{ends}, by step {last}", "flat": ", ".join(flat)}
        figures.append({"stage": stage} | text | drawn)
    return figures


def _is_flat(points: Sequence[tuple]) -> bool:
    return all(value == points[0][1] for _, value in points)
