"""Copies on this machine of what lies in buckets, for programs that need files.

    CACHE/files/gs/BUCKET/FOLDER/...    the files, at the address's own place
    CACHE/index/gs/BUCKET/FOLDER.json   of each file what was copied: its size, time and version

CACHE is cache_folder(). A copy is made with progress and used again: each file of which the service
still says the version that was copied, and which has not changed here since. Nothing else removes
copies: delete CACHE to have its space back.
"""

import contextlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from medscope_jax.buckets import (
    BucketObject,
    get_files,
    list_objects,
    put_files,
    remove_objects,
)
from medscope_jax.errors import UserError
from medscope_jax.files import check_new, make_folder, new_folder, write_text, writing
from medscope_jax.locks import alone
from medscope_jax.owners import owning
from medscope_jax.paths import cache_folder, is_remote, scheme_of
from medscope_jax.visible import shown

UNDER_WAY = ".incomplete"  # in a folder of a bucket that somebody is putting there: see owners.py
LOCK, _PARTIAL = ".lock", (".partial", ".tmp")  # are no part of a folder
# File -> its size and time here, and the version that the service said of it.
_Index = dict[str, list]


def local_copy(folder: Path) -> Path:
    """A folder on this machine with what a folder has: itself, or a copy of one in a bucket.

    Raises:
      UserError: the bucket can't be reached, nothing is there, or it is still being put there.
    """
    if not is_remote(folder):
        return folder
    found = list_objects(folder)
    if not found:
        raise UserError(f"{folder} is not there, or empty: check the address")
    if UNDER_WAY in found:
        raise UserError(
            f"{folder} is not whole: another process is putting it there (or was, and is told "
            "about by whoever makes it again)"
        )
    return _fetched(folder, found)


def fetch(folder: Path) -> Path:
    """local_copy of a folder that need not be there yet, or not be whole.

    Raises:
      UserError: the bucket can't be reached.
    """
    return _fetched(folder, list_objects(folder)) if is_remote(folder) else folder


@contextlib.contextmanager
def working_copy(folder: Path, last: Collection[str] = ()) -> Iterator[Path]:
    """A folder to work in: itself, or the copy of one in a bucket, put there when the block ends.

    Args:
      folder: it need not be there yet. Who builds what is of one piece holds it, see owners.py.
      last: as in publish.

    Raises:
      UserError: the bucket can't be reached.
    """
    yield fetch(folder)
    publish(folder, last)


def place_of(folder: Path) -> Path:
    """Where a folder is on this machine: itself, or the copy of one in a bucket."""
    return cache_folder() / "files" / _place(folder) if is_remote(folder) else folder


def publish(folder: Path, last: Collection[str] = ()) -> None:
    """Makes a folder of a bucket what its copy here has become.

    Args:
      folder: the bucket's; one of this machine is itself.
      last: names of the files that say that all others of their folders are whole. What they say
        is taken back first and said last, so what a killed process leaves is refused.

    Raises:
      UserError: the bucket can't be reached.
    """
    if not is_remote(folder):
        return
    copy = place_of(folder)
    with alone(_locked(folder)):
        there, index = list_objects(folder), _read_index(folder)
        here = {path.relative_to(copy).as_posix(): path for path in sorted(copy.rglob("*"))}
        here = {name: path for name, path in here.items() if path.is_file() and _is_part(name)}
        there = {name: found for name, found in there.items() if _is_part(name)}
        changed = [name for name in here if not _is_same(here[name], index.get(name), there, name)]
        # What others have put there since it was copied is not for us to remove.
        gone = sorted((there.keys() & index.keys()) - here.keys())
        seals = [name for name in (*changed, *gone) if _file(name) in last]
        if not changed and not gone:
            return
        # A seal speaks for its folder, which is touched whenever a file beside it is.
        touched = {name.rpartition("/")[0] for name in (*changed, *gone)}
        seals += [name for name in here if _file(name) in last and _is_over(name, touched)]
        seals = list(dict.fromkeys(seals))
        remove_objects(folder / name for name in seals if name in there)
        first = [name for name in changed if name not in seals]
        names = first + [name for name in seals if name in here]
        files = [(here[name], folder / name) for name in names]
        for part in (files[: len(first)], files[len(first) :]):
            sizes = sum(path.stat().st_size for path, _ in part)
            with _progress(f"writing {folder}", sizes) as bar:
                for path in put_files(part):
                    bar.update(path.stat().st_size)
        remove_objects(folder / name for name in gone if name not in seals)
        found = list_objects(folder)
        _write_index(folder, {n: _entry(here[n], found[n]) for n in here if n in found})


