"""Configuration: a Python file with `get_config(arg)` is a run; the command line may override it.

    python -m medscope_jax.train --config tpu_configs/cpu.py:smoke --config.rl.group_size=16

Every config has the keys of `config_schema.py`: a mistyped one is found before anything starts.
"""

import ast
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from medscope_jax.arguments import parse_arguments
from medscope_jax.config_schema import KEYS, Key
from medscope_jax.config_source import call_get_config, config_file, split_spec
from medscope_jax.config_values import check_keys, is_kind, leaves
from medscope_jax.errors import ConfigError, closest, run_main
from medscope_jax.files import check_folder, check_local

__all__ = [
    "ConfigError",
    "check_stored_keys",
    "config_file",
    "from_json",
    "load_config",
    "parse_arguments",
    "run_main",
    "to_json",
]


def load_config(
    spec: str, overrides: Iterable[str] = (), keys: Mapping[str, Key] = KEYS
) -> ConfigDict:
    """Loads `FILE[:ARG]` and applies overrides.

    Args:
      spec: path of a Python file that has `get_config(arg: str = "")`, then optionally `:ARG`.
      overrides: "dotted.key=value"; the value is read as the key's kind.
      keys: the schema.

    Returns:
      A locked ConfigDict of plain values, lists as tuples.

    Raises:
      ConfigError: one line: no such file, no get_config, unknown ARG, a key that the schema lacks
        or that is missing here, an override of an unknown key or with another type.
      UserError: an address in the place of a path.
    """
    path, arg = split_spec(spec)
    config = call_get_config(path, arg)
    check_keys(config, keys, path)
    with config.unlocked(), config.ignore_type():  # a whole number may stand for a float, and back
        for override in overrides:
            _override(config, override, keys)
    for name, value in leaves(config):
        if isinstance(value, str) and not name.endswith(".url"):
            check = check_folder if value and keys[name].folder else check_local
            check(value, f"config.{name}")
    return _plain(config)


def to_json(config: ConfigDict) -> str:
    """The config as JSON text with sorted keys; `from_json` gives an equal config back."""
    return json.dumps(config.to_dict(), sort_keys=True, indent=2)


def from_json(text: str) -> ConfigDict:
    """The locked config that `to_json` wrote."""
    return _plain(ConfigDict(json.loads(text)))


def check_stored_keys(config: ConfigDict) -> None:
    """Raises ConfigError where a run's own config has not the keys, or kinds, of the schema."""
    model = config.get("model")
    # Shapes of imported weights have more keys, which models.model_config knows.
    imported = isinstance(model, ConfigDict) and model.get("checkpoint")
    check_keys(config, open_sections=("model.text", "model.vision") if imported else ())


def _override(config: ConfigDict, override: str, keys: Mapping[str, Key]) -> None:
    """Applies one "dotted.key=value" in place."""
    name, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"override {override!r} has no value; write {name}=VALUE")
    *sections, last = name.split(".")
    node, seen = config, ""
    for part in [*sections, last]:
        if not isinstance(node, ConfigDict):
            raise ConfigError(f"unknown config key {name!r}: {seen!r} is a value, not a section")
        if part not in node:
            raise ConfigError(_unknown(config, name, node))
        parent, node, seen = node, node[part], f"{seen}.{part}".lstrip(".")
    if isinstance(node, ConfigDict):
        raise ConfigError(f"config key {name!r} is a section; its keys: {', '.join(sorted(node))}")
    parent[last] = _parse(name, text, node, keys[name])


def _unknown(config: ConfigDict, name: str, node: ConfigDict) -> str:
    """Message for an unknown key, naming the closest full key, be it in the same section or not."""
    names = [name for name, _ in leaves(config)]
    same_leaf = [known for known in names if known.split(".")[-1] == name.split(".")[-1]]
    hint = closest(name, names)
    if not hint and same_leaf:
        hint = f" (did you mean {same_leaf[0]!r}?)"
    return f"unknown config key {name!r}{hint or '; known there: ' + ', '.join(sorted(node))}"


def _parse(name: str, text: str, old: Any, key: Key) -> Any:
    """Reads `text` as a value of the key's kind."""
    if key.optional and text == "None":
        return None
    kind = key.kind
    if kind is str:
        return text
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float):
            return kind(text)
        value = ast.literal_eval(text)
    except (ValueError, KeyError, SyntaxError, MemoryError, RecursionError):
        value = None
    fits = is_kind(value, kind)
    if fits and old:
        fits = all(is_kind(item, type(old[0])) for item in value)
    if not fits:
        shown = kind if old is None else type(old)
        raise ConfigError(
            f"config key {name!r} takes {shown.__name__} values such as {old!r}, not {text!r}"
        )
    return tuple(value)


def _plain(config: ConfigDict) -> ConfigDict:
    """A locked copy of plain values: references resolved, lists as (hashable) tuples."""

    def convert(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: convert(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            return tuple(convert(item) for item in value)
        return value

    return ConfigDict(convert(config.to_dict())).lock()
