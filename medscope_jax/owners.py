"""Who works on a folder of a bucket, where there are no locks: an object that says so.

    {"host": ..., "boot": ..., "space": ..., "process": ..., "token": ..., "time": ...}

It is created only where there is none, and put again with the time every minute. One whose process
is gone from this machine is taken over; of another machine's that has fallen silent, one line says
what to do, since nobody can know from here whether it works on.
"""

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medscope_jax.buckets import (
    create_object,
    get_object,
    put_object,
    remove_left_objects,
    remove_objects,
)
from medscope_jax.errors import UserError, one_line
from medscope_jax.visible import shown

BEAT = 60.0  # seconds between two signs of life
SILENT = 10 * BEAT  # seconds without one after which an owner is thought dead
_LOG = logging.getLogger(__name__)
_BOOT, _SPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")


@contextlib.contextmanager
def owning(path: Path, busy: str = "", beat: float = BEAT) -> Iterator[None]:
    """Holds an object that says who works in its folder, until the context ends.

    What a killed process was about to put into the folder is removed.

    Args:
      path: the object.
      busy: what to say if another process holds it, "{by}" in it stands for which.
      beat: seconds between two signs of life.

    Raises:
      UserError: another process holds it, or did and has fallen silent; or the bucket can't be
        reached.
    """
    mine = {
        **_here(),
        "process": os.getpid(),
        "token": secrets.token_hex(8),
        "time": time.time(),
    }
    _take(path, mine, busy or f"{path.parent} is in use by another process{{by}}: wait for it")
    remove_left_objects(path.parent)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, mine, ended, beat), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        # What can't be removed now is taken over or told about by the next one.
        with contextlib.suppress(UserError):
            if (_read(path) or {}).get("token") == mine["token"]:
                remove_objects([path])


def _here() -> dict[str, str]:
    """This machine since its last start, and where its processes are numbered (a container's)."""
    boot = _BOOT.read_text().strip() if _BOOT.is_file() else ""
    space = os.readlink(_SPACE) if _SPACE.is_symlink() else ""
    return {"host": socket.gethostname(), "boot": boot, "space": space}


def _take(path: Path, mine: dict[str, Any], busy: str) -> None:
    data = json.dumps(mine).encode()
    for _ in range(3):  # another may come or go between a look and the next
        try:
            return create_object(path, data)
        except FileExistsError:
            owner = _read(path)
        if owner is None:
            continue
        by = f" (process {owner.get('process')} of {owner.get('host')})"
        if not _is_dead(owner):
            silent = time.time() - float(owner.get("time") or 0)
            if silent < SILENT:
                raise UserError(busy.replace("{by}", by))
            raise UserError(
                f"{path.parent} was in use by another process{by}, which gave its last sign of "
                f"life {silent / 60:.0f} minutes ago: if it has ended, delete {path} and run again"
            )
        _LOG.warning("%s: taken over, its process%s has ended", shown(path), by)
        remove_objects([path])
    raise UserError(busy.replace("{by}", ""))


def _is_dead(owner: dict[str, Any]) -> bool:
    """Whether it was a process of this machine that is no more: ended, or of before a restart."""
    here = _here()
    if owner.get("host") != here["host"]:
        return False
    if owner.get("boot") != here["boot"]:
        return True
    if owner.get("space") != here["space"]:
        return False
    try:
        os.kill(int(owner.get("process") or 0), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return False
    return False


def _read(path: Path) -> dict[str, Any] | None:
    """The owner; None if there is none. What nobody can have written has no host or time."""
    try:
        values = json.loads(get_object(path))
    except FileNotFoundError:
        return None
    except UserError:
        raise
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _beat(path: Path, mine: dict[str, Any], ended: threading.Event, beat: float) -> None:
    """Gives signs of life; says once if another process has taken the place."""
    told = False
    while not ended.wait(beat):
        try:
            owner = _read(path)
            if owner is not None and owner.get("token") == mine["token"]:
                put_object(path, json.dumps(mine | {"time": time.time()}).encode())
            elif not told:
                told = True
                name = shown(path.parent)
                _LOG.warning("%s is no longer held by this process: start no second one", name)
        except UserError as error:
            _LOG.warning("%s", shown(one_line(error)))
