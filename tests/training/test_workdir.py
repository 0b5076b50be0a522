"""A run's folder: another config, a second run, being done."""

import functools
import json
import os
import random
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from medscope_jax.config import from_json, load_config
from medscope_jax.config_schema import KEYS, SECTIONS
from medscope_jax.errors import UserError
from medscope_jax.metrics import Scored, read_results, result_rows, write_results
from medscope_jax.training import workdir as workdir_lib
from medscope_jax.training.going_on import MAY_CHANGE


@pytest.fixture
def config():
    return load_config("tpu_configs/cpu.py:smoke")


def scored():
    given = {"answer": "a", "reference": "a", "judge_score": 1.0, "localization": None}
    kind = {"model": "rl", "split": "ophthalmic", "task": "vqa"}
    return Scored(**kind, **given, parsed=True, window=1.0, tool_calls=1)


def reopen(path, config):
    with workdir_lib.open_workdir(path, config) as workdir:
        workdir_lib.keep_config(workdir, config)
        return workdir


def test_layout_and_reopening(tmp_path, config):
    workdir = reopen(tmp_path / "runs" / "cpu", config)
    assert workdir.metrics.name == "metrics.jsonl" and workdir.report.name == "report.html"
    again, read = workdir_lib.read_workdir(workdir.path)
    assert again == workdir and read == config
    config.log.every = 7  # how it logs may change
    assert reopen(workdir.path, config) == workdir
    assert workdir_lib.read_workdir(workdir.path)[1].log.every == 7


def test_another_config_names_the_first_keys_with_both_values(tmp_path):
    config = ConfigDict(
        {
            "seed": 0,
            "start_from": "",
            "rl": {"group_size": 8, "lag": 0, "rate": 1e-4},
            "shape": (1, 2),
            "log": {"every": 5},
        }
    ).lock()
    reopen(tmp_path, config)
    config.rl.group_size = 16
    with pytest.raises(UserError, match=r"another config: rl.group_size was 8, now 16\. Choose"):
        reopen(tmp_path, config)
    config.seed, config.rl.rate, config.shape = 1, 1e-3, (2, 2)
    with pytest.raises(UserError, match=r"rl.rate was 0.0001, now 0.001; seed .*and 1 more"):
        reopen(tmp_path, config)
    with config.unlocked():
        del config["seed"]
        config.rl = ConfigDict({"group_size": 8, "lag": 0, "rate": 1e-4, "new": True})
    with pytest.raises(UserError, match="rl.new was nothing, now True; seed was 0, now nothing"):
        reopen(tmp_path, config)


def test_the_judge_may_change(tmp_path, config):
    """All of its section, and nothing else; config.json says what it is now."""
    reopen(tmp_path, config)
    changes = ("url=http://h/v1", "model=m", "timeout=0.5", "temperature=None", "max_failed=0")
    config = load_config("tpu_configs/cpu.py:smoke", [f"judge.{change}" for change in changes])
    reopen(tmp_path, config)
    assert workdir_lib.read_workdir(tmp_path)[1].judge == config.judge
    config.seed = 1
    with pytest.raises(UserError, match=r"another config: seed was 0, now 1\. Choose"):
        reopen(tmp_path, config)


@pytest.mark.parametrize(
    "change",
    [
        *("log.every=2", "judge.timeout=1", "device.count=2", "mesh.fsdp=2", "model.remat=True"),
        *("warm_up.micro_batch=2", "rl.micro_batch=8", "rollout.slots=4", "evaluation.rollouts=8"),
        *("stages=warm_up", "ga_grpo.steps=9", "cold_start.epochs=2"),
    ],
)
def test_what_may_change_when_a_run_goes_on(tmp_path, config, change):
    """Where and how it computes, what it does in all; config.json says what it is now."""
    reopen(tmp_path, config)
    changed = load_config("tpu_configs/cpu.py:smoke", [change])
    assert changed != config
    reopen(tmp_path, changed)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["seal"]
    assert from_json(json.dumps(stored)) == changed


@pytest.mark.parametrize(
    "change", ["ga_grpo.learning_rate=1", "warm_up.batch_size=4", "model.lora.rank=4", "seed=1"]
)
def test_what_was_learned_with_may_not_change(tmp_path, config, change):
    reopen(tmp_path, config)
    key = change.partition("=")[0]
    with pytest.raises(UserError, match=f"another config: {key} was .*, now"):
        reopen(tmp_path, load_config("tpu_configs/cpu.py:smoke", [change]))


def test_every_key_that_may_change_is_a_key():
    known = {*KEYS, *(f"{section}." for section in SECTIONS)}
    assert set(MAY_CHANGE) <= known and len(set(MAY_CHANGE)) == len(MAY_CHANGE)


