"""Files that are written once: whole or not there, whatever happens while they are written."""

import contextlib
import os
from pathlib import Path

from medscope_jax.errors import UserError, is_disk_full


def write_text(path: str | os.PathLike, text: str) -> None:
    """write_bytes of a text as UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file so that, whatever happens, either the old or the whole new one is there.

    The data goes into a file beside it, onto the disk, and then takes the name: a kill or a power
    loss at any moment leaves no half of it.

    Raises:
      UserError: the disk is full; the old file is kept.
    """
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
