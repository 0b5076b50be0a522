"""Scripts: deterministic, split-disjoint, and hidden from the preview by construction."""

import itertools

import numpy as np
import pytest

from medscope_jax.phantom.procedure import (
    DURATIONS,
    EVENTS,
    PHASES,
    SOURCES,
    SPLITS,
    from_json,
    make_procedure,
    to_json,
)
from medscope_jax.video.frames import preview_indices


@pytest.fixture(scope="module")
def scripts():
    return [
        make_procedure(3, split, source, index)
        for split, source, index in itertools.product(SPLITS, SOURCES, range(25))
    ]


def test_same_arguments_give_the_same_script(scripts):
    again = make_procedure(3, "train", "ophthalmic", 7)
    assert again in scripts
    assert make_procedure(4, "train", "ophthalmic", 7) != again
    assert np.array_equal(again.random(5).random(4), again.random(5).random(4))
    assert not np.array_equal(again.random(5).random(4), again.random(6).random(4))


def test_no_two_scripts_are_the_same(scripts):
    bodies = {(s.source, s.duration, s.phases, s.events) for s in scripts}
    assert len(bodies) == len({s.id for s in scripts}) == len(scripts)


def test_json_round_trip(scripts):
    assert all(from_json(to_json(script)) == script for script in scripts)


def test_phases_cover_the_recording_and_show_in_the_preview(scripts):
    for script in scripts:
        low, high = DURATIONS[script.source]
        assert low <= script.duration <= high
        assert script.preview == tuple(preview_indices(script.duration, 12))
        assert 4 <= len(script.phases) <= 6
        kinds = [phase.kind for phase in script.phases]
        assert len(set(kinds)) == len(kinds) and set(kinds) <= set(PHASES)
        assert script.phases[0].start == 0 and script.phases[-1].end == script.duration
        spacing = (script.duration - 1) / 11
        for phase, following in itertools.pairwise(script.phases):
            assert phase.end == following.start
        for phase in script.phases:
            # Whole seconds: up to one is lost where a gap of 5 s is split.
            assert phase.end - phase.start >= 1.5 * spacing - 1
            seen = [t for t in script.preview if phase.start <= t < phase.end]
            assert len(seen) >= 2 and (seen[0], seen[-1]) == (phase.first_seen, phase.last_seen)
            first, last = script.bracket(phase)
            assert first <= phase.start and phase.end - 1 <= last


def test_no_preview_shows_an_event(scripts):
    for script in scripts:
        assert len(script.events) >= 3
        assert len({event.kind for event in script.events}) == len(script.events)
        for event in script.events:
            phase = script.phase_of(event)
            assert phase.kind == EVENTS[event.kind].phase
            assert phase.start < event.start and event.end < phase.end - 1
            assert 2 <= event.end - event.start <= 8
            assert not any(event.start - 0.5 <= t <= event.end + 0.5 for t in script.preview)
            if script.source == "endoscopic":
                assert event.centre - event.start == event.end - event.centre


def test_events_fall_anywhere_in_their_gap(scripts):
    """Where between its two preview instants an event begins must not be guessable."""
    places = []
    for script in scripts:
        preview = np.array(script.preview)
        for event in script.events:
            before = preview[preview < event.start].max()
            after = preview[preview > event.end].min()
            slack = after - before - 2 - (event.end - event.start)
            if slack >= 4:
                places.append((event.start - before - 1) / slack)
    assert len(places) > 200
    assert np.histogram(places, 4, (0, 1))[0].min() > 0.12 * len(places)


def test_a_preview_too_coarse_is_refused():
    with pytest.raises(ValueError, match="8 frames or more"):
        make_procedure(0, "train", "ophthalmic", 0, preview_frames=6)
