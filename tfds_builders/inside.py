"""What of a folder is read: its files and folders, and links as long as they stay inside it.

A manual folder comes from somebody else. A link in it that leads out would put a file of this
machine, maybe another patient's, into a data set; a pipe would be waited for without end, and
opening a device may do anything. So these are named and never opened.
"""

import collections
import os
import pathlib
import stat
from collections.abc import Iterator

from medscope_jax.files import NOT_REGULAR

_LEADS_OUT = "that leads out of the folder; copy what it leads to into the folder"
PICTURES = {".jpg", ".jpeg", ".png"}
# Files that stand beside recordings or pictures and are none.
NO_VIDEO = {".json", ".jsonl", ".csv", ".tsv", ".txt", ".md", ".parquet", ".html", ".pdf"}
# What a folder of pictures may hold beside them; it says itself which pictures it can't read.
_BESIDE = NO_VIDEO | {".db", ".ini", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".ppm"}


def fault_of(path: str | os.PathLike, root: str | os.PathLike) -> str:
    """Why what lies at a path below root is not read; "" if it is a file or folder inside it."""
    real, inside = os.path.realpath(path), os.path.realpath(root)
    if not _is_below(real, inside):
        is_link = _is_below(os.path.abspath(path), os.path.abspath(root))
        return f"a {'link' if is_link else 'path'} {_LEADS_OUT}"
    try:
        mode = os.stat(real).st_mode
    except FileNotFoundError:
        return "not there"
    except (OSError, ValueError) as error:
        return f"can't be read ({getattr(error, 'strerror', None) or type(error).__name__})"
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else NOT_REGULAR


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def recording_fault(path: str | os.PathLike, root: str | os.PathLike) -> str:
    """fault_of a recording: of the file, or of the folder of pictures and all that lies in it."""
    fault = fault_of(path, root)
    if fault or not os.path.isdir(path):
        return fault
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                plain = entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
                fault = "" if plain else fault_of(entry.path, root)
                if fault:
                    return f"a folder with a file that is not read: {fault}"
    except OSError as error:
        return f"a folder that can't be read ({error.strerror})"
    return ""


def recordings_below(folder: pathlib.Path, root: pathlib.Path) -> list[pathlib.Path]:
    """Everything below a folder that may be a recording, sorted: files, and folders of pictures.

    A folder is a recording of its pictures where it holds JPEG or PNG and no file that may be a
    video; else each of its files stands for itself, a picture too. Hidden files are passed over.
    Links are followed inside root, each folder once; those out of it are given as they are, so that
    recording_fault names them.
    """
    found, files = [], collections.defaultdict(list)
    for path, is_file in _walk(folder, root):
        if is_file:
            files[path.parent].append(path)
        else:
            found.append(path)
    for parent, inside in files.items():
        endings = {path.suffix.lower() for path in inside}
        are_pictures = endings & PICTURES and endings <= PICTURES | _BESIDE and parent != folder
        found += [parent] if are_pictures else inside
    return sorted(found, key=lambda path: path.as_posix())


def _walk(folder: pathlib.Path, root: pathlib.Path) -> Iterator[tuple[pathlib.Path, bool]]:
    """(path, True) of each visible file; (path, False) of each folder that is not looked into."""
    seen = set()
    # Links last: what can be reached without one keeps its own name.
    plain, linked = collections.deque([folder]), collections.deque()
    while plain or linked:
        here = plain.popleft() if plain else linked.popleft()
        try:
            status = os.stat(here)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError:
            yield here, False
            continue
        for entry in entries:
            path = here / entry.name
            if entry.name.startswith("."):
                continue
            if not os.path.isdir(path):
                yield path, True
            elif not entry.is_symlink():
                plain.append(path)
            elif fault_of(path, root):
                yield path, False
            else:
                linked.append(path)
