"""Source readers: one module a source, each a manual of the layout that it reads.

`read_source("cholec80", path, {"fps": 25.0})` gives Annotations and BadRows in the files' order and
touches no video. A reader module has one public function, `read(path, **options)`; its docstring
says what is read, what becomes of it, where the data come from and the options.

What holds for every reader:

- A row that can't be used is a BadRow that says where it stands and why, and quotes none of it;
  the rows after it are read all the same. A row that repeats an earlier one is such a row, and a
  file without rows is one BadRow. Of a file of whose first 10,000 rows (of labels: 10,000 lines or
  instances anywhere) none can be used, no more is read, which is a BadRow, too. UserError is for
  what no row is to blame for: a path that is not there, an unknown option.
- A row's place is its line, of a Parquet file its number, of a JSON list its line and element.
- What is read is bounded, whatever a file claims to hold: a line, or an element of a JSON list, of
  16 MiB; another JSON file of 16 MiB; a Parquet file of four million rows, a row group of it of
  256 MiB, and a row of 16 MiB and a million values. What is longer is a BadRow. Numbers have at
  most 4,300 digits, a row at most 1,000 spans.
- Text is UTF-8, with or without a byte order mark, or UTF-16 with one; a line feed, a carriage
  return or both end a line. A JSON file is JSON Lines, or, where it is named .json and starts with
  "[", one list.
- A field is absent where it is missing, null or blank. One of another type than expected is read
  where that is clear (a number as text, an object or a list as a text of JSON, an object as a map
  of Parquet's, a category, a decimal, a length of time), and else its row is a bad one; it is never
  taken for absent. So is a row that has a field twice. Names of fields are read in any case.
- Times are seconds of the source's own video file: numbers, or texts like "12.5", "12.5 s", "01:05"
  (mm:ss) and "00:01:05.5"; finite, not negative, below ten million seconds; spans end after they
  start. What lies past the end of its recording is cut or refused once that is known (cut.py).
- Words from outside that hold one of the protocol's tags are refused (dialogue.foreign). A question
  or answer comes on one line, at most 20,000 characters long.
- An answer that is one interval or several, "[12.0, 20.5]" or "01:05 - 01:10", makes the question
  a grounding question; its answer is then written from the evidence, with one decimal. Brackets
  with nothing but numbers that are no interval make a bad row. All other answers are vqa.
- A field `split` of a row of JSON or Parquet is heeded, whichever reader reads it. Questions are of
  the rl part, or, where the source puts them into its validation or test split, of the eval part,
  unless the option `part` says otherwise. Records of qa and cap show a clip and are
  answered in one turn, which states the clip's times as its thought.
- A video is named by a path below the source's video folder, or by a whole number. An absolute
  path loses the option `video_root` where it starts with it, else all its folders; two folders with
  a file of the same name are then told apart by refusing the second.
"""

import importlib
import inspect
import os
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medscope_jax.errors import UserError, closest
from tfds_builders.record import Annotation, BadRow


def source_names() -> tuple[str, ...]:
    """The readers that there are, in alphabetical order."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def source_files(name: str, path: Path, options: Mapping[str, Any]) -> list[Path]:
    """The files that a reader would open: [path], or what the function `files` of its module says.

    Nothing is opened and nothing is raised: it is for read_source to say what is wrong.
    """
    if name in source_names():
        module = importlib.import_module(f"{__name__}.{name}")
        if hasattr(module, "files"):
            return module.files(path, options)
    return [path]


def read_source(
    name: str, path: str | os.PathLike, options: Mapping[str, Any] | None = None
) -> Iterator[Annotation | BadRow]:
    """Annotations and bad rows of one source.

    Args:
      name: of the reader's module.
      path: the source's annotations: a file or a folder, as the reader's manual says.
      options: keyword arguments of the reader.

    Raises:
      UserError: at once: no such reader, option or path, or an option of the wrong kind.
    """
    known = source_names()
    if name not in known:
        raise UserError(
            f"unknown reader {name!r}{closest(str(name), known)}; there are {', '.join(known)}"
        )
    read = importlib.import_module(f"{__name__}.{name}").read
    parameters = inspect.signature(read).parameters
    allowed = {key: value.default for key, value in parameters.items() if key != "path"}
    for key, value in (options or {}).items():
        if key not in allowed:
            has = ", ".join(allowed) or "none"
            raise UserError(
                f"reader {name} has no option {key!r}{closest(str(key), allowed)}; it has {has}"
            )
        kind = type(allowed[key])
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or isinstance(value, bool):
            raise UserError(f"option {key} of reader {name} must be a {kind.__name__}")
    if not Path(path).exists():
        raise UserError(f"the annotations of reader {name} are missing: there is no {path}")
    return read(Path(path), **(options or {}))
