"""Draws phantom procedures and writes them as real mp4 files.

Backgrounds are painted once a phase; a frame is then a moving crop of one, with noise, glare,
light pulses and wandering shafts, and the event if one shows. About 0.1 ms a frame.
"""

import contextlib
import pathlib
from collections.abc import Generator

import cv2
import numpy as np

from medscope_jax.files import check_folder, put_file
from medscope_jax.phantom.backgrounds import HEIGHT, MARGIN, WIDTH, phase_scene, vignette
from medscope_jax.phantom.procedure import COUNTS, EVENTS, Event, Procedure
from medscope_jax.video.demux import MediaSource
from medscope_jax.video.frames import VideoError
from medscope_jax.video.streams import list_packets

FPS = 4
_HALF = WIDTH // 2
_DRAWING = 1  # the purpose word of Procedure.random
_PAINT = {
    "red": (232, 18, 24),
    "yellow": (250, 226, 20),
    "green": (20, 205, 45),
    "blue": (22, 50, 240),
}
_BLOOD, _PUFF, _STEEL, _EDGE = (196, 0, 16), (240, 240, 244), (150, 154, 160), (16, 14, 18)


def render(procedure: Procedure) -> Generator[np.ndarray, None, None]:
    """Yields every frame, RGB uint8 [HEIGHT, WIDTH, 3]; frame i shows time i / FPS."""
    rng = procedure.random(_DRAWING)
    num_frames = procedure.duration * FPS
    tint = rng.uniform(0.9, 1.1) * rng.uniform(0.95, 1.05, 3)
    scenes = [phase_scene(rng, phase.kind, procedure.source, tint) for phase in procedure.phases]
    dark = vignette(procedure.source)
    camera = _wander(rng, num_frames, 2, period=8.0, reach=MARGIN - 1)
    noise = rng.integers(0, 10, (12, HEIGHT, WIDTH, 3), dtype=np.uint8)
    grain = rng.integers(len(noise), size=(num_frames, 2))
    gain = 1 + 0.05 * _wander(rng, num_frames, 1, period=12.0, reach=1.0)[:, 0]
    gain += 0.15 * _bursts(rng, num_frames, per_minute=3, longest=3)
    glare = _bursts(rng, num_frames, per_minute=6, longest=2)
    glare_at = rng.integers((4, 4), (WIDTH - 4, HEIGHT - 4), size=(num_frames, 2))
    shaft_shows = _bursts(rng, num_frames, per_minute=2, longest=24)
    shaft = _wander(rng, num_frames, 2, period=6.0, reach=1.0)
    events = [(event, _places(rng, event)) for event in procedure.events]

    which = 0
    for i in range(num_frames):
        time = i / FPS
        while time >= procedure.phases[which].end:
            which += 1
        dx, dy = np.round(MARGIN + camera[i]).astype(int)
        frame = scenes[which][dy : dy + HEIGHT, dx : dx + WIDTH].copy()
        if shaft_shows[i]:
            tip = (int(WIDTH / 2 + 40 * shaft[i, 0]), int(26 + 12 * shaft[i, 1]))
            cv2.line(frame, (tip[0] + 30, -4), tip, _STEEL, 4)
        if glare[i]:
            cv2.ellipse(frame, glare_at[i].tolist(), (6, 2), 20, 0, 360, (255, 255, 250), -1)
        frame = cv2.convertScaleAbs(frame, alpha=gain[i])
        for event, places in events:
            if event.start <= time <= event.end:
                _draw_event(frame, event, places, time, camera[i] / 3, procedure.source)
        if dark is not None:
            frame = cv2.subtract(frame, dark)
        yield cv2.subtract(cv2.add(frame, noise[grain[i, 0]]), noise[grain[i, 1]])


def write_video(procedure: Procedure, path: str | pathlib.Path) -> None:
    """Writes a procedure as an mp4 file (MPEG-4 part 2, FPS frames a second).

    The file appears under its name only when it is whole, so a killed run leaves no half file.

    Raises:
      VideoError: OpenCV can't write there, or the disk is full.
      UserError: the folder's name is no UTF-8.
    """
    path = pathlib.Path(path)
    check_folder(path.parent, "the folder")  # OpenCV does not survive other names
    partial = path.with_suffix(".partial.mp4")
    # On a full disk it would print a line for every frame; what was written is counted below.
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        writer = cv2.VideoWriter(
            str(partial), cv2.VideoWriter.fourcc(*"mp4v"), float(FPS), (WIDTH, HEIGHT)
        )
        if not writer.isOpened():
            raise VideoError(f"{path}: cannot be written; is the folder there and writable?")
        with contextlib.closing(render(procedure)) as frames:
            for frame in frames:
                writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
    finally:
        cv2.utils.logging.setLogLevel(level)
    # OpenCV raises nothing when a write fails; the container then lacks its index and frames.
    written = _count_frames(partial)
    if written != procedure.duration * FPS:
        partial.unlink(missing_ok=True)
        raise VideoError(f"{path}: only {written} frames could be written; is the disk full?")
    put_file(partial, path)


def _count_frames(path: pathlib.Path) -> int:
    """How many frames a recording holds; 0 if it can't be read."""
    try:
        return len(list_packets(MediaSource(str(path.absolute()), str(path)))[1])
    except VideoError:
        return 0


