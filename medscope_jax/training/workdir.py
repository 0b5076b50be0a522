"""A run's folder: what lies where, one run at a time, and files that are whole or not there.

config.json    the config that the run was started with, and a checksum of it
suite/         the prepared data
tokenizer.model, or pretrained/ with what came beside imported weights, their tokenizer included
checkpoints/   training state and data position
compiled/      programs that JAX has compiled, see compiled.py
profile/       traces of some steps, see profiling.py
metrics.jsonl  one line a logged step
results.json   the final table; written last, so a run that has it is done
report.html    learning curves, the table, evidence traces
"""

import contextlib
import dataclasses
import itertools
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from medscope_jax.config import check_stored_keys, from_json, to_json
from medscope_jax.config_values import with_earlier
from medscope_jax.errors import UserError, one_line
from medscope_jax.files import is_there, make_folder, size_of, write_text
from medscope_jax.locks import alone
from medscope_jax.manifest import seal
from medscope_jax.metrics import read_results
from medscope_jax.paths import to_path
from medscope_jax.stored import read_json
from medscope_jax.training.going_on import may_change
from medscope_jax.training.values import check_values
from medscope_jax.visible import shown

_LOG = logging.getLogger(__name__)
_MISSING = "nothing"
_BUSY = "{} is in use by another run{}: wait for it, or choose another --workdir"
_CONFIG_AGAIN = "put back a copy of it, or choose another --workdir"
_SEAL = "seal"  # the checksum's key
_MOST_BYTES = 2**20  # of a config, which has some thousand; of a million keys one takes minutes


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths of a run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def suite(self) -> Path:
        return self.path / "suite"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.model"

    @property
    def pretrained(self) -> Path:
        return self.path / "pretrained"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def compiled(self) -> Path:
        return self.path / "compiled"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def own(self) -> tuple[Path, ...]:
        """All that a run makes or reads here: no other output may be put in its place."""
        files = self.config, self.tokenizer, self.metrics, self.results, self.report
        folders = self.suite, self.pretrained, self.checkpoints, self.compiled
        return (*files, *folders, self.path / "banks", self.path / "profile")

    def is_done(self) -> bool:
        """Whether the run has ended: results.json is there, whole and not empty."""
        if not is_there(self.results):
            return False
        try:
            return bool(read_results(self.results))
        except UserError as error:
            _LOG.warning("%s", shown(error))
            return False


@contextlib.contextmanager
def open_workdir(path: str | Path, config: ConfigDict, primary: bool = True) -> Iterator[Workdir]:
    """Makes or reopens a run's folder and holds it for this run alone, until the context ends.

    Args:
      path: the folder.
      config: the run's config, noted in the config.json of a new folder. All but what may change
        (see going_on.py) must equal the config that the folder was made with; keep_config notes
        that. (A judge may be gone for good, or be one that a run can't be finished with;
        metrics.jsonl says which one scored a step.)
      primary: whether this is the process that makes the folder (process 0) and locks it. The
        others come after it, and only compare their config.

    Raises:
      UserError: one line: the folder can't be made, another run is using it, or it belongs to
        another config (the first differing keys with both values).
    """
    workdir = Workdir(to_path(path))
    if not primary:
        _check_config(workdir, config)
        yield workdir
        return
    with contextlib.ExitStack() as held:
        try:
            make_folder(workdir.path)
            held.enter_context(alone(workdir.path / ".lock", _BUSY.format(workdir.path, "{by}")))
        except OSError as error:
            raise UserError(f"can't use {path} as the workdir: {one_line(error)}") from error
        _check_config(workdir, config)
        yield workdir


def read_workdir(path: str | Path) -> tuple[Workdir, ConfigDict]:
    """A run's folder and config, for programs that only read it.

    Raises:
      UserError: one line, if there is no run in it.
    """
    workdir = Workdir(to_path(path))
    config = _read_config(workdir)
    try:
        check_stored_keys(config)
        check_values(config)
    except UserError as error:
        raise UserError(f"{workdir.config}: {error}; {_CONFIG_AGAIN}") from error
    return workdir, config


def _read_config(workdir: Workdir) -> ConfigDict:
    if not is_there(workdir.config):
        raise UserError(
            f"{workdir.path} holds no run (no config.json): train with --workdir {workdir.path} "
            "first"
        )
    if size_of(workdir.config) > _MOST_BYTES:
        raise UserError(f"{workdir.config} is larger than any config: {_CONFIG_AGAIN}")
    values = read_json(workdir.config, {...: object}, _CONFIG_AGAIN)
    stated = values.pop(_SEAL, None)
    if stated is None:
        _LOG.warning("%s has no checksum (an earlier version wrote it)", shown(workdir.config))
    elif stated != seal(values):
        raise UserError(f"{workdir.config} is not what was written: {_CONFIG_AGAIN}")
    try:
        return from_json(json.dumps(with_earlier(values)))
    except (ValueError, TypeError) as error:  # ConfigDict's own, such as a key with a dot in it
        raise UserError(f"{workdir.config} is damaged or edited: {_CONFIG_AGAIN}") from error


def keep_config(workdir: Workdir, config: ConfigDict) -> None:
    """Notes what has changed in the config, which open_workdir has allowed."""
    sealed = _sealed(config)
    if workdir.config.read_text() != sealed:
        write_text(workdir.config, sealed)


def set_results_aside(workdir: Workdir) -> None:
    """Renames the results of a run that goes on, so that it is not taken for done; says so."""
    if not is_there(workdir.results):
        return
    numbers = itertools.count(1)
    names = (workdir.path / f"results_before_{number}.json" for number in numbers)
    target = next(name for name in names if not is_there(name))
    workdir.results.rename(target)
    print(shown(f"the run goes on; its results so far are kept in {target}"))


def _sealed(config: ConfigDict) -> str:
    values = json.loads(to_json(config))
    return json.dumps({**values, _SEAL: seal(values)}, indent=2) + "\n"


def _check_config(workdir: Workdir, config: ConfigDict) -> None:
    if not workdir.config.exists():
        made = [p for p in (workdir.checkpoints, workdir.metrics, workdir.results) if p.exists()]
        if made:
            raise UserError(
                f"{workdir.path} has {made[0].name} but no config.json, so its config is unknown: "
                "choose another --workdir"
            )
        write_text(workdir.config, _sealed(config))
        return
    found = differences(_read_config(workdir), from_json(to_json(config)))
    different = [row for row in found if not may_change(row[0])]
    if different:
        shorter = ((part[:80] for part in row) for row in different[:3])
        few = "; ".join(f"{key} was {a}, now {b}" for key, a, b in shorter)
        more = f"; and {len(different) - 3} more" if len(different) > 3 else ""
        raise UserError(
            f"{workdir.path} was made with another config: {few}{more}. "
            "Choose another --workdir or the same config"
        )


def differences(old: ConfigDict, new: ConfigDict) -> list[tuple[str, str, str]]:
    """The dotted keys, `log` aside, in which two configs differ, with both values as text."""
    a, b = _flat(old.to_dict(), ""), _flat(new.to_dict(), "")
    keys = sorted(key for key in a.keys() | b.keys() if key.split(".")[0] != "log")
    rows = [(key, a.get(key, _MISSING), b.get(key, _MISSING)) for key in keys]
    return [row for row in rows if row[1] != row[2]]


def _flat(values: dict[str, Any], prefix: str) -> dict[str, str]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = repr(value)
    return flat
