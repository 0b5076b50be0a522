"""Checksums of a folder's files, kept in the folder: what is damaged or exchanged is noticed.

    FOLDER/manifest.json    {"files": {path: "sha256:..." or "crc32c:..."}, "seal": of "files"}

Files are hashed whole, but for chunks of arrays: each ends with a CRC-32C of all before it, which
TensorStore compares while it reads. Of those the list holds the CRC, so that a chunk is not read
twice for its checksum, a part of a model not in whole, and yet no chunk can stand for another.

A single file among others that change has its checksum beside it, as sha256sum writes it:

    FILE, FILE.sha256
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from medscope_jax.errors import UserError
from medscope_jax.files import open_regular, write_bytes, write_text
from medscope_jax.strict_json import read_json_object

MANIFEST = "manifest.json"
_LOG = logging.getLogger(__name__)
_WHOLE, _CHUNK = "sha256", "crc32c"
_MOST = 2**26  # bytes of a manifest: a million chunks


def seal(values: Any) -> int:
    """A checksum of JSON values that their order in objects does not change."""
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def write_manifest(folder: Path, is_chunk: Callable[[str], bool] = lambda name: False) -> None:
    """Lists all files below a folder that is finished.

    is_chunk: says of a path from the folder whether the file ends with its CRC-32C.
    """
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    kinds = {name: _CHUNK if is_chunk(name) else _WHOLE for name in names if name != MANIFEST}
    files = {name: file_checksum(folder / name, kind) for name, kind in kinds.items()}
    text = json.dumps({"files": files, "seal": seal(files)}, indent=0)
    write_text(folder / MANIFEST, text + "\n")


def read_manifest(folder: Path, remedy: str) -> dict[str, str]:
    """Path -> checksum of each file of a folder; all but chunks are compared.

    Args:
      folder: of write_manifest.
      remedy: what to do about a damaged folder, as the message ends.

    Raises:
      UserError: one line: a file is not what was written, is gone, or there is no manifest.
    """
    if not (folder / MANIFEST).exists():
        raise UserError(
            f"{folder} has no {MANIFEST}, with which its files are checked: an earlier version or "
            f"nobody finished it; {remedy}"
        )
    try:
        values = read_json_object(folder / MANIFEST, _MOST)
        files: Any = values.get("files")
        listed = isinstance(files, dict) and all(isinstance(v, str) for v in files.values())
        if not listed or values.get("seal") != seal(files):
            raise UserError(f"{folder / MANIFEST} is not what was written")
    except UserError as error:
        raise UserError(f"{error}: {remedy}") from error
    check_files(folder, files, (n for n in files if files[n].startswith(_WHOLE)), remedy)
    return files


def check_files(folder: Path, files: dict[str, str], names: Iterable[str], remedy: str) -> None:
    """Compares files with a manifest's checksums; chunks only by what stands at their end.

    Raises:
      UserError: one line that names the first which is not what was written, or gone.
    """
    for name in names:
        kind = files[name].partition(":")[0]
        try:
            found = file_checksum(folder / name, kind)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{folder / name} can't be read ({reason}): {remedy}") from error
        if found != files[name]:
            raise UserError(f"{folder / name} is not what was written there: {remedy}")


def file_checksum(path: Path, kind: str = _WHOLE) -> str:
    """A file's checksum as a manifest has it; a chunk's is what stands at its end."""
    with open_regular(path) as file:
        if kind == _WHOLE:
            return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"
        file.seek(max(0, file.seek(0, 2) - 4))
        return f"{kind}:{file.read(4).hex()}"


def write_checked(path: Path, data: bytes, remedy: str) -> None:
    """Writes a file and its checksum; one that is made again must become what it was.

    Raises:
      UserError: the checksum of an earlier one is there, and this is another; `remedy` ends it.
    """
    line, beside = _checked_line(path, data), _beside(path)
    if beside.exists() and beside.read_bytes() != line:
        raise UserError(f"{path} would not become what it was (see {beside.name}): {remedy}")
    write_bytes(beside, line)  # first: a kill in between leaves no file that can't be checked
    write_bytes(path, data)


def read_checked(path: Path, remedy: str) -> bytes:
    """The bytes that write_checked wrote; a file of an earlier version is read with a warning.

    Raises:
      UserError: it is not what was written; `remedy` says what to do.
      OSError: it can't be read.
    """
    with open_regular(path) as file:
        data = file.read()
    if not _beside(path).exists():
        _LOG.warning("%s has no checksum beside it (an earlier version wrote it): unchecked", path)
        return data
    with open_regular(_beside(path)) as file:
        line = file.read(len(data) + 1000)
    if line != _checked_line(path, data):
        raise UserError(f"{path} is not what {_beside(path).name} says was written: {remedy}")
    return data


def _checked_line(path: Path, data: bytes) -> bytes:
    return f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode()


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{_WHOLE}")