@contextlib.contextmanager
def new_target(target: Path) -> Iterator[Path]:
    """new_folder of a path of this machine or of an address.

    What is to be at an address is made in the cache and put there when it is whole. Until all of it
    is there, an object UNDER_WAY says that it is not, and who is at it; what a process of this
    machine was killed over is removed by the next one.

    Raises:
      UserError: there is something already, another process is putting it there, the disk is full,
        or the bucket can't be reached.
    """
    if not is_remote(target):
        with new_folder(target) as folder:
            yield folder
        return
    check_free(target)
    made = cache_folder() / "making" / _place(target)
    busy = f"another process{{by}} is writing {target}: wait for it"
    make_folder(made.parent, private=True)
    with alone(made.with_name(f"{made.name}.lock"), busy):
        shutil.rmtree(made, ignore_errors=True)  # of a process that was killed
        make_folder(made, private=True)
        try:
            with writing(made):
                yield made
            with owning(target / UNDER_WAY, busy):
                left = list_objects(target)
                remove_objects(target / name for name in left if name != UNDER_WAY)
                files = [path for path in sorted(made.rglob("*")) if path.is_file()]
                pairs = [(path, target / path.relative_to(made).as_posix()) for path in files]
                with _progress(f"writing {target}", sum(p.stat().st_size for p in files)) as bar:
                    for path in put_files(pairs):
                        bar.update(path.stat().st_size)
        finally:
            shutil.rmtree(made, ignore_errors=True)


def check_free(target: Path) -> None:
    """check_new of a path of this machine or of an address; what was left half-written is free."""
    if not is_remote(target):
        check_new(target)
    elif (found := list_objects(target)) and UNDER_WAY not in found:
        raise UserError(f"{target} exists already: name another target, or delete it")


def is_made(folder: Path) -> bool:
    """Whether new_target has made a folder, as a whole."""
    if not is_remote(folder):
        return folder.is_dir()
    found = list_objects(folder)
    return bool(found) and UNDER_WAY not in found


def _fetched(folder: Path, found: dict[str, BucketObject]) -> Path:
    """Brings the copy up to date, and removes what is no longer there."""
    copy = place_of(folder)
    wanted = {name: known for name, known in found.items() if _is_part(name)}
    with alone(_locked(folder)), writing(copy):
        make_folder(copy, private=True)
        index = _read_index(folder)
        missing = [n for n in wanted if not _is_same(copy / n, index.get(n), wanted, n)]
        for name in index.keys() - wanted.keys():
            (copy / name).unlink(missing_ok=True)
        with _progress(f"copying {folder} to {copy}", sum(wanted[n].size for n in missing)) as bar:
            for path in get_files((folder / n, copy / n, wanted[n]) for n in missing):
                name = path.relative_to(copy).as_posix()
                index[name] = _entry(path, wanted[name])
                bar.update(wanted[name].size)
        if not all(wanted[name].md5 for name in missing):  # then the versions have to tell
            again = list_objects(folder)
            if other := [name for name in missing if again.get(name) != wanted[name]]:
                raise UserError(f"{folder / other[0]} changed while it was copied: run again")
        _write_index(folder, {name: index[name] for name in wanted})
    return copy


def _is_same(path: Path, entry: list | None, found: dict[str, BucketObject], name: str) -> bool:
    """Whether a file here is what was copied, and the bucket's still is."""
    if entry is None or name not in found or not path.is_file():
        return False
    return entry == _entry(path, found[name])


def _entry(path: Path, known: BucketObject) -> list:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, known.size, known.version]


def _is_part(name: str) -> bool:
    return _file(name) not in (LOCK, UNDER_WAY) and not name.endswith(_PARTIAL)


def _file(name: str) -> str:
    return name.rpartition("/")[2]


def _is_over(name: str, touched: Iterable[str]) -> bool:
    """Whether a file lies in a touched folder or above it."""
    folder = name.rpartition("/")[0]
    return any(one == folder or one.startswith(f"{folder}/" if folder else "") for one in touched)


def _place(address: Path) -> Path:
    return Path(scheme_of(address), str(address).partition("://")[2])


def _index_of(place: Path) -> Path:
    return cache_folder() / "index" / place.with_name(f"{place.name}.json")


def _locked(folder: Path) -> Path:
    lock = _index_of(_place(folder)).with_suffix(".lock")
    make_folder(lock.parent, private=True)
    return lock


def _read_index(folder: Path) -> _Index:
    """What was copied of a folder, by itself or as a part of one above; damage costs a copy."""
    place = _place(folder)
    index: _Index = {}
    for above in (*reversed(place.parents[:-1]), place):
        start = place.relative_to(above).as_posix() + "/" if above != place else ""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            values = json.loads(_index_of(above).read_bytes()).items()
            index |= {n.removeprefix(start): entry for n, entry in values if n.startswith(start)}
    return index


def _write_index(folder: Path, index: _Index) -> None:
    write_text(_index_of(_place(folder)), json.dumps(index))


def _progress(what: str, size: int) -> tqdm:
    return tqdm(desc=shown(what), total=size, unit="B", unit_scale=True, disable=not size)
