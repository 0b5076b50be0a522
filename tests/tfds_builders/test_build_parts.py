"""The pieces of builds: suite.json, splits, bounded queues, and the other command lines."""

import hashlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from medscope_jax import workers as spread
from medscope_jax.bank.bank_build import build_bank
from medscope_jax.bank.bank_file import PARTIAL
from medscope_jax.bank.bank_store import bank_path, load_bank
from medscope_jax.data.clinvideo_reader import ClinvideoReader, built_folder
from medscope_jax.data.listing import VideoSettings
from medscope_jax.encode import frame_sources
from medscope_jax.errors import UserError
from medscope_jax.training.split_bank import preprocessing
from medscope_jax.video import read_video
from tests.tfds_builders import clinvideo_cases as cases
from tfds_builders import video_plan as plan_room
from tfds_builders.beam import beam_workers
from tfds_builders.build import build
from tfds_builders.clinvideo_frames.clinvideo_frames import ClinvideoFrames, _deal
from tfds_builders.manual import read_manual
from tfds_builders.video_plan import make_plan

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": {"fps": 0, "height": 8, "width": 8, "max_frames": 9}}, "video.fps must be"),
        ({"video": {"fps": 1, "height": 8.5, "width": 8, "max_frames": 9}}, "video.height must"),
        ({"video": {"fps": 1, "height": 8, "width": 8}}, "lacks max_frames"),
        (
            {"video": {"fps": 1, "height": 8, "width": 8, "max_frames": 9, "resample": "cubic"}},
            "one of area, bicubic",
        ),
        ({"sources": []}, "at least one source"),
        ({"sauces": []}, "unknown key 'sauces' .did you mean 'sources'"),
        ({"splits": {"train": -1}}, "0 or more"),
        ({"splits": {"train": 0}}, "not all be 0"),
        ({"name": "Doe^Jane"}, "lower-case"),
        ({"split": "dev"}, "split must be one of"),
        ({"videos": "/etc"}, "inside the manual folder"),
        ({"videos": "../x"}, "inside the manual folder"),
        ({"annotations": "scope/none.json"}, "there is no"),
        ({"reader": ""}, "both reader and annotations"),
        ({"frame_rate": -1}, "frame_rate must be"),
        ({"frame_rate": float("nan")}, "frame_rate must be"),
        ({"partial": 1}, "partial must be true or false"),
        ({"name": "a" * 65}, "at most 64"),
        ({"video": cases.VIDEO | {"min_frames": 0}}, "video.min_frames must be"),
        ({"video": cases.VIDEO | {"min_frames": 41}}, "min_frames must be at most video.max"),
        ({"option": {}}, "did you mean 'options'"),
        ({"video": cases.VIDEO | {"fps": 10**400}}, "video.fps must be"),
        ({"splits": {"train": 10**400}}, "shares of 0 or more"),
        ({"frame_rate": 10**400}, "frame_rate must be"),
        ({"frame_rate": "x" * 10**5}, "frame_rate must be"),
        ({"partial": "x" * 10**5}, "partial must be"),
        ({"x" * 10**5: 1}, "unknown key"),
        ({"videos": "x" * 10**5}, "videos is longer than any path"),
    ],
)
def test_faults_of_suite_json(tmp_path, change, message):
    cases.write_suite(tmp_path, {"scope": []})
    suite = json.loads((tmp_path / "suite.json").read_text())
    top = change.keys() & {"video", "sources", "sauces", "splits"}
    (suite if top else suite["sources"][0]).update(change)
    (tmp_path / "suite.json").write_text(json.dumps(suite))
    with pytest.raises(UserError, match=message) as error:
        read_manual(tmp_path)
    assert len(str(error.value)) < 500


