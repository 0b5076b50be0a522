"""The file or folder that a row means by a video's name.

Names travel through tables and file systems that change them: an ending is left out, a Mac writes
"é" as two characters, a spreadsheet takes the zeros off "007", and not every disk tells capitals
from small letters. What differs so from one name alone in its folder is that file; what differs so
from several is none.
"""

import contextlib
import os
import pathlib
import unicodedata
from collections.abc import Callable

from medscope_jax.files import is_there
from tfds_builders.inside import fault_of, recording_fault

_MOST_ENDINGS = 2  # of a file: "v.mp4.part"


def locator(root: pathlib.Path) -> Callable[[pathlib.Path, str], pathlib.Path | str]:
    """A function (folder of a source's videos, name in a row) -> the path, or why it is not read.

    It lists each folder once. root: the manual folder, out of which no link may lead.
    """
    listings: dict[pathlib.Path, dict[tuple[str, bool], set[str]]] = {}

    def entry(folder: pathlib.Path, name: str, is_last: bool) -> str | None:
        """The one entry that is meant by a name; None where there is none, "" for several."""
        if is_there(folder / name):
            return name
        if folder not in listings:
            listings[folder] = _listing(folder, root)
        # An ending may be left out of a recording's own name, not of its folders'.
        for whole in (True, False) if is_last else (True,):
            for key in _keys(name):
                if found := listings[folder].get((key, whole)):
                    return min(found) if len(found) == 1 else ""
        return None

    def locate(folder: pathlib.Path, name: str) -> pathlib.Path | str:
        relative = pathlib.PurePosixPath(name)
        if not relative.name or relative.is_absolute() or ".." in relative.parts or "\0" in name:
            return "names a video outside its source's folder"
        path = folder
        for number, part in enumerate(relative.parts, 1):
            try:
                found = entry(path, part, number == len(relative.parts))
            except OSError as error:
                return f"names a video in a folder that can't be read ({error.strerror})"
            if found is None:
                return "names a video that is not there"
            if not found:
                return (
                    "names no video as it is called, and several are called so but for their "
                    "ending, leading zeros, accents or capitals"
                )
            path = path / found
        fault = recording_fault(path, root)
        return f"names a video that is not read: {fault}" if fault else path

    return locate


def _listing(folder: pathlib.Path, root: pathlib.Path) -> dict[tuple[str, bool], set[str]]:
    """The entries of a folder by what a row may call them, and whether that is the whole name."""
    listing: dict[tuple[str, bool], set[str]] = {}
    if not fault_of(folder, root):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(folder):
                dots = [place for place, letter in enumerate(name) if letter == "." and place]
                for called in (name, *(name[:place] for place in dots[-_MOST_ENDINGS:])):
                    for key in _keys(called):
                        listing.setdefault((key, called == name), set()).add(name)
    return listing


def _keys(name: str) -> list[str]:
    """A name as others may have changed it, the least change first.

    Accents in one way of writing; then without leading zeros; then without capitals.
    """
    composed = unicodedata.normalize("NFC", name)
    number, dot, ending = composed.partition(".")
    is_number = number.isascii() and number.isdecimal()
    # No name of a file begins with a slash, so these keys are not taken for names.
    zeros = [f"/{number.lstrip('0') or '0'}{dot}{ending}"] if is_number else []
    return [composed, *zeros, f"//{composed.casefold()}"]
