"""What goes wrong in stage 3 while the reward rises: noticed while it trains, and said once.

A policy may stop to look, or look elsewhere, and still earn more: answers that the preview allows
are rewarded, too. Each is judged by means over WINDOW steps, the last ones against the best ones
before, and by how much steps scatter.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

WINDOW = 10  # steps
# Tool use has collapsed where at most this share is left of what it was, if it was this much.
_LEFT, _WAS = 0.5, 0.2
_SURE = 4.0  # standard errors of a difference
_LEAST = 0.02  # IoU


def watching(history: Sequence[Mapping]) -> Callable[[Mapping], list[str]]:
    """A function that is given the metrics of each further step, and says each alarm once, where it
    begins.

    Args:
      history: metrics of the steps so far, with tool_rate, iou and reward, each in [0, 1] or so.
    """
    steps: list[Mapping] = []
    said: set[str] = set()

    def watch(metrics: Mapping) -> list[str]:
        steps.append(metrics)
        begun = {kind: text for kind, text in alarms(steps).items() if kind not in said}
        said.update(begun)
        return list(begun.values())

    for metrics in history:
        watch(metrics)
    return watch


def alarms(steps: Sequence[Mapping]) -> dict[str, str]:
    """What is wrong after these steps, as lines by kind; {} where nothing is, or too few are."""
    if len(steps) < 2 * WINDOW:
        return {}
    tools, iou, reward = (
        np.array([float(step[name]) for step in steps]) for name in ("tool_rate", "iou", "reward")
    )
    found = {}
    used, _ = _windows(tools)
    if (most := used[:-WINDOW].max()) >= _WAS and used[-1] <= _LEFT * most:
        shares = f"from {100 * most:.0f} to {100 * used[-1]:.0f} % of rollouts"
        found["tools"] = f"alarm: tool use collapses, {shares}"
    fits, fits_error = _windows(iou)
    earned, earned_error = _windows(reward)
    best = int(fits[:-WINDOW].argmax())
    lost, gained = fits[best] - fits[-1], earned[-1] - earned[best]
    if lost > max(_LEAST, _SURE * math.hypot(fits_error[best], fits_error[-1])) and (
        gained > _SURE * math.hypot(earned_error[best], earned_error[-1])
    ):
        found["iou"] = (
            f"alarm: IoU falls from {fits[best]:.2f} to {fits[-1]:.2f} while the reward rises from "
            f"{earned[best]:.2f} to {earned[-1]:.2f}"
        )
    return found


def _windows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(means, their standard errors) of each WINDOW successive values, [N - WINDOW + 1]."""
    parts = np.lib.stride_tricks.sliding_window_view(values, WINDOW)
    return parts.mean(axis=1), parts.std(axis=1, ddof=1) / math.sqrt(WINDOW)
