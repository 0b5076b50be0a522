"""A run's folder: another config, a second run, being done."""

import os
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from medscope_jax.errors import UserError
from medscope_jax.evaluation import write_results
from medscope_jax.training import workdir as workdir_lib


@pytest.fixture
def config():
    return ConfigDict(
        {"seed": 0, "rl": {"group_size": 8, "rate": 1e-4}, "shape": (1, 2), "log": {"every": 5}}
    ).lock()


def reopen(path, config):
    with workdir_lib.open_workdir(path, config) as workdir:
        return workdir


def test_layout_and_reopening(tmp_path, config):
    workdir = reopen(tmp_path / "runs" / "cpu", config)
    assert workdir.metrics.name == "metrics.jsonl" and workdir.report.name == "report.html"
    again, read = workdir_lib.read_workdir(workdir.path)
    assert again == workdir and read == config
    config.log.every = 7  # how it logs may change
    assert reopen(workdir.path, config) == workdir
    assert workdir_lib.read_workdir(workdir.path)[1].log.every == 7


def test_another_config_names_the_first_keys_with_both_values(tmp_path, config):
    reopen(tmp_path, config)
    config.rl.group_size = 16
    with pytest.raises(UserError, match=r"another config: rl.group_size was 8, now 16\. Choose"):
        reopen(tmp_path, config)
    config.seed, config.rl.rate, config.shape = 1, 1e-3, (2, 2)
    with pytest.raises(UserError, match=r"rl.rate was 0.0001, now 0.001; seed .*and 1 more"):
        reopen(tmp_path, config)
    with config.unlocked():
        del config["seed"]
        config.rl = ConfigDict({"group_size": 8, "rate": 1e-4, "new": True})
    with pytest.raises(UserError, match="rl.new was nothing, now True; seed was 0, now nothing"):
        reopen(tmp_path, config)


def test_a_folder_without_config_is_not_taken_over(tmp_path, config):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="has metrics.jsonl but no config.json"):
        reopen(tmp_path, config)
    with pytest.raises(UserError, match="holds no run"):
        workdir_lib.read_workdir(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json can't be read"):
        workdir_lib.read_workdir(tmp_path)


def test_a_path_that_is_no_folder(tmp_path, config):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't use .*file/x as the workdir"):
        reopen(tmp_path / "file" / "x", config)


HOLD = """
import sys, time
from ml_collections import ConfigDict
from medscope_jax.training.workdir import open_workdir
with open_workdir(sys.argv[1], ConfigDict({"seed": 0})):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_runs_at_once_and_a_killed_one(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, env=environment
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        config = ConfigDict({"seed": 0})
        with pytest.raises(UserError, match=f"in use by another run .process {holder.pid}."):
            reopen(tmp_path, config)
        with workdir_lib.open_workdir(tmp_path, config, primary=False):
            pass  # other processes of one run do not lock
    finally:
        holder.kill()
        holder.wait()
    reopen(tmp_path, config)  # a killed run leaves nothing locked


def test_done_only_with_whole_results(tmp_path, config):
    workdir = reopen(tmp_path, config)
    assert not workdir.is_done()
    workdir.results.write_text('{"rows": [')
    assert not workdir.is_done()
    write_results(workdir.results, {"rows": [1]})
    assert workdir.is_done()
