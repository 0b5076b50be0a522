"""Files and folders that are written whole or not at all; which paths are read or written.

A path may be an address (paths.py) wherever a function does not say that it is of this machine.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from medscope_jax.buckets import get_object, list_objects, put_object, reaching, remove_objects
from medscope_jax.errors import UserError, is_disk_full
from medscope_jax.paths import check_address, is_remote, to_path

NOT_REGULAR = "no regular file but a pipe, a socket or a device"


def check_local(path: str | os.PathLike, name: str) -> None:
    """Refuses an address where only a path of this machine can be used.

    Args:
      path: what was given for a flag or a config's key; "" is none.
      name: the flag or key, as the message calls it.

    Raises:
      UserError: it has "://".
    """
    if is_remote(path):
        raise UserError(
            f"{name} {os.fspath(path)} is an address, and only a path of this machine can be used "
            "there: copy or mount it here and give that path"
        )


def check_folder(path: str | os.PathLike, name: str) -> None:
    """Refuses a folder that storage libraries can't work in: they take names in UTF-8 alone.

    Raises:
      UserError: a name on the way to it is in another encoding, or it is an address that this
        installation does not reach.
    """
    if is_remote(path):
        check_address(path, name)
        return
    try:
        os.path.realpath(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name} {os.fspath(path)} has bytes in its whole path that are no UTF-8, and so "
            "nothing can be stored there: rename that folder, or name another"
        ) from error


def check_target(path: str | os.PathLike) -> None:
    """Refuses to put a file where something else lies.

    That is a pipe, a socket or a device, one of the system's own paths, a folder, or a symbolic
    link: a file put in its place would cut it off, and one written through it lies who knows where.

    Raises:
      UserError: there is such a thing at the path.
      OSError: the path can't be looked at.
    """
    folder = os.path.dirname(os.path.abspath(path))
    # /dev/stdout may lead to a file, and would itself be replaced; /dev/shm is a folder of files.
    system = folder in ("/dev", "/dev/fd") or f"{folder}/".startswith(("/proc/", "/sys/"))
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    if not system and mode is not None:
        if stat.S_ISLNK(mode) and (not os.path.exists(path) or _is_regular(path)):
            target = os.path.realpath(path)
            raise UserError(f"{path} is a symbolic link; name what it leads to, {target}")
        if stat.S_ISDIR(mode):
            raise UserError(f"{path} is a folder; name a file in it")
    if system or (mode is not None and not stat.S_ISREG(mode)):
        raise UserError(f"{path} is {NOT_REGULAR}; name a file to write")


def _check_writable(path: str | os.PathLike) -> None:
    """Refuses a file that could not be made: the folder is no folder, or nothing can be put there.

    A look before long work; the folder need not be there yet.
    """
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise UserError(f"{path} can't be written: {folder} is no folder; name another file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(
            f"{path} can't be written: nothing can be made in {folder}; check its permissions, "
            "or name a file elsewhere"
        )


def check_outputs(
    targets: Mapping[str, str | os.PathLike | None], inputs: Mapping[str, str | os.PathLike]
) -> None:
    """Before any work: every output can be written, and is neither an input nor another output.

    Args:
      targets: flag -> path; None or "" where it was not given.
      inputs: what it is -> file that is read, or folder of which any file may be read.

    Raises:
      UserError: one of them is refused; nothing has been written then.
    """
    seen: dict[str, str] = {}
    for flag, target in targets.items():
        if not target:
            continue
        check_local(target, flag)
        check_target(target)
        _check_writable(target)
        path = os.path.realpath(target)
        for name, source in inputs.items():
            real = os.path.realpath(source)
            same = os.path.exists(path) and os.path.exists(real) and os.path.samefile(path, real)
            if same or path == real:
                raise UserError(f"{flag} {target} is {name} already; name another file")
            if path.startswith(real.rstrip(os.sep) + os.sep):
                raise UserError(f"{flag} {target} lies in {name}; name a file elsewhere")
        if path in seen:
            raise UserError(f"{flag} {target} is {seen[path]}'s already; name another file")
        seen[path] = flag


def make_folder(path: str | os.PathLike, private: bool = False) -> None:
    """Makes a folder and those above it, if they are not there; a bucket has none to make.

    private: what is made here is its owner's alone; a folder that is there keeps its mode.

    Raises:
      UserError: there is something else at the path.
      OSError: it can't be made.
    """
    if is_remote(path):
        return
    try:
        Path(path).mkdir(mode=0o700 if private else 0o777, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"{path} is no folder; name another") from error


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Names what is being made where the disk gets full inside: not every library says it.

    Raises:
      UserError: the disk is full.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not is_disk_full(error):
            raise
        raise UserError(f"disk full while writing {path}; free some space and run again") from error


def remove_folder(path: str | os.PathLike) -> None:
    """Removes a folder that threads of a failed write may still put files into, for 2 s at most.

    Raises:
      UserError: the bucket can't be reached.
    """
    if is_remote(path):
        folder = to_path(path)
        remove_objects(folder / name for name in list_objects(folder))
        return
    for _ in range(20):
        shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.1)
        if not os.path.lexists(path):
            return


def is_there(path: str | os.PathLike) -> bool:
    """Whether there is something at a path, a link to nothing included.

    Raises:
      OSError: that can't be seen, as a folder on the way may not be looked into; os.path.exists
        would say that nothing is there.
      UserError: the bucket can't be reached.
    """
    if is_remote(path):
        with reaching(path):
            return to_path(path).exists()
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no name of a file
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise
    return True


def size_of(path: str | os.PathLike) -> int:
    """Bytes of a regular file; 0 of anything else."""
    if is_remote(path):
        with reaching(path), contextlib.suppress(FileNotFoundError):
            found: Any = to_path(path).stat()
            return found.length
        return 0
    return os.stat(path).st_size if os.path.isfile(path) else 0


def _is_regular(path: str | os.PathLike) -> bool:
    return stat.S_ISREG(os.stat(path).st_mode)


def open_regular(path: str | os.PathLike) -> BufferedReader | BytesIO:
    """A file opened to read its bytes; what is no regular file is never waited for.

    Opening a pipe blocks until somebody writes into it, and opening a device may do anything. A
    bucket's object is read into memory.

    Raises:
      OSError: it can't be opened, or is no regular file (NOT_REGULAR).
      UserError: the bucket can't be reached.
    """
    if is_remote(path):
        return BytesIO(get_object(to_path(path)))
    if not _is_regular(path):
        raise OSError(NOT_REGULAR)
    # What has become a pipe since then does not block either.
    at_once = getattr(os, "O_NONBLOCK", 0)
    file = open(path, "rb", opener=lambda path, flags: os.open(path, flags | at_once))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(NOT_REGULAR)
    return file


def write_text(path: str | os.PathLike, text: str, private: bool = False) -> None:
    """write_bytes of a text as UTF-8."""
    write_bytes(path, text.encode(), private)


def write_bytes(path: str | os.PathLike, data: bytes, private: bool = False) -> None:
    """Writes a file so that, whatever happens, either the old or the whole new one is there.

    The data goes into a file beside it, onto the disk, and then takes the name: a kill or a power
    loss at any moment leaves no half of it. A file that is there keeps its mode, owner and group.
    In a bucket, which has none of the three, the object is put as buckets.py says.

    Args:
      path: in a folder that is there.
      data: all of the file.
      private: a new file is its owner's alone: it holds a patient's pictures or answers.

    Raises:
      UserError: the disk is full, and the old file is kept; or as check_target.
      OSError: it can't be written, and the old file is kept.
    """
    if is_remote(path):
        return put_object(to_path(path), data)
    check_target(path)
    path = Path(path)
    # A name of its own, short enough beside any name: two writers do not meet in one file.
    temporary = path.with_name(f".{os.getpid()}.{secrets.token_hex(4)}.tmp")
    old = path.stat() if path.exists() else None
    try:
        mode = 0o666 if old is None and not private else 0o600
        new = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(temporary, "wb", opener=lambda path, _: os.open(path, new, mode)) as file:
            file.write(data)
            if old is not None:
                _give_to(file.fileno(), old)
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            kept = "nothing was written" if old is None else "the old one is kept"
            raise UserError(f"disk full while writing {path}; {kept}; free some space") from error
        if isinstance(error, OSError) and error.filename:  # the file that was asked for
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def put_file(written: str | os.PathLike, path: str | os.PathLike) -> None:
    """As write_bytes, of a file beside `path` that a library has written: gives it that name, also
    in the place of a link, which is not followed.

    Raises:
      OSError: it can't be; `path` is then as it was.
    """
    _sync(written)
    _rename(written, path)


def _rename(written: str | os.PathLike, path: str | os.PathLike) -> None:
    """Gives a file on the disk its name, which lasts beyond a power loss where it can."""
    os.replace(written, path)
    with contextlib.suppress(OSError):
        _sync(os.path.dirname(path) or ".")


def _sync(path: str | os.PathLike) -> None:
    """Puts a file or a folder's list of names onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _give_to(descriptor: int, old: os.stat_result) -> None:
    """Gives a new file the owner, group and mode of the one that it replaces."""
    mode = stat.S_IMODE(old.st_mode)
    try:
        os.fchown(descriptor, old.st_uid, old.st_gid)
    except OSError:
        mode &= ~0o070  # what its group might do is not for ours
    os.fchmod(descriptor, mode)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that becomes it when the block ends well, and vanishes otherwise.

    What a killed process left there is removed by the next one.

    Raises:
        UserError: the target exists, the disk is full, or another process is writing it.
        OSError: it can't be made.
    """
    check_new(target)
    partial = target.with_name(f"{target.name}.partial")
    with writing(target):
        make_folder(partial)
        lock = os.open(partial, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            if not lock_descriptor(lock, blocking=False):
                raise UserError(f"another process is writing {target}: wait for it")
        for left in partial.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            with writing(target):
                yield partial
                partial.rename(target)
        except BaseException:
            remove_folder(partial)
            raise
    finally:
        os.close(lock)


def check_new(target: Path) -> None:
    """UserError if there is something at `target`."""
    if target.exists() or target.is_symlink():
        raise UserError(f"{target} exists already: name another target, or delete it")
