"""What a build can't use: counted, printed, and written down with its place and the reason.

quarantine.jsonl is the only file in which places and videos are named; it stays in the manual
folder, where these names come from (in the data folder where the manual folder is read-only). One
line for each row or video:

    {"stage": "vcot", "source": "cholec80", "place": "rows.jsonl:17", "video": "cholec80/v1.mp4",
     "reason": "evidence [90.0, 95.0] starts after the video's end at 61.040 s"}

stage is "annotations" (rows that their reader can't use), "videos", or the part that a row is of.
A line with "kept": true is about a row that was used, and says what was changed of it.
A stage's lines are replaced whenever its build finishes.
"""

import collections
import contextlib
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medscope_jax.files import put_file
from medscope_jax.locks import alone
from medscope_jax.stored import read_lines
from medscope_jax.visible import shown

NAME = "quarantine.jsonl"
_LINE = {
    **dict.fromkeys(("stage", "source", "place", "video?", "reason"), str),
    "kept?": bool,
}
# A number of the row's own in a reason; limits ("16 MiB", "1,000 spans") and "UTF-8" are kept.
_NUMBER = re.compile(r"(?<![\w,])(?<!UTF-)\d+(\.\d+)?(e[+-]?\d+)?\b(?!,\d| [MG]iB)")
# (source, reason with the row's own numbers as #) -> how many rows or videos.
Counts = collections.Counter[tuple[str, str]]


class Quarantine:
    """Takes what one stage of a build can't use; see open_quarantine."""

    def __init__(self, stage: str, file):
        self.counts: Counts = collections.Counter()
        self.changed: Counts = collections.Counter()
        self._stage, self._file = stage, file

    def add(
        self, source: str, place: str, reason: str, video: str = "", kept: bool = False
    ) -> None:
        """Takes one row or video.

        Args:
          source: the source's name.
          place: "file.jsonl:17", or a video's path relative to the manual folder.
          reason: in words that quote no content.
          video: the video's path, where a row is about one.
          kept: whether it is an example all the same, and the reason says what was changed of it.
        """
        line = {"stage": self._stage, "source": source, "place": _text(place)}
        line |= {"video": _text(video)} if video else {}
        line |= {"kept": True} if kept else {}
        self._file.write(json.dumps(line | {"reason": _text(reason)}) + "\n")
        counts = self.changed if kept else self.counts
        counts[source, _NUMBER.sub("#", reason)] += 1


@contextlib.contextmanager
def open_quarantine(folder: pathlib.Path, stage: str) -> Iterator[Quarantine]:
    """A Quarantine whose lines replace those of its stage in FOLDER/quarantine.jsonl at the end.

    They pass through a file, so that a thousand bad rows take no memory. Where the block fails,
    quarantine.jsonl stays as it was.

    Raises:
      UserError: the quarantine.jsonl that is there was damaged or edited, found before anything is
        done; or the folder can't be written.
    """
    for _ in _lines(folder / NAME):
        pass
    partial = folder / f".{NAME}.{stage}.partial"
    try:
        with _new(partial) as file:
            quarantine = Quarantine(stage, file)
            yield quarantine
        _merge(folder / NAME, partial, stage)
    finally:
        partial.unlink(missing_ok=True)


def _merge(path: pathlib.Path, partial: pathlib.Path, stage: str) -> None:
    """Puts the partial file's lines in the place of the stage's in path; whole or not at all."""
    merged = path.with_name(f".{path.name}.merged")
    with alone(path.with_name(f".{path.name}.lock")):  # several builds may finish at once
        with _new(merged) as target:
            for line in _lines(path):
                if line["stage"] != stage:
                    target.write(json.dumps(line) + "\n")
            with open(partial, encoding="utf-8") as new:
                target.writelines(new)
        put_file(merged, path)


def _lines(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The lines of quarantine.jsonl, if there is one; a link is none."""
    if os.path.lexists(path) and not path.is_symlink():
        yield from read_lines(path, _LINE, "delete it, builds write it again")


def _new(path: pathlib.Path) -> TextIO:
    """A new file to write, whatever lay there: a link is replaced and not followed."""
    path.unlink(missing_ok=True)
    return open(path, "x", encoding="utf-8")


def _text(name: str) -> str:
    r"""The name as a text; bytes of it that are no UTF-8 become \udc and their two digits."""
    return name.encode(errors="backslashreplace").decode()


def print_counts(counts: dict[str, Counts], console: Console | None = None) -> None:
    """Prints a table of the counts of each stage; nothing where nothing was quarantined."""
    table = Table("stage", "source", "reason", "count")
    for stage, reasons in counts.items():
        for (source, reason), count in sorted(reasons.items()):
            # No markup: names and values of others are quoted.
            table.add_row(stage, Text(shown(source)), Text(shown(reason)), str(count))
    if table.row_count:
        (console or Console()).print(table)


def counts_to_json(counts: Counts) -> list:
    """Counts as a list [[source, reason, count], ...] in a fixed order."""
    return [[source, reason, count] for (source, reason), count in sorted(counts.items())]


def counts_from_json(listing: list) -> Counts:
    """Reads back what counts_to_json wrote."""
    return collections.Counter({(source, reason): count for source, reason, count in listing})
