"""Paths as users give them: of this machine, or addresses of a bucket such as gs://bucket/run.

The one place where text becomes a path: pathlib makes a folder "gs:" of an address and says
nothing. An address becomes etils' epath.Path, which has pathlib's methods (but stat().length in
place of st_size, and nothing of os or shutil: files.py and buckets.py have what works on both).
"""

import importlib.util
import os
from pathlib import Path
from typing import Any, cast

from medscope_jax.errors import UserError, closest

# Scheme -> the module that fsspec reaches it by, and how to install that.
SCHEMES = {
    "gs": ("gcsfs", "python -m pip install gcsfs"),
    "s3": ("s3fs", "python -m pip install s3fs"),
    "az": ("adlfs", "python -m pip install adlfs"),
}

# epath goes by TensorFlow where that is installed, by other rules, and decides once for a process.
os.environ.setdefault("EPATH_USE_TF", "false")


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path is an address: of a bucket, or of anything else that has "://"."""
    return "://" in os.fspath(path)


def to_path(path: str | os.PathLike, name: str = "the path") -> Path:
    """The path of a user's text: pathlib's, or epath's of an address.

    Args:
      path: what was given.
      name: the flag or key, as a message calls it.

    Raises:
      UserError: as check_address.
    """
    if not is_remote(path):
        return Path(path)
    check_address(path, name)
    _set_up()
    from etils import epath

    return cast(Path, epath.Path(os.fspath(path)))


def check_address(path: str | os.PathLike, name: str) -> None:
    """Refuses an address that can't be reached from this installation; asks no network.

    Raises:
      UserError: an unknown scheme, one whose package is not installed, or no bucket in it.
    """
    text = os.fspath(path)
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES:
        known = ", ".join(f"{known}://" for known in SCHEMES)
        hint = closest(scheme.lower(), SCHEMES)
        raise UserError(
            f"{name} {text} is an address of a kind that is not known{hint}: use one of {known} or "
            "a path of this machine"
        )
    if not rest.strip("/"):
        raise UserError(f"{name} {text} names no bucket: write {scheme}://BUCKET/FOLDER")
    module, install = SCHEMES[scheme]
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{name} {text} needs the package {module}: {install}")


def scheme_of(path: str | os.PathLike) -> str:
    """An address's scheme, "gs"; "" of a path of this machine."""
    text = os.fspath(path)
    return text.partition("://")[0] if is_remote(text) else ""


def filesystem(path: str | os.PathLike) -> Any:
    """fsspec's file system of an address."""
    _set_up()
    import fsspec

    return fsspec.filesystem(scheme_of(path))


def _set_up() -> None:
    """Listings of buckets are never kept: they would hide what others have written since."""
    from fsspec.config import conf

    for scheme in SCHEMES:
        conf.setdefault(scheme, {}).setdefault("use_listings_cache", False)


def cache_folder() -> Path:
    """Where copies of what lies in buckets are kept: $XDG_CACHE_HOME/medscope_jax, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "medscope_jax"
