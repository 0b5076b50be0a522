"""What of a manual folder is read: regular files inside it; links out, pipes, devices are named."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.errors import UserError
from tests.tfds_builders import clinvideo_cases as cases
from tfds_builders.build import build
from tfds_builders.inside import recordings_below
from tfds_builders.manual import read_manual
from tfds_builders.synthesis import __main__ as synthesis
from tfds_builders.synthesis.footage import find_videos, read_footage
from tfds_builders.synthesis.items import Dropped
from tfds_builders.synthesis.settings import SynthesisConfig
from tfds_builders.video_plan import content_hash, make_plan

SOURCE = {"name": "rec", "videos": "rec", "split": "train", "frame_rate": 2.0}


@pytest.fixture
def manual(tmp_path):
    """An empty folder of recordings, a source without a reader."""
    folder = tmp_path / "manual"
    (folder / "rec").mkdir(parents=True)
    write_suite(folder, SOURCE)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    cases.write_video(path, 2, seed=8)
    return path


def write_suite(folder, *sources):
    (folder / "suite.json").write_text(json.dumps({"video": cases.VIDEO, "sources": sources}))


def write_pictures(folder, shade=1):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((24, 32, 3), 20 * i + shade, np.uint8))


def quarantined(folder):
    lines = (folder / "quarantine.jsonl").read_text().splitlines()
    return {line["place"]: line["reason"] for line in map(json.loads, lines)}


def test_links_and_pipes_beside_a_recording(manual, clip, tmp_path):
    """One is stored, whatever lies beside it; each other is named, and none is opened."""
    secret = tmp_path / "elsewhere"
    shutil.copy(clip, manual / "rec" / "good.mp4")
    write_pictures(secret / "pictures")
    cases.write_video(secret / "patient.mp4", 2, seed=9)
    rec = manual / "rec"
    (rec / "link.mp4").symlink_to(secret / "patient.mp4")
    (rec / "relative.mp4").symlink_to("../../elsewhere/patient.mp4")
    (rec / "through.mp4").symlink_to("link.mp4")
    (rec / "folder").symlink_to(secret)
    write_pictures(rec / "mixed")
    (rec / "mixed" / "3.png").symlink_to(secret / "pictures" / "1.png")
    write_pictures(rec / "piped")
    os.mkfifo(rec / "piped" / "3.png")
    write_pictures(rec / "timed")
    (rec / "timed" / "times.csv").symlink_to("/etc/hostname")
    os.mkfifo(rec / "pipe.mp4")
    (rec / "device.mp4").symlink_to("/dev/zero")
    (rec / "nothing.mp4").symlink_to("nowhere.mp4")
    (rec / "round.mp4").symlink_to("round.mp4")
    with socket.socket(socket.AF_UNIX) as plug:
        here = os.getcwd()
        os.chdir(rec)  # a socket's path must be short
        try:
            plug.bind("socket.mp4")
        finally:
            os.chdir(here)
        build("clinvideo_frames", manual, tmp_path / "data", quiet=True)
    assert len(ClinvideoReader(tmp_path / "data").videos("train")) == 1
    found = quarantined(manual)
    out = {"link.mp4", "relative.mp4", "through.mp4", "folder", "mixed", "timed", "device.mp4"}
    pipes = {"piped", "pipe.mp4", "socket.mp4"}
    assert found.keys() == {f"rec/{name}" for name in out | pipes | {"nothing.mp4", "round.mp4"}}
    assert all("leads out of the folder" in found[f"rec/{name}"] for name in out)
    assert all("no regular file" in found[f"rec/{name}"] for name in pipes)
    assert not any("elsewhere" in reason for reason in found.values())


def test_links_inside_the_folder_are_followed_once(manual, clip, tmp_path):
    store = manual / "store" / "theatre2"
    store.mkdir(parents=True)
    for number, name in enumerate(("rec/here.mp4", "store/theatre2/op0.mp4")):
        (manual / name).write_bytes(clip.read_bytes() + bytes(number))
    (manual / "rec" / "theatre2").symlink_to("../store/theatre2")
    write_pictures(manual / "store" / "pictures")
    (manual / "rec" / "pictures").symlink_to(manual / "store" / "pictures")
    (store / "up").symlink_to("../../rec")  # round and round
    (manual / "rec" / "again").symlink_to(".")
    (manual / "rec" / "op9.mp4").symlink_to("here.mp4")
    found = recordings_below(manual / "rec", manual)
    names = ["here.mp4", "op9.mp4", "pictures", "theatre2/op0.mp4"]
    assert [path.relative_to(manual / "rec").as_posix() for path in found] == names
    (tmp_path / "alias").symlink_to(manual)  # how the folder itself is named does not matter
    build("clinvideo_frames", tmp_path / "alias", tmp_path / "data", quiet=True)
    assert (
        len(ClinvideoReader(tmp_path / "data").videos("train")) == 3
    )  # op9 is here under another name
    assert not (manual / "quarantine.jsonl").read_text()


def test_a_picture_beside_recordings_hides_none(manual, clip, tmp_path):
    for number in range(2):
        (manual / "rec" / f"case{number}.mp4").write_bytes(clip.read_bytes() + bytes(number))
    cv2.imwrite(str(manual / "rec" / "case0_still.jpg"), np.zeros((24, 32, 3), np.uint8))
    (manual / "rec" / "below").mkdir()
    shutil.copy(clip, manual / "rec" / "below" / "case2.mp4")
    with open(manual / "rec" / "below" / "case2.mp4", "ab") as file:
        file.write(bytes(2))
    cv2.imwrite(str(manual / "rec" / "below" / "still.png"), np.zeros((24, 32, 3), np.uint8))
    build("clinvideo_frames", manual, tmp_path / "data", quiet=True)
    assert len(ClinvideoReader(tmp_path / "data").videos("train")) == 3
    assert quarantined(manual).keys() == {"rec/case0_still.jpg", "rec/below/still.png"}


@pytest.mark.parametrize("key", ["videos", "annotations"])
def test_what_suite_json_names_stays_inside(tmp_path, key):
    folder = tmp_path / "manual"
    folder.mkdir()
    cases.write_suite(folder, {"scope": []})
    suite = json.loads((folder / "suite.json").read_text())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rows.json").write_text("[]")
    name = "out" if key == "videos" else "out/rows.json"
    (folder / "link").symlink_to(tmp_path / name)
    suite["sources"][0][key] = "link"
    (folder / "suite.json").write_text(json.dumps(suite))
    with pytest.raises(UserError, match=f"{key}: .*link is not read: a link that leads out"):
        read_manual(folder)
    suite["sources"][0][key] = "gs://bucket"
    (folder / "suite.json").write_text(json.dumps(suite))
    with pytest.raises(UserError, match=rf"sources\[0\].{key} gs://bucket is an address"):
        read_manual(folder)
    os.mkfifo(folder / "pipe")
    suite["sources"][0][key] = "pipe"
    (folder / "suite.json").write_text(json.dumps(suite))
    with pytest.raises(UserError, match="no regular file"):
        read_manual(folder)
    (folder / "suite.json").unlink()
    os.mkfifo(folder / "suite.json")
    with pytest.raises(UserError, match="suite.json cannot be read"):
        read_manual(folder)


def test_annotations_that_lead_out_or_block(manual, tmp_path):
    """Of readers that open several files, each is looked at; the files are named."""
    (tmp_path / "out").mkdir()
    phases = "Frame\tPhase\n0\tPreparation\n25\tPreparation\n"
    (tmp_path / "out" / "secret.txt").write_text(phases)
    (tmp_path / "out" / "spans.json").write_text("{}")
    labels = manual / "cholec" / "phase_annotations"
    labels.mkdir(parents=True)
    (labels / "video01-phase.txt").write_text(phases)
    (labels / "video02-phase.txt").symlink_to(tmp_path / "out" / "secret.txt")
    os.mkfifo(labels / "video03-phase.txt")
    (manual / "next").mkdir()
    (manual / "next" / "test.csv").write_text("video_id,question,answer,qid,a0,a1,a2,a3,a4\n")
    sources = [
        SOURCE | {"name": "cholec", "reader": "cholec80", "annotations": "cholec"},
        SOURCE | {"name": "next", "reader": "nextgqa", "annotations": "next/test.csv"},
    ]
    sources[1]["options"] = {"spans_file": "../../out/spans.json"}
    write_suite(manual, *sources)
    from tfds_builders.readers import read_source

    plan = make_plan(read_manual(manual), read_source, map, manual)
    found = quarantined(manual)
    assert sum(plan.bad_rows.values()) == len(found) == 3
    assert "leads out" in found["cholec/phase_annotations/video02-phase.txt"]
    assert "no regular file" in found["cholec/phase_annotations/video03-phase.txt"]
    assert "leads out" in found["../../out/spans.json"]
    assert not plan.ids


def test_a_pipe_in_the_place_of_our_own_files(manual, clip, tmp_path):
    """The remembered hashes and the lists of what was left out: never waited for, nor followed."""
    shutil.copy(clip, manual / "rec")
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    os.mkfifo(manual / "video_hashes.json")
    (manual / "quarantine.jsonl").symlink_to(mine)
    (manual / ".quarantine.jsonl.videos.partial").symlink_to(mine)
    (manual / ".quarantine.jsonl.merged").symlink_to(mine)
    build("clinvideo_frames", manual, tmp_path / "data", quiet=True)
    assert mine.read_text() == "mine" and not (manual / "quarantine.jsonl").is_symlink()
    (manual / ".quarantine.jsonl.lock").unlink()
    (manual / ".quarantine.jsonl.lock").symlink_to(mine)
    with pytest.raises(UserError, match=r"lock can't be used .*: remove it"):
        build("clinvideo_frames", manual, tmp_path / "other", quiet=True)
    assert mine.read_text() == "mine"


def test_the_synthesis_reads_no_more(manual, clip, tmp_path):
    folder, out = manual / "rec", tmp_path / "out.mp4"
    shutil.copy(clip, out)
    shutil.copy(clip, folder / "good.mp4")
    (folder / "link.mp4").symlink_to(out)
    os.mkfifo(folder / "pipe.mp4")
    (folder / "notes.txt").write_text("none")
    found = find_videos(folder)
    assert [path.name for path in found] == ["good.mp4", "link.mp4", "pipe.mp4"]
    config = SynthesisConfig()
    assert len(read_footage(found[0], "v", config, root=folder).frames) == 8
    with pytest.raises(Dropped, match="leads out of the folder"):
        read_footage(found[1], "v", config, root=folder)
    with pytest.raises(Dropped, match="no regular file"):
        read_footage(found[2], "v", config, root=folder)


def test_the_synthesis_offers_what_its_messages_ask_for(tmp_path, refusal):
    write_pictures(tmp_path / "case")
    (tmp_path / "case" / "2.png").rename(tmp_path / "case" / "3.png")
    path = tmp_path / "case"
    with pytest.raises(Dropped, match="with --frame_rate RATE$"):
        read_footage(path, "v", SynthesisConfig())
    with pytest.raises(Dropped, match="incomplete: .* with --partial$"):
        read_footage(path, "v", SynthesisConfig(frame_rate=2.0))
    found = read_footage(path, "v", SynthesisConfig(frame_rate=2.0, partial=True))
    assert [frame.time for frame in found.frames] == [0, 0.5, 1.5]
    flags = ["--phantom=1", f"--out={tmp_path / 'out' / 'rows.jsonl'}", "--partial"]
    synthesis.main([*flags, "--frame_rate=2"])
    stages = json.loads((tmp_path / "out" / "stages.json").read_text())
    assert stages["config"]["partial"] is True and stages["config"]["frame_rate"] == 2
    assert "above max_frames" in refusal(synthesis.main, [*flags, "--max_frames=4"])
    assert "min_frames must be 1" in refusal(synthesis.main, [*flags, "--min_frames=0"])


def test_names_that_no_file_has(manual):
    """A row may name anything: it is never a traceback."""
    names = ["x" * 300, "a/" * 2000 + "b", "a\0b", "no\ud800ne", "*", "[a", "pipe"]
    os.mkfifo(manual / "rec" / "pipe")
    rows = [cases.row(name, number=i) for i, name in enumerate(names)]
    cases.write_suite(manual, {"scope": rows})
    plan = make_plan(read_manual(manual), cases.read_rows, map, manual)
    assert len(plan.missing) == len(names) and not plan.videos


def test_pictures_whose_names_pass_for_others(tmp_path):
    """Two folders never share a hash, whatever their files are called."""
    two, one = tmp_path / "two", tmp_path / "one"
    for folder in (two, one):
        folder.mkdir()
    (two / "a").write_bytes(b"first")
    (two / "b").write_bytes(b"second")
    (one / f"a {content_hash(two / 'a')}\nb"[:250]).write_bytes(b"second")
    assert len(f"a {content_hash(two / 'a')}\nb") < 250
    assert content_hash(one) != content_hash(two)


def test_a_build_over_a_pipe_ends(manual, clip, tmp_path):
    """As users run it, in processes of its own."""
    shutil.copy(clip, manual / "rec")
    os.mkfifo(manual / "rec" / "pipe.mp4")
    command = [sys.executable, "-m", "tfds_builders.build", "clinvideo_frames", "--num-processes=1"]
    ran = subprocess.run(
        [*command, f"--manual_dir={manual}", f"--data_dir={tmp_path / 'data'}"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert "train 1" in ran.stdout and "1 rows and videos quarantined" in ran.stdout
