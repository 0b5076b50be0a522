"""Privacy: a bad recording that is read after a good one never shows the good one's picture.

Decoders hand over memory; where a picture could not be decoded it may hold what was there before.
The good recordings are magenta, every picture of them; no bad one has any magenta.
"""

import dataclasses
import json
import shutil
import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from benchmarks.damage_files import CONTAINERS, DAMAGES, damaged, good_recordings
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.errors import UserError
from medscope_jax.inference import MedScope
from medscope_jax.video import VideoError, read_video
from tests.video import corpus_interlaced
from tests.video.corpus_pictures import SIZE
from tests.video.corpus_write import Track, write
from tfds_builders.build import build

_MAGENTA = (220, 30, 220)
# Endings, and streams of the good ones: of the bad ones' codecs, and of their size.
_GOOD = {
    "mp4": Track(),
    "avi": Track("mjpeg", pix_fmt="yuvj420p"),
    "mkv": Track("mpeg4"),
    "ts": Track("mpeg2video"),
    "webm": Track("libvpx-vp9"),
    "dv": Track("dvvideo", size=(576, 720), numbers=range(5)),
}


def _magenta(number, size):
    return np.broadcast_to(np.array(_MAGENTA, np.uint8), (*size, 3))


def magenta(frames):
    """The share of pixels [..., 3] that are what the good recordings show, even faintly."""
    red, green, blue = (frames[..., k].astype(int) for k in range(3))
    return float((np.minimum(red, blue) - green > 60).mean())


def _frames(path, **options):
    """What a recording shows, read whole and read in part; nothing where it is refused."""
    shown = []
    for partial in (False, True):
        try:
            shown.append(read_video(path, 100.0, SIZE, partial=partial, **options).frames)
        except VideoError as error:
            assert "\n" not in str(error)
    return shown


@pytest.fixture(scope="module")
def goods(tmp_path_factory):
    """Paths of the good recordings."""
    folder = tmp_path_factory.mktemp("good")
    return [
        write(folder / f"good.{ending}", dataclasses.replace(track, draw=_magenta))
        for ending, track in _GOOD.items()
    ]


@pytest.fixture
def good(goods):
    """Reads all good recordings, so that memory is full of them."""

    def read():
        for path in goods:
            assert magenta(read_video(path, 2.0, SIZE).frames) == 1.0

    return read


@pytest.mark.invariant
@pytest.mark.parametrize("container", CONTAINERS)
def test_damaged_ones_show_only_their_own(good, container, tmp_path):
    whole = good_recordings(container, tmp_path / "whole")
    good()
    for damage in DAMAGES:
        recording, data = damaged(whole, damage, 1)
        path = tmp_path / f"bad.{recording.ending}"
        path.write_bytes(data)
        for frames in _frames(path):
            # A flipped byte may colour a part of a picture, never all of it.
            assert magenta(frames) < 0.2


_INTERLACED = [
    case
    for case in corpus_interlaced.CASES
    if case.name.startswith(("ts-", "mp4-", "mkv-", "avi-", "mov-", "mpg-", "dv-", "dicom-"))
    and "bff" not in case.name
]


@pytest.mark.invariant
@pytest.mark.parametrize("case", _INTERLACED, ids=lambda case: case.name)
def test_interlaced_ones_show_only_their_own(good, case, tmp_path):
    """Also cut: the last picture is then half there."""
    path = case.make(tmp_path)
    good()
    data = path.read_bytes()
    for kept in (1.0, 0.7):
        path.write_bytes(data[: int(len(data) * kept)])
        for frames in _frames(path, **case.options):
            assert magenta(frames) == 0.0


@pytest.fixture(scope="module")
def bad_ones(tmp_path_factory):
    """Paths of bad recordings, in one folder: damaged, and interlaced ones cut short."""
    folder = tmp_path_factory.mktemp("bad")
    made = tmp_path_factory.mktemp("made")
    for container in ("mp4", "mkv", "ts", "mpg"):
        whole = good_recordings(container, made / container)
        for damage in ("8 bytes", "zeroed 4 KiB", "truncated"):
            recording, data = damaged(whole, damage, 1)
            (folder / f"{len(list(folder.iterdir()))}.{recording.ending}").write_bytes(data)
    for case in _INTERLACED[:12]:
        path = case.make(made)
        (folder / f"{case.name}{path.suffix}").write_bytes(path.read_bytes()[:-3000])
    return sorted(folder.iterdir())


def test_ask_shows_only_the_recording_asked_about(goods, bad_ones):
    section = ConfigDict({"fps": 25.0, "max_frames": 60, "native_pairs": False, "resample": "area"})
    shown = 0
    for path in bad_ones:
        for asked, partial in ((goods[0], False), (path, True)):
            medscope = types.SimpleNamespace(video=section, frame_size=SIZE)
            try:
                frames = MedScope.read_video(medscope, asked, partial=partial).frames
            except UserError:
                assert asked == path
                continue
            assert (magenta(frames) == 1.0) if asked == goods[0] else (magenta(frames) < 0.2)
            shown += asked == path
    assert shown > 5


def test_a_build_stores_of_each_recording_its_own(goods, bad_ones, tmp_path):
    manual, videos = tmp_path / "manual", tmp_path / "manual" / "videos"
    videos.mkdir(parents=True)
    for number, path in enumerate(bad_ones):  # a good one is read before each of them
        shutil.copy(goods[0], videos / f"{number:02d}-a.mp4")
        with open(videos / f"{number:02d}-a.mp4", "ab") as file:
            file.write(bytes(8 + number))  # no two are the same
        shutil.copy(path, videos / f"{number:02d}-b{path.suffix}")
    rows = [
        {
            "video": path.name,
            "part": "cap",
            "window": [0, 1],
            "answer": "A polyp.",
            "split": "train",
        }
        for path in sorted(videos.iterdir())
    ]
    (manual / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"name": "a", "reader": "plain", "annotations": "rows.jsonl", "videos": "videos"}
    source["partial"] = True
    bank = {"fps": 5.0, "height": 32, "width": 80, "max_frames": 60}
    (manual / "suite.json").write_text(json.dumps({"video": bank, "sources": [source]}))
    build("clinvideo_frames", manual, tmp_path / "data", quiet=True)
    videos = ClinvideoReader(tmp_path / "data").videos("train")
    stored = [magenta(np.asarray(video.frames)) for video in videos]
    # Each good one is whole, each bad one its own.
    assert sum(share == 1.0 for share in stored) == len(bad_ones)
    rest = [share for share in stored if share < 1.0]
    assert len(rest) > 5 and max(rest) < 0.2
