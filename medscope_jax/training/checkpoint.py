"""Checkpoints: training state, data position and metadata in one atomic Orbax checkpoint.

A checkpoint is there as a whole or not at all, whenever the process is killed: Orbax writes it
aside and renames it, or in gs:// writes a marker last, commit_success.txt. To another bucket it
does not write: it works in a copy on this machine, which is put there after each save. Every array
carries a checksum that does not depend on how it is sharded, so damage by a disk, a copy or a hand
is noticed on restore, and the checkpoint before is used.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from medscope_jax.copies import fetch, publish
from medscope_jax.errors import UserError, is_disk_full, one_line, path_fault
from medscope_jax.manifest import seal
from medscope_jax.paths import is_remote, scheme_of, to_path
from medscope_jax.training import checkpoint_arrays as leaves_lib
from medscope_jax.visible import shown

_LOG = logging.getLogger(__name__)
_ORBAX_LOG = logging.getLogger("absl")
_WRITTEN = ("", "gs")  # schemes of paths that Orbax writes to; "" is of those of this machine
_LAST = "_CHECKPOINT_METADATA"  # Orbax's, at the top of each checkpoint


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint held."""

    state: Any  # the pytree, on the devices that were asked for
    data: Any  # the data iterator's state
    meta: dict[str, Any]  # as given to save: stage, step, ...


