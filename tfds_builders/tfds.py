r"""`tfds build` without TensorFlow: TFDS's own build command, started alone.

    python -m tfds_builders.tfds build tfds_builders/clinvideo_frames --manual_dir MANUAL \
        --data_dir DATA
    python -m tfds_builders.tfds build tfds_builders/clinvideo_suite --config vcot \
        --manual_dir MANUAL --data_dir DATA

Every flag of `tfds build` is there and means what it means to TFDS, whose code reads and runs it.
The `tfds` that TFDS installs cannot start without TensorFlow, whatever it is to do
(tensorflow-datasets 4.9.10): scripts/cli/main.py imports all commands at once, of which
convert_format_utils.py needs tf.train.Example (line 51) and apache_beam.DoFn (line 248) while it is
imported, and croissant.py mlcroissant (line 34). Building needs none of them.

It takes builders one by one; `python -m tfds_builders.build` builds the frames and all parts, and
says what could not be used.
"""

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable

import simple_parsing
from tensorflow_datasets.scripts.cli import build, cli_utils

from medscope_jax.errors import UserError, closest, run_main
from medscope_jax.files import check_folder, check_local

_PATHS = ("--data_dir", "--download_dir", "--extract_dir", "--manual_dir")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args(cli_utils.Args):
    """TFDS's command line with its build command alone."""

    command: build.Args = simple_parsing.subparsers({"build": build.Args})

    def execute(self) -> None:
        """Runs the command."""
        self.command.execute()


def main(arguments: list[str]) -> None:
    """Builds what the command line asks for; see `tfds build --help`."""
    # Before TFDS reads them: its paths of other machines need TensorFlow.
    pairs = [argument.partition("=")[::2] for argument in arguments]
    for (name, value), (following, _) in zip(pairs, [*pairs[1:], ("", "")], strict=True):
        if name.replace("-", "_").replace("__", "--", 1) in _PATHS:
            check_local(value or following, name)
            check_folder(value or following, name)
    parse = cli_utils.make_flags_parser(Args, description="TFDS's build, without TensorFlow")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = parse(["tfds", *arguments])
    except SystemExit as stop:
        if stop.code:
            what = said.getvalue().rpartition("error: ")[2].strip()
            name = re.match(r"unrecognized arguments: (--[^\s=]+)", what)
            what += closest(name[1], _flags(parse)) if name else ""
            raise UserError(f"{what} (build --help shows all arguments)") from None
        raise
    parsed.execute()


def _flags(parse: Callable) -> list[str]:
    """All flags that the help of TFDS's parser names."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        parse(["tfds", "build", "--help"])
    return re.findall(r"--\w+", said.getvalue())


if __name__ == "__main__":
    run_main(main)
