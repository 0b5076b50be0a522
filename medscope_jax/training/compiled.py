"""JAX's cache of compiled programs, in the workdir: a run that goes on compiles them once."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from medscope_jax.paths import is_remote

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


@contextlib.contextmanager
def compiling_into(folder: Path, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """What takes JAX more than a second to compile inside is kept in a folder, and found there.

    Does nothing where the user says where such programs go, by JAX's own variable ("" for nowhere)
    or its option.
    """
    if _VARIABLE in environment or jax.config.values["jax_compilation_cache_dir"]:
        yield
        return
    try:
        _keep_in(os.fspath(folder if is_remote(folder) else folder.resolve()))
        yield
    finally:
        _keep_in(None)


def _keep_in(folder: str | None) -> None:
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()  # it has looked for a folder when it compiled first
