"""Geometry of a trace's timeline: seconds to places on a drawing."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

# Drawing units; the page scales them.
WIDTH, LEFT, RIGHT = 960.0, 132.0, 24.0
TOP, LANE, AXIS = 6.0, 30.0, 26.0
# Windows of a second in a video of hours must still be seen.
_THINNEST = 3.0
_STEPS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss, with tenths where there are any: 87.5 -> "1:27.5"."""
    tenths = round(max(0.0, float(seconds)) * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    second = f"{rest // 10:02d}" + (f".{rest % 10}" if rest % 10 else "")
    return f"{hours}:{minutes:02d}:{second}" if hours else f"{minutes}:{second}"


def tick_times(duration: float, most: int = 9) -> list[float]:
    """Round times from 0 to the duration, at most `most` of them."""
    step = next((s for s in _STEPS if duration / s < most), None)
    if step is None:
        step = math.ceil(duration / most / 3600) * 3600
    return [float(tick * step) for tick in range(int(duration // step) + 1)]


def timeline(
    duration: float,
    previews: Iterable[float] = (),
    looks: Iterable[tuple[str, float, float]] = (),
    stated: Iterable[Sequence[float]] = (),
    evidence: Iterable[Sequence[float]] = (),
    evidence_time: float | None = None,
) -> dict[str, Any]:
    """Lanes, marks and ticks of a trace's timeline, from top to bottom.

    Args:
      duration: of the video; all times are in seconds.
      previews: times of the frames that were shown with the question.
      looks: (tool, start, end) of each look.
      stated: spans that the answer states.
      evidence, evidence_time: the true spans, or the true frame's time.

    Returns:
      A dict: width, height, left, right, ticks [{x, label}], bands [{x, width}] of the true
      evidence behind all lanes, lanes [{label, kind, y, marks}], and summary, a text that says it
      all. A mark is {shape: "span" | "instant" | "tick", x, width, text, text_x, anchor, title}.
    """
    duration = max(float(duration), 1e-6)
    scale = (WIDTH - LEFT - RIGHT) / duration

    def place(seconds: float) -> float:
        return round(LEFT + min(max(float(seconds), 0.0), duration) * scale, 2)

    def span(start: float, end: float, name: str) -> dict[str, Any]:
        x, width = place(start), max(place(end) - place(start), _THINNEST)
        x = min(x, WIDTH - RIGHT - width)
        return _labelled("span", x, width, f"{clock(start)} to {clock(end)}", name)

    def instant(time: float, name: str) -> dict[str, Any]:
        return _labelled("instant", place(time), 0.0, clock(time), name)

    lanes: list[dict[str, Any]] = []

    def lane(label: str, kind: str, marks: list[dict[str, Any]]) -> None:
        if marks:
            y = round(TOP + LANE * len(lanes), 2)
            lanes.append({"label": label, "kind": kind, "y": y, "marks": marks})

    truth = [span(start, end, "true evidence") for start, end in evidence]
    if evidence_time is not None:
        truth.append(instant(evidence_time, "true evidence"))
    lane("true evidence", "truth", truth)
    lane("preview", "preview", [{"shape": "tick", "x": place(t), "text": ""} for t in previews])
    for number, (tool, start, end) in enumerate(looks, 1):
        name, frame = f"look {number}", tool == "get_frame"
        mark = instant(start, name) if frame else span(start, end, name)
        lane(f"{name}: {'frame' if frame else 'window'}", "look", [mark])
    lane("stated window", "stated", [span(start, end, "stated window") for start, end in stated])

    height = TOP + LANE * len(lanes) + AXIS
    return {
        "width": WIDTH,
        "height": height,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "lane": LANE,
        "axis": height - AXIS,
        "ticks": [{"x": place(t), "label": clock(t)} for t in tick_times(duration)],
        "bands": [{"x": mark["x"], "width": max(mark["width"], 1.0)} for mark in truth],
        "lanes": lanes,
        "summary": _summary(duration, lanes),
    }


def _labelled(shape: str, x: float, width: float, text: str, name: str) -> dict[str, Any]:
    # The label stands behind its mark, or before it where the drawing would end.
    behind = x + width < WIDTH - RIGHT - 150
    gap = 8.0 if shape == "span" else 13.0
    return {
        "shape": shape,
        "x": x,
        "width": round(width, 2),
        "text": text,
        "text_x": round(x + width + gap if behind else x - gap, 2),
        "anchor": "start" if behind else "end",
        "title": f"{name}: {text}",
    }


def _summary(duration: float, lanes: list[dict[str, Any]]) -> str:
    parts = [f"Timeline of a video of {clock(duration)}."]
    for lane in lanes:
        if lane["kind"] == "preview":
            parts.append(f"Preview: {len(lane['marks'])} frames.")
        else:
            parts.append(f"{lane['label']} {', '.join(mark['text'] for mark in lane['marks'])}.")
    return " ".join(part[0].upper() + part[1:] for part in parts)
