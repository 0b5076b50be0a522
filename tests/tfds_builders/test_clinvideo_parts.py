"""The pieces of builds: suite.json, splits, bounded queues, and the other command lines."""

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

from medscope_jax.errors import UserError
from tests.tfds_builders import clinvideo_cases as cases
from tfds_builders import spread
from tfds_builders.build import build
from tfds_builders.clinvideo import load_frames, load_part
from tfds_builders.clinvideo_frames.clinvideo_frames import ClinvideoFrames, _deal
from tfds_builders.manual import read_manual
from tfds_builders.plan import make_plan

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
        ({"option": {}}, "did you mean 'options'"),
    ],
)
def test_faults_of_suite_json(tmp_path, change, message):
    cases.write_suite(tmp_path, {"scope": []})
    suite = json.loads((tmp_path / "suite.json").read_text())
    top = change.keys() & {"video", "sources", "sauces", "splits"}
    (suite if top else suite["sources"][0]).update(change)
    (tmp_path / "suite.json").write_text(json.dumps(suite))
    with pytest.raises(UserError, match=message):
        read_manual(tmp_path)


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


def test_hashes_are_remembered_until_a_file_changes(tmp_path):
    cases.write_suite(tmp_path, {"scope": [cases.row("a"), cases.row("b")]})
    for name in "ab":
        (tmp_path / "scope" / "videos" / name).write_text(name)
    hashed = []

    def counting(function, jobs):
        jobs = list(jobs)
        hashed.append([job.name for job in jobs])
        return map(function, jobs)

    plans = []
    for change in ("", "", "longer"):
        if change:
            (tmp_path / "scope" / "videos" / "b").write_text(change)
        plans.append(make_plan(read_manual(tmp_path), cases.read_rows, counting, tmp_path))
    assert hashed == [["a", "b"], [], ["b"]]
    assert plans[0] == plans[1] and plans[1].ids["scope", "b"] != plans[2].ids["scope", "b"]


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
    folder, video = load_frames(data, "train")
    np.testing.assert_allclose(folder["times"], [0, 0.5, 1, 1.5])
    grey = folder["frames"].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(grey, [0, 60, 120, 180], atol=2)
    assert video["frames"].shape == (4, 24, 32, 3)


@pytest.mark.slow
def test_beam_gives_the_same_bytes(tmp_path):
    options = pytest.importorskip("apache_beam.options.pipeline_options")
    manual = tmp_path / "manual"
    manual.mkdir()
    cases.write_folder(manual)
    cases.build_all(manual, tmp_path / "plain")
    cases.build_all(
        manual, tmp_path / "beam", spread=spread.beam_workers(options.PipelineOptions(flags=[]))
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
    assert load_part(data, "rl", "train")[0]["question"] == "Where is it?"
    build("clinvideo_suite", manual, tmp_path / "ours", "rl")
    theirs, ours = cases.digest(data), cases.digest(tmp_path / "ours")
    records = {name for name in ours if ".array_record" in name}
    assert len(records) == 2 and all(theirs[name] == ours[name] for name in records)


def test_a_process_that_dies_is_one_line():
    with pytest.raises(UserError, match="a worker process died"), spread.workers(2) as over:
        list(over(os._exit, [3]))
