"""Clocks that run backward, jump or wrap, pictures that start late, and uneven rates.

Two recordings joined byte by byte are what recorders write that begin a new file every few minutes,
and what `cat` and `copy /b` make of them. Right: all pictures of all parts in order on one clock,
each part where the one before it ended, and a note that says where.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.video.corpus_bytes import cut_head, cut_head_at, joined
from tests.video.corpus_case import Case, steady
from tests.video.corpus_pictures import number_of
from tests.video.corpus_write import H264, Sound, Track, write

JOIN = r"(?i)clock|join|backward|restart|jump|discontinu|gap|pause|part"
LATE = r"(?i)start|begin|later|after|sound|first picture"
_PACK = b"\0\0\x01\xba"
_MPEG2 = Track("mpeg2video", options={"bf": "2"})
_NO_SCENES = {"libx264": "0", "mpeg2video": "1000000000"}
_NO_B = Track(options={"bf": "0"})
_DV = Track("dvvideo", size=(576, 720), numbers=range(20))


def _numbers(part: int, count: int = 50) -> range:
    return range(100 * part, 100 * part + count)


def _with(track: Track, **changes) -> Track:
    return Track(**{**vars(track), **changes})


def join(
    ending: str,
    track: Track = H264,
    starts: tuple[float, ...] = (0.0, 0.0),
    tag: str = "",
    sound: Sound | None = None,
    note: str = JOIN,
    form: str | None = None,
    muxer: dict | None = None,
    **rest,
) -> Case:
    """A case of several parts in one file; part k begins at its own clock's starts[k]."""

    def make(folder: Path) -> Path:
        parts = []
        for k, start in enumerate(starts):
            tracks = [_with(track, numbers=_numbers(k, len(track.numbers)), start=start)]
            if sound is not None:
                tracks.append(_with_sound(sound, start))
            parts.append(write(folder / f"{k}.{ending}", *tracks, form=form, options=muxer))
        return joined(folder / f"clip.{ending}", *parts)

    shown = [n for k in range(len(starts)) for n in _numbers(k, len(track.numbers))]
    name = f"{len(starts)}-joined-{ending}-{track.codec}" + (f"-{tag}" if tag else "")
    rest.setdefault("times", steady(len(shown)))
    return Case(name, make, shown=shown, note=note, probe="one clock of several", **rest)


def _with_sound(sound: Sound, start: float) -> Sound:
    return Sound(sound.codec, sound.seconds, sound.start + start)


def _jump() -> Case:
    times = np.concatenate([steady(60), 500 + steady(60)])
    return join(
        "ts", _NO_B, starts=(0.0, 500.0), tag="forward-jump", alternatives=(times,), tolerance=0.02
    )


def _sizes(ending: str, codec: str) -> Case:
    """The second part has pictures of another size."""

    def make(folder: Path) -> Path:
        track = Track(codec, options={"bf": "0"})
        first = write(folder / f"0.{ending}", track)
        other = _with(track, size=(96, 320), numbers=_numbers(1, 60))
        return joined(folder / f"clip.{ending}", first, write(folder / f"1.{ending}", other))

    shown = [*range(60), *_numbers(1, 60)]
    name = f"2-joined-{ending}-{codec}-two-sizes"
    return Case(name, make, steady(120), shown, note=JOIN, probe="one clock of several")


def _wrap() -> Case:
    """A TS whose clock of 33 bits at 90 kHz comes to its end a second after the start."""

    def make(folder: Path) -> Path:
        return write(folder / "clip.ts", Track(start=2**33 / 90000 - 1.0))

    return Case("ts-clock-wraps", make, steady(60), range(60))


def _wrap_sound() -> Case:
    def make(folder: Path) -> Path:
        start = 2**33 / 90000 - 1.0
        return write(folder / "clip.ts", _with(_MPEG2, start=start), Sound("mp2", start=start))

    return Case("ts-clock-wraps-sound", make, steady(60), range(60), tolerance=0.02)


def _late(ending: str, seconds: float, sound: str = "aac", track: Track = H264) -> Case:
    """Pictures that start `seconds` after the sound: times are the container's, with a note."""

    def make(folder: Path) -> Path:
        late = _with(track, start=seconds)
        return write(folder / f"clip.{ending}", late, Sound(sound, seconds=2.4 + seconds))

    name = f"{ending}-{track.codec}-{seconds:g}-after-sound"
    return Case(
        name,
        make,
        steady(60, start=seconds),
        range(60),
        note=LATE,
        tolerance=0.02,
        probe="MPEG-PS has no stamp for each" if ending == "mpg" else "",
    )


def _alone(ending: str, form: str | None = None) -> Case:
    def make(folder: Path) -> Path:
        return write(folder / f"clip.{ending}", Track(start=2.0), form=form)

    return Case(f"{ending}-alone-from-2-s", make, steady(60), range(60))


def _early(ending: str, sound: str) -> Case:
    """Sound that begins half a second after the pictures."""

    def make(folder: Path) -> Path:
        return write(folder / f"clip.{ending}", Track(), Sound(sound, start=0.5, seconds=1.9))

    return Case(f"{ending}-before-sound", make, steady(60), range(60), tolerance=0.02)


