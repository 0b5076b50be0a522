"""How long a stage is: epochs become steps, which stay; and what people are told."""

import json
import math

import pytest

from medscope_jax.config import load_config
from medscope_jax.errors import UserError
from medscope_jax.training.duration import Pace, seconds_a_step, with_duration
from medscope_jax.training.metrics_log import MetricsWriter

CPU = "tpu_configs/cpu.py"


def config_of(epochs, batch_size=32):
    changes = [f"warm_up.epochs={epochs}", "warm_up.steps=0", f"warm_up.batch_size={batch_size}"]
    return load_config(CPU, changes)


@pytest.mark.parametrize(
    "rows, epochs, steps", [(100, 3, 10), (96, 3, 9), (7, 1, 1), (1000, 0.5, 16)]
)
def test_epochs_are_steps_that_show_every_record_as_often(rows, epochs, steps):
    config = config_of(epochs)
    found = with_duration(config, "warm_up", rows, [])
    assert found.warm_up.steps == steps and steps * 32 >= epochs * rows > (steps - 1) * 32
    assert found.warm_up.epochs == epochs and found.cold_start.steps == config.cold_start.steps


def test_a_number_of_steps_is_taken_as_it_is():
    config = load_config(CPU)
    assert with_duration(config, "warm_up", 7, []) is config


def test_the_steps_stay_when_the_run_goes_on():
    """Though the suite has other records by now; with other epochs they are counted anew."""
    metas = [{"stage": "warm_up", "step": 4, "steps": 10, "epochs": 3.0}]
    assert with_duration(config_of(3), "warm_up", 300, metas).warm_up.steps == 10
    assert with_duration(config_of(4), "warm_up", 300, metas).warm_up.steps == math.ceil(1200 / 32)
    other = [{"stage": "cold_start", "step": 4, "steps": 10, "epochs": 3.0}]
    assert with_duration(config_of(3), "warm_up", 300, other).warm_up.steps == math.ceil(900 / 32)


def test_a_stage_is_not_made_shorter_than_it_is():
    metas = [{"stage": "warm_up", "step": 9, "steps": 10, "epochs": 3.0}]
    line = "config.warm_up.epochs is 2, so warm_up has 7 steps, but 9 are done already"
    with pytest.raises(UserError, match=line):
        with_duration(config_of(2), "warm_up", 100, metas)
    with pytest.raises(UserError, match="config.warm_up.steps is 8, so warm_up has 8 steps"):
        with_duration(load_config(CPU, ["warm_up.steps=8"]), "warm_up", 100, metas)
    with_duration(load_config(CPU, ["warm_up.steps=9"]), "warm_up", 100, metas)


def log_of(path, seconds):
    """A log of lines every ten steps, written at these times in seconds."""
    with MetricsWriter(path) as writer:
        for number, _ in enumerate(seconds, 1):
            writer.write("warm_up", 10 * number, {"loss": 1.0})
    lines = path.read_text().splitlines()
    rows = [json.loads(line) | {"time": when} for line, when in zip(lines, seconds, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def test_the_pace_of_a_log_leaves_pauses_out(tmp_path):
    rows = log_of(tmp_path / "metrics.jsonl", [100.0, 120.0, 140.0, 9000.0, 9020.0])
    assert seconds_a_step(rows, "warm_up") == 2.0
    assert (
        seconds_a_step(rows, "cold_start") is None and seconds_a_step(rows[:1], "warm_up") is None
    )


def test_people_are_told_how_long_a_stage_is(tmp_path, capsys):
    """At first without the time, which some steps tell; going on, with the log's."""
    section = {"steps": 113, "batch_size": 32}
    now = iter([50.0, 70.0, 90.0])
    log = tmp_path / "metrics.jsonl"
    pace = Pace("warm_up", section, 1200, 0, log, clock=lambda: next(now))
    assert capsys.readouterr().out == "warm_up: 1,200 records, 3.01 epochs, 113 steps\n"
    pace(10)
    assert capsys.readouterr().out == ""
    pace(20)
    assert capsys.readouterr().out == "warm_up: 93 steps left, about 3:06\n"
    pace(30)
    assert capsys.readouterr().out == ""
    log_of(log, [100.0, 120.0])
    pace = Pace("warm_up", section, 1200, 20, log)
    told = "warm_up: 1,200 records, 3.01 epochs, 113 steps, 93 of them left, about 3:06\n"
    assert capsys.readouterr().out == told
    pace(30)
    pace(40)
    Pace("warm_up", section, None, 0, log)(10)
    assert capsys.readouterr().out == ""
