"""Phantom procedures: scripts of clinical-looking recordings whose events are known exactly.

As imaging has phantoms, so have procedures: a script is a sequence of phases, each with its own
light, and of brief events inside them. Phases show in a sparse preview; no event does, because no
event covers a preview instant. phantom_render draws a script; nothing here draws.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from medscope_jax.parts import SPLITS
from medscope_jax.video.frames import preview_indices

SOURCES = ("ophthalmic", "endoscopic", "laparoscopic")
SIDES = ("left", "right")
COLOURS = ("red", "yellow", "green", "blue")
COUNTS = ("one", "two", "three")

# Whole seconds, both ends possible.
DURATIONS = {"ophthalmic": (150, 240), "endoscopic": (60, 100), "laparoscopic": (190, 240)}
# How much a source's own habit, against chance, decides the order of phases.
_HABIT = {"ophthalmic": 0.5, "endoscopic": 0.5, "laparoscopic": 0.0}
# Relative frequency of 4, 5 and 6 phases. Few and long ones: a guess without looking should miss.
_NUM_PHASES = (0.6, 0.3, 0.1)
# Relative frequency of an event's length in seconds; mostly 3 to 7.
_LENGTHS = {2: 1, 3: 4, 4: 4, 5: 4, 6: 3, 7: 2, 8: 1}
_EVENT_CHANCE = 0.9
_MIN_EVENTS = 3
# The teacher's first window spreads 16 frames over all that the preview allows a phase to be, a few
# seconds jitter included; a shorter event could fall between two of them and never be seen.
_COARSE_FRAMES, _COARSE_SLACK = 16, 4


@dataclasses.dataclass(frozen=True)
class EventKind:
    """A kind of event: its word, the one phase it belongs to, and the two details one can ask."""

    name: str
    phase: str
    details: tuple[str, str]
    singular: str
    plural: str


_EVENTS = (
    EventKind("bleed", "incision", ("side", "count"), "bleed", "bleeds"),
    EventKind("polyp", "inspection", ("colour", "side"), "polyp", "polyps"),
    EventKind("jet", "irrigation", ("colour", "side"), "jet", "jets"),
    EventKind("grasper", "removal", ("colour", "side"), "grasper", "graspers"),
    EventKind("implant", "insertion", ("colour", "count"), "implant", "implants"),
    EventKind("smoke", "cautery", ("side", "count"), "smoke puff", "smoke puffs"),
    EventKind("clip", "closure", ("colour", "count"), "clip", "clips"),
)
EVENTS = {kind.name: kind for kind in _EVENTS}
PHASES = tuple(kind.phase for kind in _EVENTS)


@dataclasses.dataclass(frozen=True)
class Phase:
    """A phase shows at start <= t < end, whole seconds; first_seen, last_seen: in the preview."""

    kind: str
    start: int
    end: int
    first_seen: int
    last_seen: int


@dataclasses.dataclass(frozen=True)
class Event:
    """An event shows at start <= t <= end, whole seconds; unasked details are set all the same."""

    kind: str
    start: int
    end: int
    side: str
    colour: str
    count: str

    @property
    def centre(self) -> int:
        """The tick in the middle; a polyp-like finding of even length is clearest there."""
        return (self.start + self.end) // 2


@dataclasses.dataclass(frozen=True)
class Procedure:
    """One scripted recording; entropy seeds its drawing and its records.

    Attributes:
      id: unique over splits, e.g. "train-ophthalmic-007".
      split, source: of SPLITS and SOURCES.
      duration: whole seconds.
      preview: the seconds at which a preview shows a frame.
      phases: in time order, covering [0, duration).
      events: in time order, at most one a phase.
      entropy: the seed words of this procedure.
    """

    id: str
    split: str
    source: str
    duration: int
    preview: tuple[int, ...]
    phases: tuple[Phase, ...]
    events: tuple[Event, ...]
    entropy: tuple[int, ...]

    def phase_at(self, time: float) -> Phase:
        """The phase that shows at a time; the last one beyond the end."""
        return next((p for p in self.phases if time < p.end), self.phases[-1])

    def phase_of(self, event: Event) -> Phase:
        """The phase that an event belongs to."""
        return self.phase_at(event.start)

    def bracket(self, phase: Phase) -> tuple[int, int]:
        """The tightest preview instants around a phase, neither showing it: all it can cover."""
        before = [t for t in self.preview if t < phase.first_seen]
        after = [t for t in self.preview if t > phase.last_seen]
        return max(before, default=0), min(after, default=self.duration - 1)

    def random(self, *purpose: int) -> np.random.Generator:
        """A generator of this procedure's own for one purpose; equal calls give equal streams."""
        seed, *key = self.entropy
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(*key, *purpose)))


