"""The console command: every entry point is a subcommand of it, and its list costs nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medscope_jax import __version__, cli

ROOT = Path(__file__).resolve().parent.parent
START = "from medscope_jax.cli import start; start()"


def medscope(*arguments, prelude=""):
    """(status, stdout, stderr) of the console script, in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-c", prelude + START, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_the_list(arguments, capsys):
    cli.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    for name, (_, about) in cli.COMMANDS.items():
        assert f"  {name:<10} {about}" in lines


def test_the_version(capsys):
    cli.main(["--version"])
    assert capsys.readouterr().out == f"medscope {__version__}\n"


@pytest.mark.parametrize(("name", "meant"), [("trian", "train"), ("evalute", "evaluate")])
def test_a_mistyped_command_is_one_line(refusal, name, meant):
    line = refusal(cli.main, [name, "--workdir=run"])
    assert line.startswith(f"unknown command '{name}' (did you mean '{meant}'?); known: train, ")


def test_the_commands_are_the_entry_points():
    """All that `python -m` starts for a user; tfds is TFDS's own command."""
    found = set()
    for room in ("medscope_jax", "tfds_builders"):
        for path in (ROOT / room).rglob("*.py"):
            if "run_main(main)" in path.read_text() and path.name != "cli.py":
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                found.add(name.removesuffix(".__main__"))
    assert {module for module, _ in cli.COMMANDS.values()} == found - {"tfds_builders.tfds"}


def test_the_list_imports_nothing_heavy():
    heavy = "('jax', 'numpy', 'tensorflow_datasets', 'medscope_jax.train')"
    prelude = (
        f"import atexit, sys; atexit.register(lambda: print(sys.modules.keys() & {{*{heavy}}}));"
    )
    status, output, error = medscope(prelude=prelude)
    assert (status, error) == (0, "") and output.endswith("set()\n")


def test_a_command_is_its_module():
    """Arguments, statuses and the name in usage are those of python -m."""
    status, output, error = medscope("prepare", "--help")
    assert status == 0 and output.startswith("usage: python -m tfds_builders.prepare ")
    status, output, error = medscope("card", "--data_dri=x")
    assert (status, output, error.count("\n")) == (2, "", 1)
    assert error.startswith("error: unknown argument '--data_dri=x' (did you mean '--data_dir'?)")
