"""Built data sets: there as a whole or not at all, and read only as they were written.

checksums.json, the last file that a build writes, seals a data set: it lists the size of each file
and, but for the records, whose own format has checksums, a hash. A newer one takes the place of an
older one by renaming both, so whenever a build is killed, one of them is whole:

    1.0.0                  the data set
    1.0.0.incomplete-new   a newer one, before it takes the name
    1.0.0.incomplete-old   the one before, until it is removed
"""

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterable
from typing import Any

import tensorflow_datasets as tfds

from medscope_jax.errors import UserError, one_line
from medscope_jax.files import open_regular, write_text
from medscope_jax.stored import at_least, read_json

# Raised whenever what is built of the same input, or how it is stored, changes.
FORMAT = 3
SEAL = "checksums.json"
_SCHEMA = {"format": int, "files": {...: (at_least(0), str)}}
_RECORDS = ".array_record"


def seal(folder: pathlib.Path) -> None:
    """Notes what a data set's folder holds, as the last thing in its making."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SEAL)
    listing = {
        path.name: [path.stat().st_size, "" if _RECORDS in path.name else file_hash(path)]
        for path in files
    }
    write_text(folder / SEAL, json.dumps({"format": FORMAT, "files": listing}, indent=1) + "\n")


def check_seal(folder: pathlib.Path, again: str, names: Iterable[str] = ()) -> None:
    """Refuses a data set that is not as it was written.

    Args:
      folder: the data set's.
      again: how to build it again, as an error ends.
      names: files whose hashes are compared; of all others only the sizes.

    Raises:
      UserError: names the file.
    """
    if not (folder / SEAL).exists():
        raise UserError(
            f"{folder} is of an earlier version, or not whole (it has no {SEAL}): {again}"
        )
    sealed = read_json(folder / SEAL, _SCHEMA, again)
    if sealed["format"] != FORMAT:
        raise UserError(f"{folder} was built by another version: {again}")
    for name, (size, digits) in sealed["files"].items():
        path = folder / name
        try:
            same = path.stat().st_size == size and (name not in names or file_hash(path) == digits)
        except (OSError, ValueError) as error:  # also what no file can be called
            reason = getattr(error, "strerror", None) or one_line(error)
            raise UserError(f"{path} can't be read ({reason}): {again}") from error
        if not same:
            raise UserError(f"{path} is not what was built, damaged or edited: {again}")


def open_dataset(folder: pathlib.Path, again: str) -> tfds.core.DatasetBuilder:
    """A built data set, once its seal has been checked, to read its splits, features and rows.

    Raises:
      UserError: it is not as it was written.
    """
    check_seal(folder, again, ("dataset_info.json", "features.json", "metadata.json"))
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # TFDS has a kind of its own for each thing that is missing
        raise UserError(f"{folder} can't be read ({one_line(error)}): {again}") from error


def stored_row(source: Any, row: int, again: str) -> Any:
    """A row of a data set's source, as that gives it; UserError where its record is damaged."""
    try:
        return source[row]
    except RuntimeError as error:  # ArrayRecord's, by its checksums
        folder = pathlib.Path(source.dataset_info.data_dir)
        raise UserError(
            f"{folder}: row {row} is damaged ({one_line(error)[:80]}): {again}"
        ) from error


def newest(folder: pathlib.Path) -> pathlib.Path | None:
    """The newest version in a data set's folder; None if there is none."""
    versions = [path for path in folder.glob("*") if "incomplete" not in path.name]
    return max((path for path in versions if (path / "dataset_info.json").exists()), default=None)


def recover(folder: pathlib.Path) -> None:
    """Ends what a killed build of the data set left half done; the last whole one is kept."""
    old = old_of(folder)
    if old.exists() and not folder.exists():
        os.rename(old, folder)
    if new_of(folder).exists():
        shutil.rmtree(new_of(folder))
    # TFDS's own, too: it writes down a data set's default part. A worker that has not yet ended may
    # still write there; the next build removes what it leaves.
    config = folder.parent.parent.glob(".config/*incomplete*")
    for left in [*folder.parent.glob("*incomplete*"), *config]:
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def new_of(folder: pathlib.Path) -> pathlib.Path:
    """Where a data set is built before it is put in its place."""
    return folder.with_name(f"{folder.name}.incomplete-new")


def old_of(folder: pathlib.Path) -> pathlib.Path:
    """Where the data set goes that was in this place before."""
    return folder.with_name(f"{folder.name}.incomplete-old")


def put_in_place(folder: pathlib.Path) -> None:
    """Gives the data set at new_of(folder) its name, in the place of one that is there."""
    put_away(folder)
    os.rename(new_of(folder), folder)
    shutil.rmtree(old_of(folder), ignore_errors=True)


def put_away(folder: pathlib.Path) -> None:
    """Takes the name from a data set, if it is there; recover then decides about it."""
    if folder.exists():
        os.rename(folder, old_of(folder))


def file_hash(path: pathlib.Path) -> str:
    """The hash of a file's bytes: 128 hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
