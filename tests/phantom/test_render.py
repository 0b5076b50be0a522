"""Drawings: deterministic, events where scripted, read back through the real decoder."""

import dataclasses

import cv2
import numpy as np
import pytest

from medscope_jax.phantom.backgrounds import HEIGHT, WIDTH
from medscope_jax.phantom.procedure import EVENTS, SOURCES, make_procedure
from medscope_jax.phantom.render import FPS, render, write_video
from medscope_jax.video.decode import read_video
from medscope_jax.video.frames import VideoError


@pytest.fixture(scope="module", params=SOURCES)
def recorded(request, tmp_path_factory):
    """A procedure, its mp4 file, and its frames at 1 fps without any compression."""
    procedure = make_procedure(1, "test", request.param, 2)
    path = tmp_path_factory.mktemp("phantom") / f"{procedure.id}.mp4"
    write_video(procedure, path)
    drawn = np.stack([frame for i, frame in enumerate(render(procedure)) if i % FPS == 0])
    return procedure, path, drawn


def test_drawing_is_deterministic(recorded):
    procedure, _, drawn = recorded
    again = np.stack([frame for i, frame in enumerate(render(procedure)) if i % FPS == 0])
    assert drawn.shape == (procedure.duration, HEIGHT, WIDTH, 3) and drawn.dtype == np.uint8
    assert np.array_equal(drawn, again)


def test_read_back_is_what_was_drawn(recorded):
    procedure, path, drawn = recorded
    video = read_video(path, fps=1.0, size=(28, 56))
    assert not video.notes
    assert np.allclose(video.times, np.arange(procedure.duration))
    assert abs(video.duration - procedure.duration) < 1e-6
    small = np.stack([cv2.resize(f, (56, 28), interpolation=cv2.INTER_AREA) for f in drawn])
    assert np.abs(video.frames.astype(float) - small).mean() < 8  # compression


def test_events_show_in_their_half_and_span_only(recorded):
    """Against the same recording without events: differences only where the script says."""
    procedure, _, drawn = recorded
    bare = dataclasses.replace(procedure, events=())
    # The generator draws events' places last, so everything else stays as it was.
    empty = np.stack([frame for i, frame in enumerate(render(bare)) if i % FPS == 0])
    changed = (drawn != empty).any(-1)
    expected = np.zeros((procedure.duration, 2), bool)
    for event in procedure.events:
        expected[event.start : event.end + 1, int(event.side == "right")] = True
    halves = np.stack([changed[:, :, : WIDTH // 2], changed[:, :, WIDTH // 2 :]], 1)
    assert np.array_equal(halves.any((2, 3)), expected)
    # Large enough to be read from 28 x 28 pixels.
    assert halves.mean((2, 3))[expected].min() > 0.03
    assert not expected[list(procedure.preview)].any()


def test_colours_can_be_told_from_pixels(recorded):
    """The painted colour dominates what an event adds to its half."""
    procedure, path, _ = recorded
    video = read_video(path, fps=1.0, size=(28, 56))
    hues = {"red": 0, "yellow": 30, "green": 60, "blue": 118}
    for event in procedure.events:
        if "colour" not in EVENTS[event.kind].details:
            continue
        half = video.frames[event.centre][:, : 28 if event.side == "left" else None]
        half = half if event.side == "left" else half[:, 28:]
        hue, saturation, value = np.moveaxis(cv2.cvtColor(half, cv2.COLOR_RGB2HSV), -1, 0)
        vivid = (saturation > 190) & (value > 150)
        away = [np.abs((hue[vivid].astype(int) - h + 90) % 180 - 90).mean() for h in hues.values()]
        assert list(hues)[int(np.argmin(away))] == event.colour


def test_unwritable_path_is_one_line(tmp_path):
    procedure = make_procedure(0, "train", "endoscopic", 0)
    with pytest.raises(VideoError, match="cannot be written"):
        write_video(procedure, tmp_path / "missing" / "video.mp4")