def test_splits_by_hash_and_by_the_most_protected(tmp_path):
    names = [f"v{i}" for i in range(400)]
    rows = [cases.row(name) for name in names]
    rows += [cases.row("v0", split="train"), cases.row("v1", split="train")]
    rows += [cases.row("v1", split="test"), cases.row("v2", split="validation")]
    cases.write_suite(tmp_path, {"scope": rows}, splits={"train": 2, "test": 1, "validation": 1})
    for i, name in enumerate(names):
        (tmp_path / "scope" / "videos" / name).write_text(f"video {i}")
    plan = make_plan(read_manual(tmp_path), cases.read_rows, map, tmp_path)
    splits = [video.split for video in plan.videos]
    assert splits[:3] == ["train", "test", "validation"]
    for split, share in (("train", 0.5), ("validation", 0.25), ("test", 0.25)):
        assert abs(splits.count(split) / 400 - share) < 0.08
    # Names and order of the rows decide nothing: the bytes do.
    os.rename(tmp_path / "scope" / "videos" / "v7", tmp_path / "scope" / "videos" / "w7")
    cases.write_suite(tmp_path, {"scope": [cases.row("w7"), cases.row("v8")]}, splits={"test": 1})
    again = make_plan(read_manual(tmp_path), cases.read_rows, map, tmp_path)
    assert [v.id for v in again.videos] == [plan.videos[7].id, plan.videos[8].id]
    assert {v.split for v in again.videos} == {"test"} and again.digest != plan.digest


def test_ids_that_share_their_first_digits_are_two_videos(tmp_path, monkeypatch):
    """As two files of one short hash, which were made in a minute, would be."""
    rows = [cases.row("a.mp4", spans=[[0, 1]]), cases.row("b.mp4", number=1, spans=[[0, 1]])]
    cases.write_suite(tmp_path, {"scope": rows}, splits={"train": 1})
    for seed, name in enumerate("ab"):
        cases.write_video(tmp_path / "scope" / "videos" / f"{name}.mp4", 3, seed=seed)
    hashed = plan_room.content_hash
    monkeypatch.setattr(plan_room, "content_hash", lambda path: "0123456789ab" + hashed(path)[12:])
    cases.build_all(tmp_path, tmp_path / "data", config="rl")
    suite = ClinvideoReader(tmp_path / "data")
    names = list(suite.outlines("train"))
    assert [record["video"] for record in suite.records("rl", "train")] == names
    assert [name[:18] for name in names] == ["scope-0123456789ab"] * 2
    for name, video in zip("ab", suite.videos("train"), strict=True):
        read = read_video(tmp_path / "scope" / "videos" / f"{name}.mp4", 2.0, (24, 32))
        assert np.abs(np.asarray(video.frames, int) - read.frames).mean() < 10


def test_the_longest_id_is_a_files_name(tmp_path):
    """With what a bank and a half-written one append to it."""
    cases.write_suite(tmp_path, {"a" * 64: [cases.row("v")]})
    (tmp_path / ("a" * 64) / "videos" / "v").write_text("v")
    (video,) = make_plan(read_manual(tmp_path), cases.read_rows, map, tmp_path).videos
    path = bank_path(tmp_path, video.id)
    path.with_name(path.name + PARTIAL).touch()
    assert video.id == "a" * 64 + "-" + hashlib.blake2b(b"v").hexdigest()


def test_a_list_of_hashes_is_not_believed(tmp_path):
    """Nor kept: it came with the folder, or is an earlier version's and names what is gone."""
    cases.write_suite(tmp_path, {"scope": [cases.row("a"), cases.row("b")]})
    states = {}
    for name in "ab":
        path = tmp_path / "scope" / "videos" / name
        path.write_text(name)
        status = path.stat()
        states[f"scope/videos/{name}"] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    other = hashlib.blake2b(b"a").hexdigest()
    lie = {name: [*state, other] for name, state in states.items()}
    (tmp_path / "video_hashes.json").write_text(json.dumps(lie | {"Mustermann.mp4": [1, 2, other]}))
    plan = make_plan(read_manual(tmp_path), cases.read_rows, map, tmp_path)
    for name in "ab":
        digits = hashlib.blake2b(name.encode()).hexdigest()
        assert plan.ids["scope", name] == f"scope-{digits}"
    assert not any("Mustermann.mp4" in p.read_text() for p in tmp_path.rglob("*") if p.is_file())


def test_a_file_put_in_the_place_of_another(tmp_path):
    """Of its size and time of change: its hash is not the remembered one."""
    cases.write_suite(tmp_path, {"scope": [cases.row("a")]})
    path = tmp_path / "scope" / "videos" / "a"
    path.write_text("a")
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    first = make_plan(read_manual(tmp_path), cases.read_rows, map, tmp_path)
    path.write_text("b")
    os.utime(path, ns=times)
    again = make_plan(read_manual(tmp_path), cases.read_rows, map, tmp_path)
    assert again.ids["scope", "a"] != first.ids["scope", "a"]