class Checkpoints(contextlib.AbstractContextManager):
    """The numbered checkpoints in one folder, newest last.

    Numbers only count saves; the step and stage of a checkpoint are in its `meta`, so a new stage
    may start at step 0 again. All processes of a run call every method together.
    """

    def __init__(
        self,
        directory: str | Path,
        latest: int = 2,
        asynchronous: bool = False,
        read_only: bool = False,
    ):
        """Opens or makes the folder and clears away what a killed run left half-written.

        Args:
          directory: the folder; for several processes, one that all of them see.
          latest: how many of the newest to keep, beside the newest of each stage, the newest that
            finished it, and the one with the highest validation score.
          asynchronous: let `save` return once the arrays are copied and write in the background.
          read_only: only restore, and change nothing: a run may be saving here at this moment.
        """
        self._home = to_path(directory)
        self._directory = _worked_in(self._home)
        self._latest = latest
        self._asynchronous = asynchronous
        _ORBAX_LOG.addFilter(_is_other_than_full_disk)
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                enable_async_checkpointing=asynchronous,
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
                step_format_fixed_length=6,
            ),
        )
        self._bad: set[int] = set()
        self._manifests: dict[int, dict[str, Any]] = {}
        self._number = max(self._manager.all_steps(), default=0)
        self._pending: int | None = None  # the number being written in the background

    def save(self, state: Any, data: Any, meta: dict, stage_finished: bool = False) -> int:
        """Saves one checkpoint, deletes those no longer kept, and returns its number.

        Args:
          state: pytree of arrays, sharded or not; typed random keys are saved as their data.
          data: the data iterator's state, of JSON values.
          meta: of JSON values, with at least "stage" and "step"; "validation" is a score.
          stage_finished: keep it until a newer one finishes the same stage.

        Raises:
          UserError: the disk is full; what was written of this one is removed, the rest is kept.
        """
        self.wait()
        arrays = {name: leaves_lib.plain(leaf) for name, leaf in leaves_lib.named(state).items()}
        leaves = leaves_lib.describe(arrays)
        manifest = {"meta": meta, "stage_finished": stage_finished, "leaves": leaves}
        manifest, data = json.loads(json.dumps([manifest, data]))
        number = self._number + 1
        self._manifests[number] = manifest
        arguments = ocp.args.Composite(
            state=ocp.args.PyTreeSave(arrays),
            data=ocp.args.JsonSave({"state": data}),
            meta=ocp.args.JsonSave(manifest | {"seal": seal([manifest, data])}),
        )
        with self._report_full_disk(number):
            self._manager.save(number, args=arguments, force=True)
        self._number = self._pending = number
        if not self._asynchronous:
            self.wait()
        return number

    def restore(
        self,
        abstract: Any | Callable[[dict[str, Any]], Any],
        stage: str | None = None,
        partial: bool = False,
        finished: bool = True,
        best: bool = False,
    ) -> Restored | None:
        """Restores the newest intact checkpoint; None if there is none (of the stage) at all.

        A damaged checkpoint is named in a warning, and the one before is tried.

        Args:
          abstract: the state's structure: arrays or `jax.ShapeDtypeStruct`s, whose shardings say
            where the arrays go (any mesh; where there is none, the default device). Or a function
            that gives it for a checkpoint's `meta`, where stages differ in structure.
          stage: only the checkpoint that finished this stage; None too where it is damaged.
          partial: `abstract` is only a part of the saved state (say, the parameters without the
            optimizer), under the same names.
          finished: False: the stage's newest checkpoint, whether it finished the stage or not.
          best: of those with a validation score, the one with the highest instead of the newest.

        Raises:
          UserError: every checkpoint is damaged, or it holds other names, shapes or types.
        """
        self.wait()
        numbers = [n for n in sorted(self._manager.all_steps(), reverse=True) if n not in self._bad]
        if best:
            scores = self._scores(numbers)
            numbers = sorted(scores, key=lambda number: scores[number], reverse=True)
        damaged = others = 0
        for number in numbers:
            try:
                manifest, data = self._manifest(number)
            except Exception as error:
                self._set_aside(number, error)
                damaged += 1
                continue
            meta = manifest["meta"]
            if stage is not None and meta["stage"] != stage:
                others += 1
                continue
            if stage is not None and finished and not manifest["stage_finished"]:
                continue
            wanted = abstract(meta) if callable(abstract) else abstract
            target = {n: leaves_lib.abstract(leaf) for n, leaf in leaves_lib.named(wanted).items()}
            difference = leaves_lib.difference(manifest["leaves"], target, partial)
            if difference:
                raise UserError(
                    f"{self._path(number)} is of another model: {difference}; "
                    "use the config that it was made with"
                )
            arrays = self._read_arrays(number, manifest["leaves"], target)
            if arrays is None:
                damaged += 1
                continue
            leaves = map(leaves_lib.unplain, arrays.values(), jax.tree.leaves(wanted))
            return Restored(jax.tree.unflatten(jax.tree.structure(wanted), leaves), data, meta)
        if damaged and not others and (stage is None or not finished):
            raise UserError(
                f"{self._directory} has no intact checkpoint ({damaged} damaged): "
                "put back a copy, or start over in another --workdir"
            )
        return None

    def metas(self) -> list[dict[str, Any]]:
        """The `meta` of every checkpoint whose metadata can be read, oldest first."""
        self.wait()
        metas = []
        for number in sorted(set(self._manager.all_steps()) - self._bad):
            with contextlib.suppress(Exception):
                metas.append(self._manifest(number)[0]["meta"])
        return metas

    def finished(self) -> set[str]:
        """The stages that have finished, by the checkpoints whose metadata can be read."""
        self.metas()
        ended = (manifest for manifest in self._manifests.values() if manifest["stage_finished"])
        return {manifest["meta"]["stage"] for manifest in ended}

    def _scores(self, numbers: Sequence[int]) -> dict[int, float]:
        """The validation scores of those checkpoints that have one and whose metadata can be read,
        oldest first."""
        found = {}
        for number in sorted(numbers):
            with contextlib.suppress(Exception):
                meta = self._manifest(number)[0]["meta"]
                if meta.get("validation") is not None:
                    found[number] = meta["validation"]
        return found

    def wait(self) -> None:
        """Waits until the last save is on the disk; raises as `save` does if it failed."""
        if self._pending is None:
            return
        number, self._pending = self._pending, None
        with self._report_full_disk(number):
            self._manager.wait_until_finished()
        self._prune()
        if scheme_of(self._home) not in _WRITTEN:
            publish(self._home, last=(_LAST,))

    def close(self) -> None:
        """Finishes the last save and lets go of the folder."""
        try:
            self.wait()
        finally:
            self._manager.close()
            _ORBAX_LOG.removeFilter(_is_other_than_full_disk)

    def __exit__(self, *_: object) -> None:
        self.close()

    def _manifest(self, number: int) -> tuple[dict[str, Any], Any]:
        """A checkpoint's JSON parts, verified."""
        parts = ocp.args.Composite(data=ocp.args.JsonRestore(), meta=ocp.args.JsonRestore())
        read = self._manager.restore(number, args=parts)
        manifest, data = dict(read.meta), read.data["state"]
        if manifest.pop("seal") != seal([manifest, data]):
            raise ValueError("its metadata or data position was altered")
        self._manifests[number] = manifest
        return manifest, data

    def _read_arrays(
        self, number: int, saved: dict[str, Any], target: dict[str, Any]
    ) -> dict[str, jax.Array] | None:
        """The arrays, in `target`'s order; None (after a warning) if any process finds damage."""
        error = arrays = None
        try:
            arguments = ocp.args.PyTreeRestore(
                item=target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=True,
            )
            read = self._manager.restore(number, args=ocp.args.Composite(state=arguments)).state
            arrays = {name: read[name] for name in target}
            wrong = [n for n, leaf in leaves_lib.describe(arrays).items() if leaf[2] != saved[n][2]]
            if wrong:
                raise ValueError(f"the contents of {wrong[0]} were altered")
        except Exception as caught:
            # Too little memory says nothing about the checkpoint.
            if isinstance(caught, MemoryError) or "Out of memory" in str(caught):
                raise
            error = caught
        if jax.process_count() > 1:
            failed = multihost_utils.process_allgather(np.array(error is not None))
            if failed.any() and error is None:
                error = ValueError("another process found it damaged")
        if error is not None:
            self._set_aside(number, error)
            return None
        return arrays

    def _set_aside(self, number: int, error: Exception) -> None:
        fault = path_fault(error) or ""
        if os.strerror(errno.EACCES) in fault:  # whole for others, so no older one stands for it
            raise UserError(fault) from error
        self._bad.add(number)
        path, reason = shown(self._path(number)), shown(one_line(error)[:160])
        _LOG.warning("checkpoint %s is damaged and not used: %s", path, reason)

    def _prune(self) -> None:
        """Deletes all but the newest, and each stage's newest, newest that finished it and best by
        validation; never what is damaged.

        A damaged checkpoint may have been a passing fault of the disk, or worth a rescue.
        """
        numbers = [n for n in sorted(self._manager.all_steps()) if n not in self._bad]
        keep = set(numbers[-self._latest :])
        last: dict[tuple[str, Any], int] = {}
        best: dict[str, float] = {}
        for number in numbers:
            if number not in self._manifests:
                try:
                    self._manifest(number)
                except Exception:
                    # Killed while deleting: the metadata is gone. Anything else is left alone.
                    if (self._path(number) / "meta").exists():
                        keep.add(number)
                    continue
            manifest = self._manifests[number]
            stage, score = manifest["meta"]["stage"], manifest["meta"].get("validation")
            last[stage, False] = number
            last[stage, manifest["stage_finished"]] = number
            if score is not None and score > best.get(stage, -math.inf):
                best[stage], last[stage, "best"] = score, number
        for number in numbers:
            if number not in keep and number not in last.values():
                self._manager.delete(number)
                self._manifests.pop(number, None)

    @contextlib.contextmanager
    def _report_full_disk(self, number: int) -> Iterator[None]:
        """Turns a full disk, or a bucket out of reach, into one line; removes what was written."""
        try:
            yield
        except Exception as error:
            if not is_disk_full(error):
                if not is_remote(self._directory):
                    raise
                raise UserError(
                    f"checkpoint {self._path(number)} can't be saved ({one_line(error)[:200]}): "
                    "those before it are kept; run the same command again"
                ) from error
            self._manifests.pop(number, None)
            self._number = number  # a number is used once, whatever is left of it
            if jax.process_index() == 0 and not is_remote(self._directory):
                for path in self._directory.glob(f"{number:06d}*tmp*"):
                    shutil.rmtree(path, ignore_errors=True)
            numbers = sorted(set(self._manager.all_steps()) - self._bad - {number})
            kept = f"{self._path(numbers[-1]).name} before it is kept" if numbers else "none before"
            raise UserError(
                f"disk full while saving checkpoint {self._path(number)}; its parts are removed, "
                f"{kept}; free some space and run the same command again"
            ) from error

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:06d}"


