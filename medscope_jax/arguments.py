"""Command lines: flags, and overrides of a config; a mistake in them is one line."""

import argparse
import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from medscope_jax.config_text import keys_help
from medscope_jax.errors import ConfigError, closest
from medscope_jax.files import check_folder, check_local

# What a flag's metavar says of a value that is a path.
_FILES = ("FILE", "FILE[:ARG]")
_FOLDERS = ("CKPT", "DATA", "DIR", "FOLDER", "RUN")
# What argparse takes for a flag: a negative number is none, nor what has a space in it.
_FLAG = re.compile(r"--?[A-Za-z][^ ]*")


def parse_arguments(
    description: str, argv: Sequence[str], flags: Mapping[str, Mapping[str, Any]]
) -> argparse.Namespace:
    """Parses a command line of which `--config.a.b=value` (or `--config.a.b value`) are overrides.

    Args:
      description: shown by --help, as it stands.
      argv: the arguments, without the program's name.
      flags: name -> keyword arguments of `argparse.ArgumentParser.add_argument`, for example
        {"--config": {"required": True, "metavar": "FILE[:ARG]", "help": "..."}}. A metavar of
        _FILES or _FOLDERS says that the value is a path. With a flag --config, --help lists the
        config's keys.

    Returns:
      A namespace with a field for each flag and `overrides`, a list for `load_config`.

    Raises:
      ConfigError: one line, naming the closest flag if there is one.
      UserError: an address (gs://...) in the place of a path, or a folder whose name is no UTF-8.
    """
    takes_config = "--config" in flags
    parser = Parser(description=description, epilog=keys_help() if takes_config else None)
    for name, options in flags.items():
        parser.add_argument(name, **options)
    overrides, rest = [], []
    arguments = iter(argv)
    for argument in arguments:
        if not argument.startswith("--config.") or not takes_config:
            rest.append(argument)
            continue
        key, equals, value = argument.removeprefix("--config.").partition("=")
        if not equals:
            value = next(arguments, "--")
            if value.startswith("--"):
                raise ConfigError(f"--config.{key} needs a value: --config.{key}=VALUE")
        overrides.append(f"{key}={value}")
    namespace = parser.parse_args(rest)
    namespace.overrides = overrides
    for name, options in flags.items():
        value = getattr(namespace, name.removeprefix("--").replace("-", "_"))
        if isinstance(value, str) and options.get("metavar") in (*_FILES, *_FOLDERS):
            (check_folder if options["metavar"] in _FOLDERS else check_local)(value, name)
    return namespace


class Parser(argparse.ArgumentParser):
    """Reports a bad command line as the one line that every other user error is.

    An unknown flag is named, with the closest one, before what is missing; none may be shortened.
    """

    def __init__(self, **options: Any):
        """Takes argparse.ArgumentParser's options, allow_abbrev and formatter_class aside."""
        started = getattr(sys.modules["__main__"], "__spec__", None)
        if started is not None:  # by python -m, which older argparse does not say
            options.setdefault("prog", f"python -m {started.name.removesuffix('.__main__')}")
        plain = argparse.RawDescriptionHelpFormatter
        super().__init__(allow_abbrev=False, formatter_class=plain, **options)

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, but there is nothing unknown.

        Raises:
          ConfigError: the command line can't be parsed.
        """
        given = list(sys.argv[1:] if args is None else args)
        before = itertools.takewhile(lambda argument: argument != "--", given)
        flags = [argument for argument in before if _FLAG.fullmatch(argument)]
        self._refuse([flag for flag in flags if flag.partition("=")[0] not in self._flags()])
        namespace, unknown = super().parse_known_args(given, namespace)
        self._refuse(unknown)
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError."""
        raise ConfigError(f"{message} (--help shows all arguments)")

    def _flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings]

    def _refuse(self, unknown: Sequence[str]) -> None:
        if unknown:
            known = sorted(self._flags(), key=lambda flag: flag == "--help")
            known = [flag for flag in known if flag.startswith("--")]
            name = unknown[0].partition("=")[0]
            raise ConfigError(
                f"unknown argument {unknown[0]!r}{closest(name, known)}; known: {', '.join(known)}"
            )
