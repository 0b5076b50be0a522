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

from medscope_jax.data.phantom_reader import prepared_suite, read_procedures, suite_dir
from medscope_jax.errors import UserError
from medscope_jax.locks import alone
from medscope_jax.phantom.suite_config import SuiteConfig
from tests.data.suite_cases import TINY
from tfds_builders import prepare
from tfds_builders.prepare import prepare_suite


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


def test_done_is_found_and_another_config_refused(workdir, monkeypatch):
    monkeypatch.setattr(prepare, "_draw", lambda *_: pytest.fail("drew again"))
    prepare_suite(workdir, TINY, progress=False)
    assert prepared_suite(workdir).config == TINY
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
    suite = prepared_suite(workdir)
    assert suite.config == TINY
    rl = [repr(sorted(record.items())) for record in suite.records("rl", "train")]
    videos = [
        (np.asarray(v.frames).tobytes(), v.times.tobytes(), v.duration)
        for v in suite.videos("test")
    ]
    return rl, videos, read_procedures(suite_dir(workdir) / "videos")


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
        prepared_suite(tmp_path)
    prepare_suite(tmp_path, TINY, progress=False, processes=1)
    assert not list((tmp_path / "suite").rglob("*incomplete*"))
    assert contents(tmp_path) == contents(workdir)


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
        prepared_suite(tmp_path)
    (videos / "train-ophthalmic-000.partial.mp4").write_bytes(b"half")
    half = tmp_path / "suite" / "tfds" / "phantom_suite" / "cap" / "1.0.0.incompleteABC_1.0.0"
    half.mkdir(parents=True)
    (half / "features.json").write_text("{")

    prepare_suite(tmp_path, TINY, progress=False, processes=1)
    assert not list((tmp_path / "suite").rglob("*incomplete*"))
    assert not list(videos.glob("*partial*"))
    assert digest(tmp_path / "suite") == digest(workdir / "suite")