def test_results_are_set_aside_under_names_of_their_own(tmp_path, config, capsys):
    workdir = reopen(tmp_path, config)
    workdir_lib.set_results_aside(workdir)
    for number in (1, 2):
        write_results(workdir.results, result_rows([scored()] * number))
        workdir_lib.set_results_aside(workdir)
        assert not workdir.results.exists()
        kept = tmp_path / f"results_before_{number}.json"
        assert read_results(kept) == result_rows([scored()] * number)
        assert capsys.readouterr().out.strip().endswith(str(kept))


def test_a_run_of_before_a_judge_might_fail_is_read(tmp_path, config):
    reopen(tmp_path, config)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["seal"]
    for key in ("temperature", "max_failed", "unscored"):
        del values["judge"][key]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert workdir_lib.read_workdir(tmp_path)[1] == config


def test_a_folder_without_config_is_not_taken_over(tmp_path, config):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="has metrics.jsonl but no config.json"):
        reopen(tmp_path, config)
    with pytest.raises(UserError, match="holds no run"):
        workdir_lib.read_workdir(tmp_path)


def test_a_path_that_is_no_folder(tmp_path, config):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't use .*file/x as the workdir"):
        reopen(tmp_path / "file" / "x", config)


def places(value, path=()):
    """The path of every value within a config."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from places(inner, (*path, key))


def test_a_config_that_was_edited_or_damaged_is_one_line(tmp_path, config):
    """Of a version without checksums, read where a run could have it, as json.loads says."""
    reopen(tmp_path, config)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    del values["seal"]
    text = json.dumps(values, indent=2)
    read = refused = 0
    every = list(places(json.loads(text)))
    for number, place in enumerate(every[::4]):
        odd = (None, "x", [], {}, {"a.b": 1}, -1, 10**30, True, 0.5)[number % 9]
        values = json.loads(text)
        inner = functools.reduce(lambda inner, key: inner[key], place[:-1], values)
        if place:
            inner[place[-1]] = odd
        path.write_text(json.dumps(values if place else odd))
        try:
            found = workdir_lib.read_workdir(tmp_path)[1]
            assert found == from_json(path.read_text())
            read += 1
        except UserError as error:
            assert "config.json" in str(error) and "another --workdir" in str(error)
            refused += 1
    assert read and refused > read
    for damaged in (text[:-9], "", "\0" + text, text.replace("seed", "s\xffed"), text + text):
        path.write_bytes(damaged.encode("latin-1"))
        with pytest.raises(UserError, match="config.json.*: put back a copy of it"):
            workdir_lib.read_workdir(tmp_path)
        with pytest.raises(UserError, match="config.json.*: put back a copy of it"):
            reopen(tmp_path, config)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="config.json can't be read"):
        workdir_lib.read_workdir(tmp_path)


@pytest.mark.parametrize("depth", [90, 300, 900])
def test_sections_within_sections_without_end_are_one_line(tmp_path, config, depth):
    reopen(tmp_path, config)
    (tmp_path / "config.json").write_text('{"seed": ' * depth + "1" + "}" * depth)
    with pytest.raises(UserError, match="config.json.*another --workdir"):
        workdir_lib.read_workdir(tmp_path)


def test_a_config_of_megabytes_is_no_config(tmp_path, config):
    reopen(tmp_path, config)
    values = {"seed": {f"key{number}": 1 for number in range(10**5)}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="config.json is larger than any config: put back"):
        workdir_lib.read_workdir(tmp_path)


def test_what_is_quoted_of_a_config_is_short(tmp_path, config):
    reopen(tmp_path, config)
    path, long = tmp_path / "config.json", "x" * 10_000
    for change in ({"seed": long}, {long: 1}, {"seed": [long]}, {"judge": long}):
        path.write_text(json.dumps(config.to_dict() | change))
        for read in (workdir_lib.read_workdir, lambda path: reopen(path, config)):
            with pytest.raises(UserError) as error:
                read(tmp_path)
            assert len(str(error.value)) < len(str(path)) + 600, str(error.value)[:300]


def test_a_config_with_a_flipped_bit_is_not_read_as_another(tmp_path, config):
    reopen(tmp_path, config)
    path, chance = tmp_path / "config.json", random.Random(0)
    whole = path.read_bytes()
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            assert workdir_lib.read_workdir(tmp_path)[1] == config  # a space that became another
        except UserError as error:
            assert "config.json" in str(error)


HOLD = """
import sys, time
from ml_collections import ConfigDict
from medscope_jax.training.workdir import open_workdir
with open_workdir(sys.argv[1], ConfigDict({"seed": 0, "start_from": ""})):
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
        config = ConfigDict({"seed": 0, "start_from": ""})
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
    write_results(workdir.results, [])
    assert not workdir.is_done()
    rows = result_rows([scored()])
    write_results(workdir.results, rows)
    assert workdir.is_done() and read_results(workdir.results) == rows
    for name, value in (*((key, {}) for key in rows[0]), ("model", 3), ("count", -1)):
        write_results(workdir.results, [rows[0] | {name: value}])
        assert not workdir.is_done()  # the run makes it again
        with pytest.raises(UserError, match=rf"results.json .*\[0\].{name} must be .*delete it"):
            read_results(workdir.results)
