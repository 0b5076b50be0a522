"""The schema of a config: one line a key, from which checks, --help and docs/config.md come."""

import math
from pathlib import Path

import pytest

from medscope_jax import evaluate, plan, train
from medscope_jax.bank.bank_codec import DTYPES as BANK_DTYPES
from medscope_jax.config import load_config
from medscope_jax.config_schema import KEYS, SECTIONS
from medscope_jax.config_text import keys_help, keys_page
from medscope_jax.config_values import check_ranges, value_at, with_earlier
from medscope_jax.errors import UserError
from medscope_jax.models.model_config import DTYPES, REMAT_POLICIES
from medscope_jax.training.from_config import STAGES
from medscope_jax.video.frames import RESAMPLES

ROOT = Path(__file__).resolve().parent.parent
CPU = str(ROOT / "tpu_configs" / "cpu.py")


def test_every_key_and_section_says_what_it_is():
    assert {name.rpartition(".")[0] for name in KEYS} == {"", *SECTIONS} - {"model"} | {"model"}
    assert set(STAGES) <= set(SECTIONS)
    for text in (*SECTIONS.values(), *(key.about for key in KEYS.values())):
        assert text and text == text.strip() and "|" not in text


def test_choices_are_those_of_the_code_that_they_choose():
    assert KEYS["video.resample"].choices == RESAMPLES
    assert set(KEYS["model.dtype"].choices) == set(DTYPES)
    assert all(repr(name) in KEYS["video.stored_bank"].about for name in BANK_DTYPES)
    for name in REMAT_POLICIES:
        assert repr(name) in KEYS["model.remat_policy"].about


@pytest.mark.parametrize("name", [name for name, key in KEYS.items() if key.kind in (int, float)])
def test_a_number_is_in_its_range(name):
    """The bounds belong to it or not, as the schema says, and what is no number is refused."""
    key = KEYS[name]
    config = load_config(CPU)
    bad = [] if key.least is None else [key.least - 1]
    bad += [] if key.above is None else [key.above]
    bad += [] if key.most is None else [key.most + 1]
    bad = [*map(key.kind, bad), math.nan, math.inf] if bad else []
    good = [key.kind(value) for value in (key.least, key.most) if value is not None]
    good += [None] if key.optional else []
    *sections, last = name.split(".")
    section = value_at(config, ".".join(sections)) if sections else config
    with config.ignore_type():
        for value in good:
            section[last] = value
            check_ranges(config)
        for value in bad:
            section[last] = value
            with pytest.raises(UserError, match=f"^config.{name} is {value}; it must be ") as error:
                check_ranges(config)
            assert "\n" not in str(error.value)


def test_runs_of_before_a_key_was_there_have_its_value():
    old = {"judge": {"url": "", "max_failed": 0.5}, "seed": 0}
    new = with_earlier(old)
    assert new["judge"] == {
        **{"url": "", "max_failed": 0.5},
        **{"temperature": 0.0, "unscored": "left_out"},
    }
    assert old["judge"] == {"url": "", "max_failed": 0.5}
    first = {"stages": ",".join(STAGES), "start_from": ""}
    assert with_earlier({"judge": 3}) == {"judge": 3, **first} and with_earlier({}) == first
    assert with_earlier({"warm_up": {"steps": 3}})["warm_up"] == {
        **{"steps": 3, "epochs": 0.0, "micro_batch": 0}
    }


@pytest.mark.parametrize("program", [train, plan])
def test_help_lists_the_keys(program, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as stop:
        program.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert stop.value.code == 0
    for name, key in KEYS.items():
        assert sum(line.strip().startswith(f"{name}: {key.takes}") for line in lines) == 1
    assert max(map(len, keys_help().splitlines())) <= 100


def test_help_without_a_config_lists_none(capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["--help"])
    assert "rl.group_size" not in capsys.readouterr().out


def test_the_page_is_the_schema():
    """After a change: python -m medscope_jax.config_text > docs/config.md"""
    assert (ROOT / "docs" / "config.md").read_text() == keys_page()
