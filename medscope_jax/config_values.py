"""A config held against the schema: its keys, the kinds of its values, and their ranges."""

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from medscope_jax.config_schema import KEYS, Key
from medscope_jax.config_source import FOLDER, call_get_config
from medscope_jax.errors import ConfigError, UserError, closest

_EXAMPLE = FOLDER / "cpu.py"  # has a value for every key
_PLAIN = (bool, int, float, str, type(None), tuple, list)


def leaves(config: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that a config holds."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def value_at(config: Mapping, name: str) -> Any:
    """The value of a dotted key; KeyError or TypeError where there is none."""
    value: Any = config
    for part in name.split("."):
        value = value[part]
    return value


def check_keys(
    config: ConfigDict,
    keys: Mapping[str, Key] = KEYS,
    path: Path | str = "config",
    open_sections: Collection[str] = (),
) -> None:
    """Refuses a config whose keys, or kinds of values, are not those of the schema.

    Args:
      config: what a config file or a run's config.json says.
      keys: the schema.
      path: the file, as messages name it.
      open_sections: sections that may have other keys, too, such as "model.text".

    Raises:
      ConfigError: one line that names the key, and the closest one for an unknown key.
    """
    tree: dict[str, Any] = {}
    for name, key in keys.items():
        *sections, last = name.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = key
    _check_section(config, tree, path, "", open_sections)


def _check_section(
    config: ConfigDict, known: dict, path: Path | str, prefix: str, open_sections: Collection[str]
) -> None:
    for key in sorted(config):
        if key not in known and prefix[:-1] not in open_sections:
            hint = closest(key[:80], known) or f"; known: {', '.join(sorted(known))}"
            raise ConfigError(f"{path}: unknown key {prefix}{key[:80]}{hint}")
    for key in sorted(known):
        name, expected = prefix + key, known[key]
        if key not in config:
            raise ConfigError(f"{path}: key {name} is missing{_example(name, '; {} has {}')}")
        value = config[key]
        if isinstance(value, ConfigDict) != isinstance(expected, dict):
            kinds = ("a section", "a value")
            wanted, found = kinds if isinstance(expected, dict) else kinds[::-1]
            raise ConfigError(f"{path}: {name} must be {wanted}, but is {found}")
        if isinstance(value, ConfigDict):
            _check_section(value, expected, path, f"{name}.", open_sections)
        elif not isinstance(value, _PLAIN):
            raise ConfigError(f"{path}: {name} is {type(value).__name__}, which JSON can't hold")
        elif not is_kind(value, expected.kind) and not (value is None and expected.optional):
            like = _example(name, "something like {1}") or expected.takes
            raise ConfigError(f"{path}: {name} is {repr(value)[:80]}; expected {like}")


def _example(name: str, text: str) -> str:
    """The text with the laptop config's file name and value filled in; "" where it has none."""
    try:
        value = value_at(call_get_config(_EXAMPLE, ""), name)
    except (ConfigError, KeyError, TypeError):
        return ""
    shown = "a section" if isinstance(value, ConfigDict) else repr(value)
    return text.format(_EXAMPLE.name, shown)


def is_kind(value: Any, kind: type) -> bool:
    """Whether a value is of a Key's kind: lists are tuples, and whole numbers do for floats."""
    if kind is tuple:
        return isinstance(value, (tuple, list))
    return type(value) is kind or (kind is float and type(value) is int)


def check_ranges(config: ConfigDict, keys: Mapping[str, Key] = KEYS) -> None:
    """Refuses a value that is out of its key's range.

    Raises:
      UserError: one line that names the key.
    """
    for name, key in keys.items():
        value = value_at(config, name)
        if value is None and key.optional:
            continue
        if fault := _fault(value, key):
            raise UserError(f"config.{name} is {repr(value)[:80]}; {fault}")


def _fault(value: Any, key: Key) -> str:
    """What a value must be and is not; "" if it is."""
    if key.choices and value not in key.choices:
        if len(key.choices) > 2:
            return f"use one of {', '.join(key.choices)}"
        return f"use {' or '.join(map(repr, key.choices))}"
    bounds = (key.least, key.above, key.most)
    if bounds == (None, None, None):
        return ""
    if key.kind is tuple and not all(isinstance(number, int) for number in value):
        return "it needs whole numbers"
    for number in value if key.kind is tuple else (value,):
        if not isinstance(number, (int, float)) or not math.isfinite(number):
            return "it must be a finite number"
        if key.least is not None and number < key.least:
            words = "it needs whole numbers of" if key.kind is tuple else "it must be"
            return f"{words} at least {key.least}"
        if key.above is not None and number <= key.above:
            return f"it must be above {key.above}"
        if key.most is not None and number > key.most:
            return f"it must be at most {key.most}"
    return ""


def with_earlier(values: dict[str, Any], keys: Mapping[str, Key] = KEYS) -> dict[str, Any]:
    """The values of a run's config.json with the keys that came after the run was started."""
    values = {k: dict(v) if isinstance(v, dict) else v for k, v in values.items()}
    for name, key in keys.items():
        section, _, last = name.rpartition(".")
        place = values.get(section) if section else values
        if key.earlier is not None and isinstance(place, dict):
            place.setdefault(last, key.earlier)
    return values