def uneven(seed: int, count: int = 60) -> list[int]:
    """Stamps in milliseconds with steps of 20 to 300: a rate that changes all the time."""
    steps = np.random.default_rng(seed).integers(20, 300, count - 1)
    return [0, *np.cumsum(steps).tolist()]


def _variable(ending: str, codec: str = "libx264", rate: int = 1000, scale: int = 1) -> Case:
    stamps = [stamp // scale for stamp in uneven(len(ending))]

    def make(folder: Path) -> Path:
        options = {"tune": "zerolatency"} if codec == "libx264" else {}
        track = Track(codec, rate=rate, stamps=stamps, options=options)
        return write(folder / f"clip.{ending}", track)

    times = np.array(stamps) / rate
    return Case(f"{ending}-{codec}-uneven", make, times, range(60), doubt=True)


def _inside_group(ending: str, codec: str, cut: Callable[[Path], Path]) -> Case:
    """The second part begins inside a group of pictures: what can't be decoded of it is told."""

    def make(folder: Path) -> Path:
        track = Track(codec, options={"g": "15", "bf": "0", "sc_threshold": _NO_SCENES[codec]})
        first = write(folder / f"0.{ending}", _with(track, numbers=_numbers(0)))
        second = cut(write(folder / f"1.{ending}", _with(track, numbers=_numbers(1))))
        return joined(folder / f"clip.{ending}", first, second)

    def judge(video) -> None:
        shown = [number_of(frame) for frame in video.frames]
        # The first part's last picture may be spoilt by what follows it.
        assert shown[:49] == list(range(49))
        np.testing.assert_allclose(video.times[:49], steady(49), atol=1e-3)
        # From the second part's first whole group on, all are there, evenly.
        at = next(k for k in range(49, len(shown)) if shown[k] in (115, 130, 145))
        assert shown[at:] == list(range(shown[at], 150))
        np.testing.assert_allclose(np.diff(video.times[at:]), 0.04, atol=1e-3)
        # Its clock begins at the first picture or at the first bytes of it.
        assert 1.98 < video.times[at] < 2.0 + 15 / 25 + 0.02

    name = f"2-joined-{ending}-{codec}-inside-group"
    return Case(name, make, (), judge=judge, note=JOIN, probe="one clock of several")


CASES = [
    join("ts"),
    join("ts", _NO_B, tag="no-b"),
    join("ts", Track("libx265", options={"x265-params": "log-level=0:pools=1:frame-threads=1"})),
    join("ts", _MPEG2),
    join("ts", starts=(0.0, 0.0, 0.0)),
    join("ts", starts=(1000.0, 10.0), tag="other-start"),
    join(
        "ts",
        _NO_B,
        starts=(5.0, 1000.0, 10.0),
        tag="other-starts",
        # A jump forward may be a pause.
        alternatives=(np.concatenate([steady(60), steady(120, start=995.0)]),),
    ),
    join("ts", sound=Sound("mp2"), tag="sound", tolerance=0.02),
    join("ts", muxer={"mpegts_flags": "initial_discontinuity"}, tag="discontinuity-flag"),
    join("mpg", _MPEG2),
    join("mpg", Track("mpeg1video")),
    join("mpg", _MPEG2, starts=(0.0, 0.0, 0.0)),
    join("mpg", _MPEG2, starts=(300.0, 0.0), tag="other-start"),
    join("vob", _MPEG2, sound=Sound("mp2"), form="vob", tolerance=0.02),
    join("dv", _DV, note=""),
    _inside_group("ts", "libx264", lambda path: cut_head(path, 0.2)),
    _inside_group("ts", "mpeg2video", lambda path: cut_head(path, 0.2)),
    _inside_group("mpg", "mpeg2video", lambda path: cut_head_at(path, _PACK, 1)),
    _sizes("ts", "libx264"),
    _sizes("ts", "mpeg2video"),
    _sizes("mpg", "mpeg2video"),
    _jump(),
    _wrap(),
    _wrap_sound(),
    _late("mp4", 2.0),
    _late("mp4", 0.32),
    _late("mov", 2.0, "pcm_s16le"),
    _late("mkv", 2.0, "pcm_s16le"),
    _late("mkv", 0.32, "pcm_s16le"),
    _late("ts", 2.0, "mp2"),
    _late("ts", 0.32, "mp2"),
    _late("flv", 2.0),
    _late("mpg", 2.0, "mp2", _MPEG2),
    _alone("mp4"),
    _alone("mkv"),
    _alone("ts"),
    _alone("flv"),
    _early("mp4", "aac"),
    _early("mkv", "aac"),
    _early("ts", "mp2"),
    _variable("mp4"),
    _variable("mkv"),
    _variable("webm", "libvpx-vp9"),
    _variable("flv"),
    _variable("mov", "mpeg4"),
    _variable("avi", "mpeg4", 50, 20),
]