def make_procedure(
    seed: int, split: str, source: str, index: int, preview_frames: int = 12
) -> Procedure:
    """Writes the script of one procedure, a function of the arguments alone.

    Every phase shows at two preview instants or more, its events between those or beside them: the
    preview tells around when to look, never what is there.

    Args:
      seed: the suite's seed.
      split, source: of SPLITS and SOURCES.
      index: which procedure of that split and source.
      preview_frames: frames of the model's preview of the whole recording, at least 8.

    Raises:
      ValueError: preview_frames is under 8, or split or source is unknown.
    """
    if preview_frames < 8:
        raise ValueError(f"phantom procedures need a preview of 8 frames or more: {preview_frames}")
    entropy = (seed, SPLITS.index(split), SOURCES.index(source), index)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=entropy[1:]))
    low, high = DURATIONS[source]
    duration = int(rng.integers(low, high + 1))
    preview = preview_indices(duration, preview_frames)
    phases = _phases(rng, source, preview, duration)
    events = _events(rng, source, preview, phases)
    return Procedure(
        id=f"{split}-{source}-{index:03d}",
        split=split,
        source=source,
        duration=duration,
        preview=tuple(int(t) for t in preview),
        phases=phases,
        events=events,
        entropy=entropy,
    )


def to_json(procedure: Procedure) -> dict:
    """The script as plain lists and dicts."""
    return dataclasses.asdict(procedure)


def from_json(script: Mapping) -> Procedure:
    """The inverse of to_json, from parsed JSON."""
    return Procedure(
        **{
            **script,
            "preview": tuple(script["preview"]),
            "entropy": tuple(script["entropy"]),
            "phases": tuple(Phase(**phase) for phase in script["phases"]),
            "events": tuple(Event(**event) for event in script["events"]),
        }
    )


def _phases(
    rng: np.random.Generator, source: str, preview: np.ndarray, duration: int
) -> tuple[Phase, ...]:
    """Chooses 4 to 6 kinds, their order, and how many preview instants each one holds."""
    num = min(int(rng.choice([4, 5, 6], p=_NUM_PHASES)), len(preview) // 2)
    kinds = rng.permutation(len(PHASES))[:num]
    habit = _HABIT[source]
    kinds = kinds[np.argsort(habit * kinds / len(PHASES) + (1 - habit) * rng.random(num))]

    instants = np.full(num, 2)
    most = -(-len(preview) // num)
    for _ in range(len(preview) - 2 * num):
        instants[rng.choice(np.flatnonzero(instants < most))] += 1

    # A change of phase lies well inside its gap, so each phase lasts 1.5 preview spacings or more.
    last_instant = np.cumsum(instants) - 1
    starts = [0]
    for i, instant in enumerate(last_instant[:-1]):
        fraction = rng.uniform(0.5 if i == 0 else 0.25, 0.5 if i == num - 2 else 0.75)
        gap = preview[instant + 1] - preview[instant]
        starts.append(int(preview[instant] + np.clip(round(fraction * gap), 1, gap - 1)))
    ends = [*starts[1:], duration]
    return tuple(
        Phase(PHASES[kind], start, end, int(preview[last - n + 1]), int(preview[last]))
        for kind, start, end, last, n in zip(
            kinds, starts, ends, last_instant, instants, strict=True
        )
    )


def _events(
    rng: np.random.Generator, source: str, preview: np.ndarray, phases: tuple[Phase, ...]
) -> tuple[Event, ...]:
    """Places at most one event a phase, anywhere in it that no preview instant shows."""
    has_event = rng.random(len(phases)) < _EVENT_CHANCE
    missing = max(0, _MIN_EVENTS - int(has_event.sum()))
    has_event[rng.permutation(np.flatnonzero(~has_event))[:missing]] = True
    kind_of = {kind.phase: kind for kind in EVENTS.values()}
    events = []
    for phase in (p for p, chosen in zip(phases, has_event, strict=True) if chosen):
        kind = kind_of[phase.kind]
        starts = _starts(source, preview, phase)
        lengths = list(starts)
        weights = np.array([_LENGTHS[n] for n in lengths], float)
        length = int(rng.choice(lengths, p=weights / weights.sum()))
        start = int(rng.choice(starts[length]))
        details = {
            "side": str(rng.choice(SIDES)),
            "colour": str(rng.choice(COLOURS)) if "colour" in kind.details else COLOURS[0],
            "count": str(rng.choice(COUNTS)) if "count" in kind.details else COUNTS[0],
        }
        events.append(Event(kind.name, start, start + length, **details))
    return tuple(events)


def _starts(source: str, preview: np.ndarray, phase: Phase) -> dict[int, list[int]]:
    """Where an event of each possible length can start: {seconds: starts}, never empty.

    An event keeps a tick, a second, away from preview instants and from the phase's ends, and lasts
    long enough to show in the teacher's first window.
    """
    first = max((int(t) for t in preview if t < phase.first_seen), default=0)
    last = min((int(t) for t in preview if t > phase.last_seen), default=phase.end - 1)
    shortest = -(-(last - first + _COARSE_SLACK) // (_COARSE_FRAMES - 1)) - 1
    # An even length has a tick in its middle: the frame time that endoscopic evidence names.
    step = 2 if source == "endoscopic" else 1
    starts = {}
    for length in (n for n in _LENGTHS if n % step == 0):
        begins = np.arange(phase.start + 1, phase.end - length - 1)
        # No preview instant lies within: as many are before its start as up to its end.
        before, until = (
            np.searchsorted(preview, begins),
            np.searchsorted(preview, begins + length, "right"),
        )
        if fits := begins[before == until].tolist():
            starts[length] = fits
    return {n: fits for n, fits in starts.items() if n >= shortest} or starts
