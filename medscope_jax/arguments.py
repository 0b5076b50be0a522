"""Command lines: flags, and overrides of a config; a mistake in them is one line."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from medscope_jax.errors import ConfigError, closest
from medscope_jax.files import check_folder, check_local

# What a flag's metavar says of a value that is a path.
_FILES = ("FILE", "FILE[:ARG]")
_FOLDERS = ("CKPT", "DATA", "DIR", "FOLDER", "RUN")


def parse_arguments(
    description: str, argv: Sequence[str], flags: Mapping[str, Mapping[str, Any]]
) -> argparse.Namespace:
    """Parses a command line of which `--config.a.b=value` (or `--config.a.b value`) are overrides.

    Args:
      description: shown by --help.
      argv: the arguments, without the program's name.
      flags: name -> keyword arguments of `argparse.ArgumentParser.add_argument`, for example
        {"--config": {"required": True, "metavar": "FILE[:ARG]", "help": "..."}}. A metavar of
        _FILES or _FOLDERS says that the value is a path.

    Returns:
      A namespace with a field for each flag and `overrides`, a list for `load_config`.

    Raises:
      ConfigError: one line, naming the closest flag if there is one.
      UserError: an address (gs://...) in the place of a path, or a folder whose name is no UTF-8.
    """
    parser = Parser(description=description, allow_abbrev=False)
    for name, options in flags.items():
        parser.add_argument(name, **options)
    overrides, rest = [], []
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith("--config.") or "--config" not in flags:
            rest.append(argument)
            continue
        key, equals, value = argument.removeprefix("--config.").partition("=")
        if not equals:
            value = next(arguments, None)
            if value is None or value.startswith("--"):
                raise ConfigError(f"--config.{key} needs a value: --config.{key}=VALUE")
        overrides.append(f"{key}={value}")
    namespace, unknown = parser.parse_known_args(rest)
    if unknown:
        known = [*flags, "--help"]
        name = unknown[0].partition("=")[0]
        raise ConfigError(
            f"unknown argument {unknown[0]!r}{closest(name, known)}; known: {', '.join(known)}"
        )
    namespace.overrides = overrides
    for name, options in flags.items():
        value = getattr(namespace, name.removeprefix("--"))
        if isinstance(value, str) and options.get("metavar") in (*_FILES, *_FOLDERS):
            (check_folder if options["metavar"] in _FOLDERS else check_local)(value, name)
    return namespace


class Parser(argparse.ArgumentParser):
    """Reports a bad command line as the one line that every other user error is."""

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError."""
        raise ConfigError(f"{message} (--help shows all arguments)")
