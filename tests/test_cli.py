"""The console command: every entry point is a subcommand of it, and its list costs nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from medscope_jax import __version__, cli

ROOT = Path(__file__).resolve().parent.parent


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
    code = (
        "import sys; from medscope_jax.cli import main; main([]);"
        "print(sys.modules.keys() & {'jax', 'numpy', 'tensorflow_datasets'})"
    )
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("set()\n")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # the tests import it, too
def test_a_command_is_its_module(refusal, capfd):
    """Arguments, statuses and the name in usage are those of python -m."""
    line = refusal(cli.main, ["prepare", "--workdri=x"])
    assert line.startswith("unknown argument '--workdri=x' (did you mean '--workdir'?)")
    with pytest.raises(SystemExit) as stop:
        cli.main(["prepare", "--help"])
    assert stop.value.code == 0
    assert capfd.readouterr().out.startswith("usage: python -m tfds_builders.prepare ")
