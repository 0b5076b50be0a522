"""Every test runs on the CPU, as eight virtual devices, so that sharding is testable anywhere."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests, and the programs that they start, compile the same again and again: what one compiled
# is kept for all until the last has ended.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="medscope_compiled_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# The project is run from its folder, not installed: tests import it from there too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import tests.xla_cases  # noqa: E402, F401 - before anything is compiled

# A shell's background job ignores Ctrl-C, and so would the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def nothing_kept():
    """JAX keeps no compiled program while a module's tests run, unless these ask for it."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    folder = jax.config.values["jax_compilation_cache_dir"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JAX_COMPILATION_CACHE_DIR")
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
        yield
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def micro_arguments():
    """The config of micro_run as command line arguments: the smoke run with all made small."""
    changes = {
        "suite.train_ophthalmic": 2,
        "suite.train_endoscopic": 2,
        "suite.validation_ophthalmic": 1,
        "suite.validation_endoscopic": 1,
        "suite.test_ophthalmic": 1,
        "suite.test_endoscopic": 1,
        "suite.test_laparoscopic": 1,
        "model.text.num_hidden_layers": 2,
        "model.vision.depth": 1,
        "model.vision.fullatt_block_indexes": (0,),
        "warm_up.steps": 2,
        "warm_up.batch_size": 4,
        "passive.steps": 2,
        "passive.batch_size": 4,
        "cold_start.steps": 2,
        "cold_start.batch_size": 4,
        "ga_grpo.steps": 1,
        "ga_grpo.batch_size": 2,
        "rl.group_size": 2,
        "rollout.turn_tokens": 16,
        "dialogue.max_tool_turns": 3,
        "evaluation.samples": 1,
        "evaluation.traces": 2,
        "log.every": 1,
    }
    smoke = Path(__file__).resolve().parent.parent / "tpu_configs" / "cpu.py"
    return [f"--config={smoke}:smoke"] + [f"--config.{k}={v}" for k, v in changes.items()]


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory, micro_arguments, worker_id):
    """The workdir of a finished run of a few steps. Tests only read it.

    It takes a minute to make: one worker makes it, and each has a copy.
    """
    # Imported here: test files that need no run shall not wait for its imports.
    from medscope_jax import train
    from medscope_jax.locks import alone

    own = tmp_path_factory.mktemp("micro") / "run"
    if worker_id == "master":
        train.main([*micro_arguments, "--workdir", str(own)])
        return own
    shared = tmp_path_factory.getbasetemp().parent
    with alone(shared / "micro.lock"):
        if not (shared / "micro").exists():
            train.main([*micro_arguments, "--workdir", str(shared / "making")])
            (shared / "making").rename(shared / "micro")
        shutil.copytree(shared / "micro", own)
    return own


@pytest.fixture(scope="session")
def recording(tmp_path_factory):
    """Six seconds of 160 x 120 pixels, which no config names; its name is a patient's."""
    import cv2
    import numpy as np

    path = tmp_path_factory.mktemp("videos") / "Doe^Jane.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 4.0, (160, 120))
    for value in np.linspace(0, 250, 24):
        writer.write(np.full((120, 160, 3), value, np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="session")
def kill_at():
    """(moment, folder, task, *arguments) -> whether the task was killed; see kill_program.py."""
    from tests.tfds_builders import kill_program

    root = str(Path(kill_program.__file__).parents[2])
    command = [sys.executable, "-m", "tests.tfds_builders.kill_program"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(command, cwd=root, env=environment, **pipes) as program:

        def run(moment, folder, task, *arguments):
            job = [moment, str(folder), task, arguments]
            program.stdin.write(json.dumps(job) + "\n")
            program.stdin.flush()
            return bool(int(program.stdout.readline()))

        yield run
        program.stdin.close()


@pytest.fixture(scope="session")
def gcs():
    """The address of an empty bucket, served on the loopback: see gcs_server.py."""
    # gcsfs asks Google's own service otherwise; it looks while it is imported.
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    for package in ("gcsfs", "gcp_storage_emulator"):
        pytest.importorskip(package)
    root = str(Path(__file__).resolve().parent.parent)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "tests.gcs_server"]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL, **pipes) as server:
        host = server.stdout.readline().strip()
        os.environ |= {"STORAGE_EMULATOR_HOST": host, "TENSORSTORE_GCS_HTTP_URL": host}
        yield "gs://bucket"
        server.stdin.close()


@pytest.fixture
def in_bucket(gcs, tmp_path, monkeypatch):
    """A folder of a bucket that is not there yet, and a cache of copies of the test's own."""
    from medscope_jax.paths import to_path

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return to_path(f"{gcs}/{tmp_path.parent.name}/{tmp_path.name}")


@pytest.fixture(params=["local", "bucket"])
def place(request, tmp_path):
    """A folder that is not there yet, of this machine or of a bucket: both shall behave alike."""
    return tmp_path / "it" if request.param == "local" else request.getfixturevalue("in_bucket")


@pytest.fixture
def refusal(monkeypatch, capfd):
    """(main, arguments) -> the one line on stderr with which an entry point refuses them."""
    from medscope_jax.errors import run_main

    def check(main, arguments):
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            run_main(main)
        output = capfd.readouterr()
        assert stop.value.code == 2, output.err
        assert output.err.startswith("error: ") and output.err.count("\n") == 1, output.err
        return output.err.removeprefix("error: ").strip()

    return check
