"""Files that are written whole or not at all; which paths and files are read or written at all."""

import contextlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from medscope_jax.errors import UserError, is_disk_full

NOT_REGULAR = "no regular file but a pipe, a socket or a device"


def check_local(path: str | os.PathLike, name: str) -> None:
    """Refuses the address of a bucket or a page where a path is asked for.

    pathlib would make a folder called "gs:" of it.

    Args:
      path: what was given for a flag or a config's key; "" is none.
      name: the flag or key, as the message calls it.

    Raises:
      UserError: it has "://".
    """
    if "://" in os.fspath(path):
        raise UserError(
            f"{name} {os.fspath(path)} is an address, and only paths of this machine are read and "
            "written so far: copy or mount it here and give that path"
        )


def check_target(path: str | os.PathLike) -> None:
    """Refuses a pipe, a socket or a device as a file to write: it would be replaced by a file.

    Raises:
      UserError: there is such a thing at the path, or the path is one of the system's own.
    """
    folder = os.path.dirname(os.path.abspath(path))
    # /dev/stdout may lead to a file, and would itself be replaced; /dev/shm is a folder of files.
    system = folder in ("/dev", "/dev/fd") or f"{folder}/".startswith(("/proc/", "/sys/"))
    if system or (os.path.exists(path) and not os.path.isdir(path) and not _is_regular(path)):
        raise UserError(f"{path} is {NOT_REGULAR}; name a file to write")


def _is_regular(path: str | os.PathLike) -> bool:
    return stat.S_ISREG(os.stat(path).st_mode)


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """A file opened to read its bytes; what is no regular file is never waited for.

    Opening a pipe blocks until somebody writes into it, and opening a device may do anything.

    Raises:
      OSError: it can't be opened, or is no regular file (NOT_REGULAR).
    """
    if not _is_regular(path):
        raise OSError(NOT_REGULAR)
    # What has become a pipe since then does not block either.
    at_once = getattr(os, "O_NONBLOCK", 0)
    file = open(path, "rb", opener=lambda path, flags: os.open(path, flags | at_once))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(NOT_REGULAR)
    return file


def write_text(path: str | os.PathLike, text: str) -> None:
    """write_bytes of a text as UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file so that, whatever happens, either the old or the whole new one is there.

    The data goes into a file beside it, onto the disk, and then takes the name: a kill or a power
    loss at any moment leaves no half of it.

    Raises:
      UserError: the disk is full, and the old file is kept; or the path is a pipe or a device.
    """
    check_target(path)
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            kept = "the old one is kept" if path.exists() else "nothing was written"
            raise UserError(f"disk full while writing {path}; {kept}; free some space") from error
        raise


def _sync_folder(path: Path) -> None:
    """Makes renames inside a folder last beyond a power loss, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
