"""Folders that are there as a whole or not at all."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from medscope_jax.errors import UserError
from medscope_jax.files import make_folder, remove_folder, writing


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
        _lock(lock, target)
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


def _lock(descriptor: int, target: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"another process is writing {target}: wait for it") from error
    except OSError:  # some network file systems have no locks
        pass
