"""Preparation: real files, complete or not used, continued after a kill."""

import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from medscope_jax.data.phantom_reader import load_frames, load_part, prepared_config, video_rows
from medscope_jax.errors import UserError
from medscope_jax.locks import alone
from medscope_jax.parts import PARTS, SPLITS_OF_PART
from medscope_jax.phantom.records import records
from medscope_jax.phantom.suite_config import SuiteConfig, procedures
from tfds_builders import prepare
from tfds_builders.prepare import prepare_suite

TINY = SuiteConfig(
    train_ophthalmic=1,
    train_endoscopic=1,
    validation_ophthalmic=1,
    validation_endoscopic=1,
    test_ophthalmic=1,
    test_endoscopic=1,
    test_laparoscopic=1,
    captions_per_video=3,
)


def digest(folder: pathlib.Path) -> dict[str, str]:
    """A hash of every record file under a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.array_record*"))
    }


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("prepared")
    prepare_suite(workdir, TINY, progress=False, processes=1)
    return workdir


@pytest.mark.parametrize("part", PARTS)
def test_parts_come_back_as_they_were_made(workdir, part):
    scripts = procedures(TINY)
    for split in SPLITS_OF_PART[part]:
        rows = load_part(workdir, part, split)
        made = [r for p in scripts if p.split == split for r in records(p, part, TINY)]
        assert len(rows) == len(made) > 0
        for read, record in zip(rows, made, strict=True):
            assert read.keys() == record.keys()
            for name, value in record.items():
                if isinstance(value, np.ndarray):
                    assert read[name].dtype == value.dtype and np.array_equal(read[name], value)
                else:
                    assert read[name] == value, name
            assert all(isinstance(turn, str) for turn in read["turns"])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_frames_come_back_by_row(workdir, split):
    rows, row_of = load_frames(workdir, split), video_rows(workdir, split)
    assert len(rows) == len(row_of) == (3 if split == "test" else 2)
    for name, row in row_of.items():
        video = rows[row]
        assert video["id"] == name and name.split("-")[1] == video["source"]
        assert video["frames"].shape == (int(video["duration"]), 28, 56, 3)
        assert video["frames"].dtype == np.uint8
        assert np.allclose(video["times"], np.arange(int(video["duration"])))
    assert np.array_equal(rows[-1]["frames"], rows[len(rows) - 1]["frames"])
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_done_is_found_and_another_config_refused(workdir, monkeypatch):
    monkeypatch.setattr(prepare, "_draw", lambda *_: pytest.fail("drew again"))
    prepare_suite(workdir, TINY, progress=False)
    assert prepared_config(workdir) == TINY
    with pytest.raises(UserError, match="another configuration"):
        prepare_suite(workdir, SuiteConfig(seed=1), progress=False)


def test_two_preparations_at_once(tmp_path):
    (tmp_path / "suite").mkdir()
    with alone(tmp_path / "suite" / ".lock"), pytest.raises(UserError, match="another process"):
        prepare_suite(tmp_path, TINY, progress=False, processes=1)
    assert not (tmp_path / "suite" / "suite.json").exists()


def damages(path: pathlib.Path):
    """Damaged bytes of a file; of JSON, with a value of another type at every other place."""
    whole = path.read_bytes()
    yield from (b"", b"{", whole[: len(whole) // 2], whole + b"x", b"\xff" + whole, whole * 2)
    for at in range(1, len(whole), max(1, len(whole) // 9)):
        yield whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]
    if path.suffix == ".json":
        yield from (b"[]", b"3", b"null", b"{}", b"[" * 10**5, b'{"config": NaN}')
        value = json.loads(whole)
        for key in value:
            for odd in (None, 3, "x", [], {}, {"x": [1]}):
                yield json.dumps(value | {key: odd}).encode()
            yield json.dumps({k: v for k, v in value.items() if k != key}).encode()


def contents(workdir: pathlib.Path) -> tuple:
    """What is read of a prepared suite."""
    assert prepared_config(workdir) == TINY
    frames = load_frames(workdir, "test")
    rl = [repr(sorted(record.items())) for record in load_part(workdir, "rl", "train")]
    videos = [(frame["id"], frame["frames"].tobytes()) for frame in frames]
    return rl, videos, video_rows(workdir, "test")


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.invariant)])
def test_damaged_files_of_a_suite_are_one_line(tmp_path, workdir, step):
    """By whatever reads them; and never another suite. step: how many kinds of damage to leave."""
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    suite = tmp_path / "suite"

    def read():
        prepare_suite(tmp_path, TINY, progress=False, processes=1)
        return contents(tmp_path)

    wanted, refused, tried = read(), 0, 0
    built = [suite / "tfds" / "phantom_suite" / "rl", suite / "tfds" / "phantom_frames"]
    paths = [suite / "suite.json", suite / "done.json", suite / "videos" / "procedures.json"]
    for path in [*paths, *(p for folder in built for p in folder.rglob("1.0.0/*"))]:
        whole = path.read_bytes()
        for damaged in list(damages(path))[::step]:
            path.write_bytes(damaged)
            tried += damaged != whole
            try:
                assert read() == wanted
            except UserError as error:
                assert str(suite) in str(error) and "prepare the suite again" in str(error)
                refused += 1
        path.unlink()
        path.mkdir()
        with pytest.raises(UserError, match="prepare"):
            read()
        path.rmdir()
        path.write_bytes(whole)
    # Records have checksums of their own, but no meaning in every byte.
    assert refused > 0.8 * tried and read() == wanted


@pytest.mark.parametrize(
    "moment", [25, *(pytest.param(n, marks=pytest.mark.invariant) for n in (3, 60, 110))]
)
def test_a_preparation_killed_at_any_moment(kill_at, tmp_path, workdir, moment):
    config = prepare.config_to_json(TINY)
    assert kill_at(moment, tmp_path, "prepare", str(tmp_path), config)
    with pytest.raises(UserError, match="no finished suite"):
        load_part(tmp_path, "cap", "train")
    prepare_suite(tmp_path, TINY, progress=False, processes=1)
    assert not list((tmp_path / "suite").rglob("*incomplete*"))
    assert contents(tmp_path) == contents(workdir)


def test_unprepared_and_unknown_are_one_line_errors(tmp_path, workdir):
    with pytest.raises(UserError, match="holds no finished suite"):
        load_part(tmp_path, "cap", "train")
    with pytest.raises(UserError, match="no split 'test'"):
        load_part(workdir, "rl", "test")
    with pytest.raises(UserError, match="no split"):
        load_frames(workdir, "dev")


@pytest.mark.invariant
def test_killed_preparation_is_continued_to_the_same_bytes(tmp_path, workdir):
    """kill -9 while two processes draw; then half a dataset and half a recording lie about."""
    code = (
        "import sys\n"
        "from tfds_builders.prepare import prepare_suite\n"
        "from medscope_jax.phantom.suite_config import suite_config\n"
        "if __name__ == '__main__':\n"
        "    prepare_suite(sys.argv[1], suite_config(eval(sys.argv[2])), False, 2)\n"
    )
    script = tmp_path / "job.py"
    script.write_text(code)
    values = repr(prepare.config_to_json(TINY))
    root = str(pathlib.Path(prepare.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, str(script), str(tmp_path), values]
    job = subprocess.Popen(command, env=environment)
    videos = tmp_path / "suite" / "videos"
    deadline = time.monotonic() + 60
    while not list(videos.glob("*-0??.mp4")) and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = pathlib.Path(f"/proc/{job.pid}/task/{job.pid}/children")
    workers = workers.read_text().split() if workers.exists() else []
    job.send_signal(signal.SIGKILL)
    job.wait()
    # Its workers end with it, but not in the same moment.
    while any(pathlib.Path("/proc", pid, "exe").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not (tmp_path / "suite" / "done.json").exists()
    with pytest.raises(UserError, match="no finished suite"):
        load_part(tmp_path, "cap", "train")
    (videos / "train-ophthalmic-000.partial.mp4").write_bytes(b"half")
    half = tmp_path / "suite" / "tfds" / "phantom_suite" / "cap" / "1.0.0.incompleteABC_1.0.0"
    half.mkdir(parents=True)
    (half / "features.json").write_text("{")

    prepare_suite(tmp_path, TINY, progress=False, processes=1)
    assert not list((tmp_path / "suite").rglob("*incomplete*"))
    assert not list(videos.glob("*partial*"))
    assert digest(tmp_path / "suite") == digest(workdir / "suite")