def _wander(
    rng: np.random.Generator, length: int, num: int, period: float, reach: float
) -> np.ndarray:
    """Smooth random paths [length, num] within +-reach: sums of sines of about period seconds."""
    time = np.arange(length)[:, None, None] / FPS
    rates = 2 * np.pi / (period * rng.uniform(0.6, 2.5, (num, 3)))
    return reach * np.sin(time * rates + rng.uniform(0, 2 * np.pi, (num, 3))).mean(-1)


def _bursts(rng: np.random.Generator, length: int, per_minute: float, longest: int) -> np.ndarray:
    """Booleans [length]: true in short random runs of 1 to longest frames."""
    on = np.zeros(length, bool)
    for start in np.flatnonzero(rng.random(length) < per_minute / (60 * FPS)):
        on[start : start + int(rng.integers(1, longest + 1))] = True
    return on


def _places(rng: np.random.Generator, event: Event) -> np.ndarray:
    """Centres [n, 2] (x, y) of an event's parts in its half of the picture.

    What can be counted keeps to a quarter of the half each, so that no two ever touch.
    """
    if "count" not in EVENTS[event.kind].details:
        return rng.uniform((24, 24), (_HALF - 24, HEIGHT - 24), (1, 2))
    quarters = rng.permutation(4)[: COUNTS.index(event.count) + 1]
    centres = np.stack([quarters % 2, quarters // 2], 1) * 32.0 + 16.0
    return centres + rng.uniform(-3, 3, centres.shape)


def _draw_event(
    frame: np.ndarray,
    event: Event,
    places: np.ndarray,
    time: float,
    drift: np.ndarray,
    source: str,
) -> None:
    """Draws an event into its half of the frame, in place; the other half stays untouched."""
    left = 0 if event.side == "left" else _HALF
    half = frame[:, left : left + _HALF]
    radius = 9.5 if "count" in EVENTS[event.kind].details else 15.0
    if source == "endoscopic":
        # A finding comes into view, is clearest in the middle of its span, and leaves.
        reach = max(1.0, (event.end - event.start) / 2)
        radius *= 1.1 - 0.2 * abs(time - event.centre) / reach
    outer = -8 if left == 0 else _HALF + 8
    paint = _PAINT[event.colour]
    for i, place in enumerate(places):
        sway = 1.2 * np.sin(2.0 * time + np.array([i, i + 1.5]))
        x, y = np.round(place + drift + sway).astype(int).tolist()
        _DRAW[event.kind](half, x, y, round(radius), paint, outer)


def _disc(half: np.ndarray, x: int, y: int, radius: int, paint: tuple) -> None:
    """A disc with the dark edge that parts it from any background."""
    cv2.circle(half, (x, y), radius, paint, -1)
    cv2.circle(half, (x, y), radius, _EDGE, 2)


def _bleed(half, x, y, radius, paint, outer):
    cv2.circle(half, (x + 1, y + radius), radius // 2, _BLOOD, -1)
    _disc(half, x, y, radius, _BLOOD)


def _polyp(half, x, y, radius, paint, outer):
    _disc(half, x, y, radius, paint)
    cv2.circle(half, (x - radius // 3, y - radius // 3), max(1, radius // 6), (255, 255, 255), -1)


def _jet(half, x, y, radius, paint, outer):
    fan = np.array([[outer, y], [x, y - radius], [x + (x - outer) // 4, y], [x, y + radius]])
    cv2.fillPoly(half, [fan.astype(np.int32)], paint)
    cv2.circle(half, (x, y), radius - 3, paint, -1)
    cv2.polylines(half, [fan.astype(np.int32)], True, _EDGE, 1)


def _grasper(half, x, y, radius, paint, outer):
    cv2.line(half, (outer, y), (x, y), _STEEL, 6)
    cv2.ellipse(half, (x, y), (radius, radius), 0, 35 if outer < 0 else 215,
                325 if outer < 0 else 505, paint, -1)  # fmt: skip
    cv2.ellipse(half, (x, y), (radius, radius), 0, 35 if outer < 0 else 215,
                325 if outer < 0 else 505, _EDGE, 2)  # fmt: skip


def _implant(half, x, y, radius, paint, outer):
    _disc(half, x, y, radius, paint)
    cv2.circle(half, (x, y), max(1, radius // 4), (250, 250, 250), -1)


def _smoke(half, x, y, radius, paint, outer):
    for dx, dy in ((-radius // 3, radius // 4), (radius // 3, radius // 4), (0, -radius // 4)):
        cv2.circle(half, (x + dx, y + dy), radius * 3 // 4, _PUFF, -1)


def _clip(half, x, y, radius, paint, outer):
    corners = (x - radius, y - radius + 1), (x + radius, y + radius - 1)
    cv2.rectangle(half, *corners, paint, -1)
    cv2.rectangle(half, *corners, _EDGE, 2)
    cv2.line(half, (x - radius, y), (x + radius // 2, y), _EDGE, 1)


_DRAW = {
    "bleed": _bleed,
    "polyp": _polyp,
    "jet": _jet,
    "grasper": _grasper,
    "implant": _implant,
    "smoke": _smoke,
    "clip": _clip,
}
