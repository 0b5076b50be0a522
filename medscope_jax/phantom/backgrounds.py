"""What phantom procedures look like: each phase's light and texture, each source's anatomy.

All pictures are RGB uint8. A phase's light is the same over sources, so that it can be recognised
in an anatomy never seen before; the anatomy only ever covers part of it.
"""

import cv2
import numpy as np

HEIGHT, WIDTH = 64, 128
# The scene is larger than the picture by this many pixels a side: the camera's room to move.
MARGIN = 8

_LIGHT = {
    "incision": (200, 168, 140),
    "inspection": (168, 176, 182),
    "irrigation": (62, 112, 150),
    "removal": (92, 60, 124),
    "insertion": (56, 128, 104),
    "cautery": (128, 88, 26),
    "closure": (196, 106, 138),
}


def phase_scene(rng: np.random.Generator, phase: str, source: str, tint: np.ndarray) -> np.ndarray:
    """Paints the still background of one phase: uint8 [HEIGHT + 2 MARGIN, WIDTH + 2 MARGIN, 3].

    Args:
      rng: draws the texture.
      phase: a phase kind.
      source: a procedure family.
      tint: [3] gain of each channel, the recording's own light.
    """
    height, width = HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y - height / 2, x - width / 2
    soft = cv2.resize(
        rng.normal(size=(5, 8)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    light = 1 + 0.06 * soft + 0.12 * _texture(rng, phase, x, y, soft)
    scene = np.asarray(_LIGHT[phase], np.float32) * tint * light[..., None]
    scene = np.clip(scene, 0, 255).astype(np.uint8)
    _ANATOMY[source](rng, scene)
    return scene


def vignette(source: str) -> np.ndarray | None:
    """What the optics take from each pixel, uint8 [HEIGHT, WIDTH, 3], or None."""
    if source != "endoscopic":
        return None
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    radius = np.hypot((y - HEIGHT / 2 + 0.5) / (HEIGHT / 2), (x - WIDTH / 2 + 0.5) / (WIDTH / 2))
    dark = np.clip((radius - 1.15) / 0.12, 0, 1) * 255
    return np.repeat(dark.astype(np.uint8)[..., None], 3, axis=2)


def _texture(
    rng: np.random.Generator, phase: str, x: np.ndarray, y: np.ndarray, soft: np.ndarray
) -> np.ndarray:
    """A phase's pattern in [-1, 1] over the scene."""
    shift = rng.uniform(0, 2 * np.pi)
    match phase:
        case "incision":  # fibres along the cut
            return np.sin(y / 2.2 + soft + shift)
        case "inspection":  # even light, brightest in the middle
            return 1 - 2 * np.hypot(x / 80, y / 50)
        case "irrigation":  # ripples
            return np.sin(np.hypot(x, 1.5 * y) / 3 + shift)
        case "removal":  # a mesh
            return np.sin(x / 3.5 + shift) * np.sin(y / 3.5)
        case "insertion":  # oblique bands
            return np.sin((x + y) / 4 + soft + shift)
        case "cautery":  # char
            return np.clip(rng.normal(size=x.shape), -1, 1)
        case "closure":  # folds
            return np.sin(x / 3 + 2 * soft + shift)
    raise ValueError(f"unknown phase kind {phase!r}")


def _shade(scene: np.ndarray, mask: np.ndarray, gain: float) -> None:
    """Darkens or brightens the scene where a uint8 mask is set, keeping its hue."""
    where = mask > 0
    scene[where] = np.clip(scene[where] * gain, 0, 255).astype(np.uint8)


def _eye(rng: np.random.Generator, scene: np.ndarray) -> None:
    """An iris with its pupil, a bright limbus around it, and a few vessels."""
    height, width = scene.shape[:2]
    centre = (width // 2 + int(rng.integers(-6, 7)), height // 2 + int(rng.integers(-3, 4)))
    radius = int(rng.integers(20, 25))
    for angle in rng.uniform(0, 2 * np.pi, 7):
        ray = np.array([np.cos(angle), np.sin(angle)])
        start = (centre + 32 * ray).astype(int).tolist()
        end = (centre + 74 * ray + rng.normal(size=2) * 6).astype(int).tolist()
        cv2.line(scene, start, end, scene[4, 4].astype(float) * (0.9, 0.6, 0.6), 1)
    for size, gain in ((radius + 3, 1.2), (radius, 0.62), (radius // 2, 0.35)):
        mask = np.zeros(scene.shape[:2], np.uint8)
        cv2.circle(mask, centre, size, 1, -1)
        _shade(scene, mask, gain)


def _lumen(rng: np.random.Generator, scene: np.ndarray) -> None:
    """A tube looked into: rings of folds around a dark, off-centre lumen."""
    height, width = scene.shape[:2]
    centre = (width // 2 + int(rng.integers(-14, 15)), height // 2 + int(rng.integers(-5, 6)))
    tilt = float(rng.uniform(-15, 15))
    for size, gain in ((52, 0.92), (40, 0.9), (29, 0.85), (19, 0.7), (11, 0.4)):
        mask = np.zeros(scene.shape[:2], np.uint8)
        cv2.ellipse(mask, centre, (size, int(size * 0.62)), tilt, 0, 360, 1, -1)
        _shade(scene, mask, gain)
        cv2.ellipse(mask, centre, (size, int(size * 0.62)), tilt, 0, 360, 2, 1)
        _shade(scene, (mask == 2).astype(np.uint8), 1.25)


def _layers(rng: np.random.Generator, scene: np.ndarray) -> None:
    """Layered tissue with wavy edges, and two instrument shafts from the lower corners."""
    height, width = scene.shape[:2]
    x = np.arange(width)
    rows = np.arange(height)[:, None]
    for level, gain in ((0.3, 0.88), (0.55, 0.82), (0.8, 0.78)):
        wave = np.sin(x / rng.uniform(9, 16) + rng.uniform(0, 6)) * rng.uniform(2, 5)
        edge = (height * level + wave).astype(int)
        _shade(scene, (rows >= edge).astype(np.uint8), gain)
        _shade(scene, ((rows >= edge) & (rows < edge + 2)).astype(np.uint8), 1.4)
    for corner, direction in ((0, 1), (width - 1, -1)):
        tip = (corner + direction * int(rng.integers(26, 40)), height - int(rng.integers(24, 36)))
        cv2.line(scene, (corner, height - 1), tip, (88, 90, 96), 6)
        cv2.line(scene, (corner, height - 3), tip, (150, 152, 158), 2)


_ANATOMY = {"ophthalmic": _eye, "endoscopic": _lumen, "laparoscopic": _layers}
