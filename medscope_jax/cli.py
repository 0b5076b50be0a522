"""The console command `medscope`: `medscope train ...` is `python -m medscope_jax.train ...`.

    medscope            lists the commands
    medscope X --help   a command's own arguments

A command's module is imported when it is asked for, by name: this list costs nothing, and imports
nothing that imports it.
"""

import runpy
import sys
from collections.abc import Sequence

from medscope_jax import __version__
from medscope_jax.errors import UserError, closest, run_main

# The module that `python -m` starts, and what it is for.
COMMANDS = {
    "train": ("medscope_jax.train", "train a model in three stages and evaluate it"),
    "evaluate": ("medscope_jax.evaluate", "evaluate a finished run on another split"),
    "ask": ("medscope_jax.ask", "ask a question about a recording"),
    "plan": ("medscope_jax.plan", "what a config needs on its hardware, without that hardware"),
    "check": ("medscope_jax.check", "do the invariants hold on these devices"),
    "convert": ("medscope_jax.convert", "weights of Qwen2.5-VL in and out"),
    "encode": ("medscope_jax.encode", "frame tokens of a data set, kept on disk"),
    "build": ("tfds_builders.build", "ClinVideoSuite from your recordings and annotations"),
    "prepare": ("tfds_builders.prepare", "the phantom suite"),
    "card": ("tfds_builders.card", "what a suite holds, and whether its splits leak"),
    "synthesis": ("tfds_builders.synthesis", "questions and answers about recordings, by a model"),
}


def main(argv: Sequence[str]) -> None:
    """Runs one command; lists them where none is named.

    Raises:
      UserError: an unknown command; names the closest.
    """
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        print("usage: medscope COMMAND ...\n\n`medscope X` is `python -m` of X's module:\n")
        for command, (_, about) in COMMANDS.items():
            print(f"  {command:<10} {about}")
        print(
            "\nmedscope COMMAND --help shows a command's arguments, medscope --version its version."
        )
        return
    if name == "--version":
        print(f"medscope {__version__}")
        return
    if name not in COMMANDS:
        known = [*COMMANDS, "--help", "--version"]
        raise UserError(
            f"unknown command {name!r}{closest(name, known)}; known: {', '.join(known)}"
        )
    sys.argv[1:] = rest
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)


def start() -> None:
    """What the console script calls."""
    run_main(main)
