"""Configuration: a Python file with `get_config(arg)` is a run; the command line may override it.

    python -m medscope_jax.train --config tpu_configs/cpu.py:smoke --config.rl.group_size=16

Every config has the keys of `tpu_configs/cpu.py`: a mistyped key is found before anything starts.
"""

import ast
import hashlib
import importlib.util
import inspect
import json
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from medscope_jax.arguments import Parser, parse_arguments
from medscope_jax.errors import ConfigError, UserError, closest, one_line, run_main
from medscope_jax.files import check_folder, check_local

__all__ = [
    "ConfigError",
    "Parser",
    "check_keys",
    "config_file",
    "fingerprint",
    "from_json",
    "load_config",
    "parse_arguments",
    "run_main",
    "to_json",
]

_REFERENCE = Path(__file__).resolve().parent.parent / "tpu_configs" / "cpu.py"
# The config's keys that name a folder.
_FOLDER_KEYS = ("config.model.checkpoint", "config.suite.data_dir")
_VALUES = (bool, int, float, str, type(None), tuple, list)
# Keys that may be None where the reference has a number.
_MAY_BE_NONE = ("judge.temperature",)


def load_config(
    spec: str, overrides: Iterable[str] = (), reference: ConfigDict | None = None
) -> ConfigDict:
    """Loads `FILE[:ARG]` and applies overrides.

    Args:
      spec: path of a Python file that has `get_config(arg: str = "")`, then optionally `:ARG`.
      overrides: "dotted.key=value"; the value is read as the type of the one it replaces.
      reference: the config whose keys this one must have; by default the CPU config's.

    Returns:
      A locked ConfigDict of plain values, lists as tuples.

    Raises:
      ConfigError: one line: no such file, no get_config, unknown ARG, a key that the reference
        lacks or that is missing here, an override of an unknown key or with another type.
      UserError: an address in the place of a path.
    """
    path, arg = _split(spec)
    config = _call_get_config(path, arg)
    if reference is None:
        reference = _call_get_config(_REFERENCE, "")
    _check_keys(config, reference, path, "")
    with config.unlocked():
        for override in overrides:
            _override(config, override)
    for name, value in _values(config, "config."):
        if isinstance(value, str) and not name.endswith(".url"):
            (check_folder if value and name in _FOLDER_KEYS else check_local)(value, name)
    return _plain(config)


def config_file(spec: str) -> Path:
    """The file of `FILE[:ARG]`."""
    return _split(spec)[0]


def to_json(config: ConfigDict) -> str:
    """The config as JSON text with sorted keys; `from_json` gives an equal config back."""
    return json.dumps(config.to_dict(), sort_keys=True, indent=2)


def from_json(text: str) -> ConfigDict:
    """The locked config that `to_json` wrote."""
    return _plain(ConfigDict(json.loads(text)))


def check_keys(config: ConfigDict) -> None:
    """Raises ConfigError where keys or kinds of values are not those of every config."""
    reference = _call_get_config(_REFERENCE, "")
    model = config.get("model")
    if isinstance(model, ConfigDict) and model.get("checkpoint"):
        # Shapes of imported weights: models.model_config knows their keys.
        shapes = {key: model[key] for key in ("text", "vision") if key in model}
        reference.model.update(ConfigDict(shapes))
    _check_keys(config, reference, "config", "")


def fingerprint(config: ConfigDict) -> str:
    """Stable hash (16 hex digits) of all that decides a run's numbers: all but `config.log`."""
    values = {key: value for key, value in config.to_dict().items() if key != "log"}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _split(spec: str) -> tuple[Path, str]:
    """Splits FILE[:ARG]; FILE may hold colons, as long as it ends in .py."""
    file, mark, arg = spec.rpartition(".py:")
    return (Path(f"{file}.py"), arg) if mark else (Path(spec), "")


def _call_get_config(path: Path, arg: str) -> ConfigDict:
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else _REFERENCE.parent
        files = sorted(str(folder / file.name) for file in folder.glob("*.py"))
        there = f"; there are: {', '.join(files)}" if files else f"; {folder} has no .py files"
        raise ConfigError(f"no config file {path}{closest(str(path), files)}{there}")
    module_spec = importlib.util.spec_from_file_location("medscope_config", path)
    if module_spec is None:
        raise ConfigError(f"{path} is not a Python file; give FILE.py[:ARG]")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path} can't be loaded: {_where(error, path)}") from error
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        names = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(
            f"{path} has no get_config(arg){closest('get_config', names)}; "
            f"it defines: {', '.join(names) or 'nothing'}"
        )
    if arg and not inspect.signature(get_config).parameters:
        raise ConfigError(f"{path}: get_config() takes no argument, so leave out ':{arg}'")
    try:
        config = get_config(arg) if inspect.signature(get_config).parameters else get_config()
    except UserError as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValueError as error:  # how a config file says that it does not know ARG
        raise ConfigError(f"{path}: {one_line(error)}") from error
    except Exception as error:
        raise ConfigError(f"{path}: get_config({arg!r}) failed: {_where(error, path)}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{path}: get_config gave {type(config).__name__}, not a ConfigDict")
    return config