def saved_metas(directory: Path) -> list[dict[str, Any]]:
    """The `meta` of every checkpoint in a folder, oldest first; none where it is not there yet."""
    if not directory.is_dir():
        return []
    with Checkpoints(directory, read_only=True) as checkpoints:
        return checkpoints.metas()


def _worked_in(home: Path) -> Path:
    """Where Orbax works for a folder of checkpoints: there, or in a copy on this machine.

    Raises:
      UserError: several processes would need one copy; or the bucket can't be reached.
    """
    if scheme_of(home) in _WRITTEN:
        return home if is_remote(home) else home.resolve()
    if jax.process_count() > 1:
        raise UserError(
            f"{home}: several processes store checkpoints in gs:// or in a folder that all of them "
            "see, since Orbax writes to no other bucket; choose such a --workdir"
        )
    folder = fetch(home)
    for path in folder.iterdir():
        if path.name.isdigit() and not (path / _LAST).exists():
            shutil.rmtree(path)  # a process was killed while it put it there
    return folder


def _is_other_than_full_disk(record: logging.LogRecord) -> bool:
    """Log filter: Orbax raises a full disk to us; its threads' traces would bury our one line.

    Its remarks that a folder opened for reading is read-only tell nobody anything either.
    """
    text = record.getMessage()
    if "read_only=True" in text or "directory is read only" in text:
        return False
    error = record.exc_info[1] if record.exc_info else None
    return not (is_disk_full(OSError(text)) or is_disk_full(error))
