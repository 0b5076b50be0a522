"""Objects of a bucket: put whole, listed, fetched and removed.

A bucket has no folders, modes, links or locks, and no rename of many objects at once. An object is
put under a new name and copied into its place by the service, which shows the old one or the new
one; a folder of objects is complete by a marker, see owners.py and copies.py.
"""

import base64
import contextlib
import dataclasses
import hashlib
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medscope_jax.errors import UserError, is_disk_full, one_line
from medscope_jax.paths import filesystem, is_remote, scheme_of

_TEMPORARY = ".tmp"
_TOGETHER = 32  # files under way at the same time
_LOGIN = {
    "gs": "gcloud auth application-default login",
    "s3": "aws configure",
    "az": "az login",
}
# By what services tell one content from another, the surest first.
_VERSIONS = ("md5Hash", "content_md5", "generation", "ETag", "etag", "mtime", "created")


@dataclasses.dataclass(frozen=True)
class BucketObject:
    """An object: its bytes, and what changes with its content, by the service's own word."""

    size: int
    version: str
    md5: str = ""  # base64; "" where the service does not say it


@contextlib.contextmanager
def reaching(path: Any) -> Iterator[None]:
    """Turns what a bucket's client raises into one line; a path of this machine has no client.

    Raises:
      UserError: the bucket can't be reached, is not there, or may not be used.
      FileNotFoundError, FileExistsError: as raised inside.
    """
    try:
        yield
    except (UserError, FileNotFoundError, FileExistsError):
        raise
    except Exception as error:
        if is_disk_full(error) or not is_remote(path):
            raise
        login = _LOGIN.get(scheme_of(path), "")
        raise UserError(
            f"{path} can't be reached ({one_line(error)[:200]}): check its name, your login "
            f"({login}) and that you may read and write there"
        ) from error


def put_object(path: Path, data: bytes) -> None:
    """Puts an object in the place of an older one, or of none.

    Raises:
      UserError: the bucket can't be reached or is not there; an older object is as it was.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}{_TEMPORARY}")
    files = filesystem(path)
    with reaching(path):
        try:
            files.pipe_file(str(temporary), data)
            files.cp_file(str(temporary), str(path))
        except FileNotFoundError as error:
            raise UserError(f"{path} can't be written: there is no such bucket") from error
        finally:
            with contextlib.suppress(Exception):
                files.rm_file(str(temporary))


def get_object(path: Path) -> bytes:
    """An object's bytes, of one moment: opened as a file it may be another by the next read.

    Raises:
      FileNotFoundError: there is none.
      UserError: the bucket can't be reached.
    """
    with reaching(path):
        return filesystem(path).cat_file(str(path))


def create_object(path: Path, data: bytes) -> None:
    """Puts an object where there is none.

    Of several processes one succeeds, where the service can promise that (gs, s3, az do).

    Raises:
      FileExistsError: there is one.
      UserError: the bucket can't be reached or is not there.
    """
    with reaching(path):
        try:
            filesystem(path).pipe_file(str(path), data, mode="create")
        except FileNotFoundError as error:
            raise UserError(f"{path} can't be written: there is no such bucket") from error


def list_objects(folder: Path) -> dict[str, BucketObject]:
    """The objects below a folder, by their paths from it; none where there is no such folder.

    Raises:
      UserError: the bucket can't be reached, or one is called what no file below a folder can be.
    """
    with reaching(folder):
        try:
            found = filesystem(folder).find(str(folder), detail=True)
        except FileNotFoundError:
            return {}
    start = str(folder).partition("://")[2].rstrip("/") + "/"
    objects = {
        name.removeprefix(start): _object(info)
        for name, info in found.items()
        if info["type"] == "file" and not name.endswith(("/", _TEMPORARY))
    }
    if strange := [n for n in objects if not {"", ".", ".."}.isdisjoint(n.split("/"))]:
        raise UserError(f"{folder} has an object {strange[0]!r}, which is no path: remove it")
    return objects


def _object(info: dict[str, Any]) -> BucketObject:
    version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
    return BucketObject(int(info["size"]), version, info.get("md5Hash") or "")


def put_files(files: Iterable[tuple[Path, Path]]) -> Iterator[Path]:
    """Puts files (local, object) into a bucket, some at a time; gives each file when it is there.

    Raises:
      UserError: the bucket can't be reached.
    """
    for batch in _batches(files):
        with reaching(batch[0][1]):
            sources, targets = zip(*batch, strict=True)
            filesystem(targets[0]).put(list(map(str, sources)), list(map(str, targets)))
        yield from sources


def get_files(files: Iterable[tuple[Path, Path, BucketObject]]) -> Iterator[Path]:
    """Fetches (object, local, what it is) some at a time; gives each file when it is there.

    A file takes its name when it is whole and what the service says.

    Raises:
      UserError: the bucket can't be reached, or what came is not what was listed.
    """
    for batch in _batches(files):
        partial = [target.with_name(f".{target.name}.partial") for _, target, _ in batch]
        for target in partial:
            target.parent.mkdir(parents=True, exist_ok=True)
        with reaching(batch[0][0]):
            sources = [str(source) for source, _, _ in batch]
            filesystem(batch[0][0]).get(sources, list(map(str, partial)))
        for (source, target, known), fetched in zip(batch, partial, strict=True):
            if fetched.stat().st_size != known.size or (known.md5 and _md5(fetched) != known.md5):
                fetched.unlink()
                raise UserError(f"{source} changed while it was copied: run again")
            fetched.replace(target)
            yield target


def remove_objects(paths: Iterable[Path]) -> None:
    """Removes objects, those that are gone already aside."""
    for path in paths:
        with reaching(path), contextlib.suppress(FileNotFoundError):
            filesystem(path).rm_file(str(path))


def remove_left_objects(folder: Path) -> None:
    """Removes what a killed process was about to put into a folder; for its owner alone."""
    with reaching(folder), contextlib.suppress(FileNotFoundError):
        files = filesystem(folder)
        for name in files.ls(str(folder), detail=False):
            if name.rpartition("/")[2].startswith(".") and name.endswith(_TEMPORARY):
                files.rm_file(name)


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == _TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()