def test_few_jobs_wait(monkeypatch):
    """Jobs are taken as results are; a thousand videos never stand in memory."""
    taken, done = [], []

    class Future:
        def __init__(self, value):
            self.value = value

        def result(self):
            done.append(self.value)
            assert len(taken) - len(done) <= 4
            return self.value

    class Executor:
        def submit(self, function, job):
            return Future(function(job))

    def jobs():
        for job in range(100):
            taken.append(job)
            yield job

    results = spread._ordered(Executor(), 4, lambda job: 2 * job, jobs())
    assert not taken and list(results) == list(range(0, 200, 2))


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000, 4096, 10_000])
def test_files_of_a_split(count):
    dealt = list(_deal(list(range(count))))
    assert [video for several in dealt for video in several] == list(range(count))
    assert all(0 < len(several) <= 64 for several in dealt)
    assert len(dealt) == min(count, max(64, -(-count // 64)))


def test_videos_without_annotations_and_folders_of_pictures(tmp_path):
    manual, data = tmp_path / "manual", tmp_path / "data"
    manual.mkdir()
    cases.write_suite(manual, {"raw": []}, splits={"train": 1})
    suite = json.loads((manual / "suite.json").read_text())
    suite["sources"] = [{"name": "raw", "videos": "raw/videos", "frame_rate": 4.0}]
    (manual / "suite.json").write_text(json.dumps(suite))
    pictures = manual / "raw" / "videos" / "case1"
    pictures.mkdir()
    for i in range(8):
        cv2.imwrite(str(pictures / f"{i}.png"), np.full((24, 32, 3), 30 * i, np.uint8))
    cases.write_video(manual / "raw" / "videos" / "case2.mp4", 2, seed=5)
    ClinvideoFrames(data_dir=data, spread=map).download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual)
    )
    folder, video = ClinvideoReader(data).videos("train")
    np.testing.assert_allclose(folder.times, [0, 0.5, 1, 1.5])
    grey = np.asarray(folder.frames).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(grey, [0, 60, 120, 180], atol=2)
    assert video.frames.shape == (4, 24, 32, 3)


def test_a_second_of_thirty_pictures(tmp_path):
    """Eight frames of it are stored, their times the file's own, and so many does a bank hold."""
    manual, data = tmp_path / "manual", tmp_path / "data"
    (manual / "raw").mkdir(parents=True)
    path = manual / "raw" / "short.mp4"
    cases.write_video(path, 1, seed=7, fps=30.0)
    video = {"fps": 1.0, "height": 28, "width": 56, "max_frames": 40}
    source = {"name": "raw", "videos": "raw", "split": "train"}
    suite = {"video": video, "sources": [source]}
    (manual / "suite.json").write_text(json.dumps(suite))
    build("clinvideo_frames", manual, data, quiet=True)
    stored_suite = ClinvideoReader(data)
    (stored,) = stored_suite.videos("train")
    # The picture nearest to each tick of 8 a second, of those at k / 30 s.
    nearest = [min(range(30), key=lambda k, t=t: abs(k / 30 - t / 8)) for t in range(8)]
    np.testing.assert_allclose(stored.times, np.array(nearest) / 30, atol=1e-6)
    assert any("8 frames at 8 fps" in note for note in stored.notes)
    native = read_video(path, 1000.0, (28, 56))
    assert len(native.frames) == 30
    off = np.abs(np.asarray(stored.frames, int) - native.frames[nearest])
    assert off.mean() < 10
    settings = stored_suite.video_settings()
    assert settings == VideoSettings(**video) and settings.min_frames == 8

    frames = built_folder(data, "clinvideo_frames")
    (found,) = frame_sources(frames, "train")
    encode = lambda frames: frames.reshape(len(frames), 1, -1)[..., :4].astype(np.float32)  # noqa: E731
    made_of = preprocessing({"height": 28, "width": 56})
    built = build_bank(tmp_path / "bank", [found], encode, 4, made_of, "weights", "float32")
    bank = load_bank(tmp_path / "bank", built.key, [found], lambda times: [[1]] * len(times))
    assert bank.length.tolist() == [8]
    np.testing.assert_allclose(bank.times, stored.times, atol=1e-6)

    suite["video"] |= {"min_frames": 1}
    (manual / "suite.json").write_text(json.dumps(suite))
    with pytest.raises(UserError, match="--overwrite"):
        build("clinvideo_frames", manual, data, quiet=True)
    build("clinvideo_frames", manual, data, overwrite=True, quiet=True)
    assert len(ClinvideoReader(data).videos("train")[0].times) == 1


def test_remedies_are_named_in_the_words_of_suite_json(tmp_path):
    """And help: what a message asks for, the same source then has."""
    manual = tmp_path / "manual"
    pictures = manual / "raw" / "case1"
    pictures.mkdir(parents=True)
    for i in (0, 1, 2, 4):
        cv2.imwrite(str(pictures / f"{i}.png"), np.full((24, 32, 3), 30 * i, np.uint8))
    source, reasons, plans = {"name": "raw", "videos": "raw", "split": "train"}, [], []
    for given in ({}, {"frame_rate": 4.0}, {"frame_rate": 4.0, "partial": True}):
        suite = {"video": cases.VIDEO, "sources": [source | given]}
        (manual / "suite.json").write_text(json.dumps(suite))
        plans.append(make_plan(read_manual(manual), cases.read_rows, map, manual).digest)
        try:
            build("clinvideo_frames", manual, tmp_path / "data", quiet=True)
        except UserError as error:
            assert "not one example" in str(error)
        lines = (manual / "quarantine.jsonl").read_text().splitlines()
        reasons += [json.loads(line)["reason"] for line in lines]
    assert len(set(plans)) == 3
    assert len(reasons) == 2
    assert '"frame_rate" of its source in suite.json' in reasons[0]
    assert '"partial": true of its source in suite.json' in reasons[1]
    (video,) = ClinvideoReader(tmp_path / "data").videos("train")
    np.testing.assert_allclose(video.times, [0, 0.5, 1])
    assert any("incomplete" in note for note in video.notes)


@pytest.mark.slow
def test_beam_gives_the_same_bytes(tmp_path):
    options = pytest.importorskip("apache_beam.options.pipeline_options")
    manual = tmp_path / "manual"
    manual.mkdir()
    cases.write_folder(manual)
    cases.build_all(manual, tmp_path / "plain")
    cases.build_all(
        manual, tmp_path / "beam", spread=beam_workers(options.PipelineOptions(flags=[]))
    )
    assert cases.digest(tmp_path / "beam") == cases.digest(tmp_path / "plain")


def test_the_build_command_of_tfds(tmp_path):
    """`tfds build` starts where its `tfds` does not, and gives the bytes of ours."""
    if importlib.util.find_spec("tensorflow"):
        pytest.skip("shows nothing where TensorFlow is installed")
    manual, data = tmp_path / "manual", tmp_path / "data"
    (manual / "scope" / "videos").mkdir(parents=True)
    rows = ["video,split,part,question,answer,spans", "a.mp4,train,rl,Where is it?,left,1-2"]
    (manual / "scope" / "rows.csv").write_text("\n".join(rows))
    cases.write_video(manual / "scope" / "videos" / "a.mp4", 3, seed=6)
    source = {"name": "scope", "reader": "plain", "videos": "scope/videos"}
    suite = {"video": cases.VIDEO, "sources": [source | {"annotations": "scope/rows.csv"}]}
    (manual / "suite.json").write_text(json.dumps(suite))
    code = (
        "import os, sys\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from tfds_builders.tfds import main\n"
        "folders = ['--manual_dir', sys.argv[1], '--data_dir', sys.argv[2]]\n"
        "main(['build', 'tfds_builders/clinvideo_frames', *folders])\n"
        "main(['build', 'tfds_builders/clinvideo_suite', '--config', 'rl', *folders])\n"
        "assert 'mlcroissant' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(manual), str(data)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    assert ClinvideoReader(data).records("rl", "train")[0]["question"] == "Where is it?"
    build("clinvideo_suite", manual, tmp_path / "ours", "rl")
    theirs, ours = cases.digest(data), cases.digest(tmp_path / "ours")
    records = {name for name in ours if ".array_record" in name}
    assert len(records) == 2 and all(theirs[name] == ours[name] for name in records)


def test_a_process_that_dies_is_one_line():
    with pytest.raises(UserError, match="a worker process died"), spread.workers(2) as over:
        list(over(os._exit, [3]))
