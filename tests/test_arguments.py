"""Command lines of every entry point: a mistyped flag is one line that names the closest."""

from pathlib import Path

import pytest

from medscope_jax import arguments
from medscope_jax.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
MISTYPED = {
    "medscope_jax.train": [
        (["--confg", "tpu_configs/cpu.py", "--workdir=run"], "--config"),
        (["--config=tpu_configs/cpu.py", "--workdri", "run"], "--workdir"),
    ],
    "medscope_jax.evaluate": [(["--workdir=run", "--splti=test"], "--split")],
    "medscope_jax.ask": [(["--workdir=run", "--vidoe=v.mp4", "--question=q"], "--video")],
    "medscope_jax.plan": [(["--confg=tpu_configs/cpu.py"], "--config")],
    "medscope_jax.convert": [
        ([command, "--sorce=a", "--target=b"], "--source")
        for command in ("import", "save", "export")
    ],
    "medscope_jax.check": [(["--confg=tpu_configs/cpu.py"], "--config")],
    "medscope_jax.encode": [(["--workdir=run", "--splt=train"], "--split")],
    "tfds_builders.build": [
        (["clinvideo_suite", "--manual=a", "--data_dir=b"], "--manual_dir"),
        (["--data_dri=b"], "--data_dir"),
    ],
    "tfds_builders.prepare": [(["--wrokdir", "run"], "--workdir"), (["--smok"], "--smoke")],
    "tfds_builders.card.__main__": [(["--workdri=run"], "--workdir")],
    "tfds_builders.synthesis.__main__": [(["--phantm=3", "--out=o"], "--phantom")],
    "tfds_builders.tfds": [
        (["build", "tfds_builders/clinvideo_frames", "--manul_dir=m"], "--manual_dir")
    ],
    "benchmarks.ablation": [(["--wrkdir=run"], "--workdir")],
    "benchmarks.bfloat16": [(["--jsn=f"], "--json")],
    "benchmarks.damage": [(["--replya=x"], "--replay")],
    "benchmarks.input_wait": [(["--jsn=f"], "--json")],
    "benchmarks.large_suite": [(["--traget=d"], "--target")],
    "benchmarks.model": [(["--jsn=f"], "--json")],
    "benchmarks.plans": [(["--jsno=f"], "--json")],
    "benchmarks.rollouts": [(["--wrkdir=run"], "--workdir")],
    "benchmarks.scale": [(["--vidoes=3"], "--videos")],
    "benchmarks.scale_bank": [(["--jsn=f"], "--json")],
    "benchmarks.scale_start": [(["folder", "--vidoes=3"], "--videos")],
    "benchmarks.seeds": [(["run", "--jsn=f"], "--json")],
    "benchmarks.sft_packing": [(["--jsn=f"], "--json")],
    "benchmarks.slots": [(["--sed=1"], "--seed")],
    "benchmarks.suite": [(["--jsn=f"], "--json")],
    "benchmarks.trace_picture": [(["--wrkdir=run"], "--workdir")],
    "benchmarks.train_step": [(["--jsn=f"], "--json")],
}


@pytest.mark.parametrize("module", MISTYPED)
def test_a_mistyped_flag_is_one_line(refusal, module):
    # benchmarks/model.py needs what comes with PyTorch's side.
    main = pytest.importorskip(module, exc_type=ModuleNotFoundError).main
    for given, flag in MISTYPED[module]:
        line = refusal(main, given)
        assert f"(did you mean '{flag}'?)" in line and "usage" not in line


def test_no_entry_point_is_forgotten():
    """Whatever leaves by run_main is tried above; nothing parses its arguments in another way."""
    found = set()
    for room in ("medscope_jax", "tfds_builders", "benchmarks"):
        for path in (ROOT / room).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            text = path.read_text()
            if '__name__ == "__main__"' in text and "run_main(main)" in text:
                found.add(name)
            assert "ArgumentParser(" not in text or name == "medscope_jax.arguments"
    assert found == set(MISTYPED)


def parse(*given):
    parser = arguments.Parser(description="Tries.", prog="try")
    parser.add_argument("file", nargs="?")
    parser.add_argument("--number", "-n", type=float)
    parser.add_argument("--text", required=True)
    return parser.parse_args(given)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--txt=a"], "unknown argument '--txt=a' (did you mean '--text'?); known: "),
        (["--tex", "a"], "unknown argument '--tex' (did you mean '--text'?)"),
        (["-x", "--text=a"], "unknown argument '-x'"),
        (["a", "b", "--text=a"], "unknown argument 'b'"),
        ([], "required: --text (--help shows all arguments)"),
        (["--text", "-text"], "unknown argument '-text'"),
    ],
)
def test_what_is_refused(given, line):
    with pytest.raises(ConfigError) as error:
        parse(*given)
    assert line in str(error.value) and "\n" not in str(error.value)


def test_what_only_looks_like_a_flag_passes():
    flags = parse("--text", "--what is this?", "--number", "-2", "--", "--file")
    assert (flags.text, flags.number, flags.file) == ("--what is this?", -2.0, "--file")
    assert parse("-n", "3", "--text=--what").text == "--what"


def test_help_shows_the_description_as_it_stands(capsys):
    parser = arguments.Parser(description="Title.\n\n    a  table", prog="try")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "Title.\n\n    a  table\n" in capsys.readouterr().out