def _where(error: Exception, path: Path) -> str:
    """The error on one line, with the line of the config file that it came from."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    place = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {one_line(error)}{place}"


def _check_keys(config: ConfigDict, reference: ConfigDict, path: Path | str, prefix: str) -> None:
    """Raises where the keys or kinds of values of `config` are not those of `reference`."""
    for key in sorted(config):
        if key not in reference:
            hint = closest(key, reference) or f"; known: {', '.join(sorted(reference))}"
            raise ConfigError(f"{path}: unknown key {prefix}{key}{hint}")
    for key in sorted(reference):
        name, expected = prefix + key, reference[key]
        if key not in config:
            has = "a section" if isinstance(expected, ConfigDict) else repr(expected)
            raise ConfigError(f"{path}: key {name} is missing; {_REFERENCE.name} has {has}")
        value = config[key]
        if isinstance(value, ConfigDict) != isinstance(expected, ConfigDict):
            kinds = ("a section", "a value")
            wanted, found = kinds if isinstance(expected, ConfigDict) else kinds[::-1]
            raise ConfigError(f"{path}: {name} must be {wanted}, but is {found}")
        if isinstance(value, ConfigDict):
            _check_keys(value, expected, path, f"{name}.")
        elif not isinstance(value, _VALUES):
            raise ConfigError(f"{path}: {name} is {type(value).__name__}, which JSON can't hold")
        elif not _same_kind(value, expected) and (value is not None or name not in _MAY_BE_NONE):
            raise ConfigError(f"{path}: {name} is {value!r}; expected something like {expected!r}")


def _same_kind(value: Any, expected: Any) -> bool:
    """Whether `value` may stand for `expected`; anything may for None, an int for a float."""
    if expected is None:
        return True
    if isinstance(value, (tuple, list)) and isinstance(expected, (tuple, list)):
        return True
    return type(value) is type(expected) or (type(value) is int and type(expected) is float)


def _override(config: ConfigDict, override: str) -> None:
    """Applies one "dotted.key=value" in place."""
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r} has no value; write {key}=VALUE")
    *sections, last = key.split(".")
    node, seen = config, ""
    for part in [*sections, last]:
        if not isinstance(node, ConfigDict):
            raise ConfigError(f"unknown config key {key!r}: {seen!r} is a value, not a section")
        if part not in node:
            raise ConfigError(_unknown(config, key, node, part))
        parent, node, seen = node, node[part], f"{seen}.{part}".lstrip(".")
    if isinstance(node, ConfigDict):
        raise ConfigError(f"config key {key!r} is a section; its keys: {', '.join(sorted(node))}")
    parent[last] = _parse(key, text, node, parent.get_type(last))


def _unknown(config: ConfigDict, key: str, node: ConfigDict, part: str) -> str:
    """Message for an unknown key, naming the closest full key, be it in the same section or not."""
    names = [name for name, _ in _values(config, "")]
    same_leaf = [name for name in names if name.split(".")[-1] == key.split(".")[-1]]
    hint = closest(key, names)
    if not hint and same_leaf:
        hint = f" (did you mean {same_leaf[0]!r}?)"
    return f"unknown config key {key!r}{hint or '; known there: ' + ', '.join(sorted(node))}"


def _values(config: ConfigDict, prefix: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that a config holds."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _values(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _parse(key: str, text: str, old: Any, kind: type) -> Any:
    """Reads `text` as a value of `kind`, the type of the value it replaces."""
    if kind is str:
        return text
    if text == "None" and (old is None or key in _MAY_BE_NONE):
        return None
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float):
            return kind(text)
        value = ast.literal_eval(text)
    except (ValueError, KeyError, SyntaxError, MemoryError, RecursionError):
        if kind is type(None):
            return text
        raise ConfigError(_mismatch(key, text, old, kind)) from None
    if kind in (tuple, list):
        if not isinstance(value, (tuple, list)):
            raise ConfigError(_mismatch(key, text, old, kind))
        if old and not all(_same_kind(item, old[0]) for item in value):
            raise ConfigError(_mismatch(key, text, old, kind))
        return kind(value)
    return value


def _mismatch(key: str, text: str, old: Any, kind: type) -> str:
    return f"config key {key!r} takes {kind.__name__} values such as {old!r}, not {text!r}"


def _plain(config: ConfigDict) -> ConfigDict:
    """A locked copy of plain values: references resolved, lists as (hashable) tuples."""

    def convert(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: convert(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            return tuple(convert(item) for item in value)
        return value

    return ConfigDict(convert(config.to_dict())).lock()
