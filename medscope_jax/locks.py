"""One process at a time: a lock that ends with the process that holds it, however that ends."""

import contextlib
import logging
import os
from collections.abc import Iterator

from filelock import lock_descriptor

from medscope_jax.errors import UserError
from medscope_jax.owners import owning
from medscope_jax.paths import is_remote, to_path
from medscope_jax.visible import shown

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def alone(path: str | os.PathLike, busy: str = "") -> Iterator[None]:
    """Holds a lock file, made if it is missing, until the context ends.

    Where the file system has no locks, as some of a network, a warning says so. In a bucket it is
    an object that says who holds it, see owners.py, and nobody waits for it.

    Args:
      path: the lock file; it stays behind, empty.
      busy: what to say if another process holds it, "DIR is in use by another run{by}: wait for
        it", where {by} becomes its number. "" waits for it instead.

    Raises:
      UserError: another process holds it and `busy` is given; or a link lies in its place, which
        would be written through.
      OSError: it can't be made.
    """
    if is_remote(path):
        with owning(to_path(path), busy):
            yield
        return
    descriptor = _open(path)
    try:
        if _is_held(descriptor, path, busy):
            with contextlib.suppress(OSError):  # the number is a courtesy; a disk may be full
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
        yield
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _is_held(descriptor: int, path: str | os.PathLike, busy: str) -> bool:
    """Takes the lock; False where the file system has none."""
    try:
        held = lock_descriptor(descriptor, blocking=not busy)
    except OSError as error:
        name = shown(path)
        _LOG.warning("%s can't be locked (%s): start no second process", name, error.strerror)
        return False
    if not held:
        holder = os.read(descriptor, 20).decode("latin-1").strip()
        by = f" (process {holder})" if holder.isdigit() else ""
        raise UserError(busy.replace("{by}", by))
    return True


def _open(path: str | os.PathLike) -> int:
    if os.path.islink(path):
        raise UserError(f"{path} can't be used as a lock, it is a link: remove it")
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
