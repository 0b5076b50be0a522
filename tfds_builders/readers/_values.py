"""Fields of foreign rows: absent, a value, or of the wrong type, and no two of these confused.

A reader looks at a field through `required` or `optional` alone, and says by a function what it
should be: `optional(row, split_name, "split", default="")`. Only what is missing, null or blank is
absent; whatever else is there is read by the function, or raises Unusable. So a field that has
another type than expected can cost its row, and is never taken for one that is not there.

Functions `(value, name)` for a type raise Unusable, in words that quote none of the value. An
object or a list may also be a text of JSON, and an object a list of pairs, as Parquet's maps are.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from medscope_jax.dialogue.options import choices
from medscope_jax.dialogue.sanitize import clean_words
from medscope_jax.errors import UserError
from tfds_builders.readers._files import parsed
from tfds_builders.record import Unusable

T = TypeVar("T")
# A field's type: (value, name of the field) -> the value as the project has it.
Type = Callable[[Any, str], T]

MAX_WORDS = 20_000  # characters of a question or an answer
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_MAX_WHOLE = 2**53  # beyond it a float does not tell whole numbers apart


def absent(value: Any) -> bool:
    """Whether a field is not there: missing, null, or a text of nothing but blanks."""
    return value is None or (isinstance(value, str) and not value.strip())


def required(row: dict, of: Type[T], *keys: str) -> T:
    """The first of the fields that is there, as `of` reads it; Unusable where none is there."""
    for key in keys:
        if not absent(value := row.get(key.casefold())):
            return _read(value, of, key)
    raise Unusable(f"{keys[0]} is missing" if len(keys) == 1 else f"{', '.join(keys)} are missing")


def optional(row: dict, of: Type[T], key: str, default: Any = None) -> T | Any:
    """The field as `of` reads it; `default` where it is absent."""
    value = row.get(key.casefold())
    return default if absent(value) else _read(value, of, key)


def has(row: dict, *keys: str) -> bool:
    """Whether one of the fields is there, of whatever type."""
    return not all(absent(row.get(key.casefold())) for key in keys)


def _read(value: Any, of: Type[T], name: str) -> T:
    if isinstance(value, Unusable):  # a field that is there twice
        raise Unusable(f"{name} {value}")
    return of(value, name)


def anything(value: Any, name: str) -> Any:
    """A value of any type, which is checked later."""
    return value


def mapping(value: Any, name: str = "the row") -> dict:
    """An object; its keys come without outer blanks and in lower case, as `required` asks for."""
    pairs = from_json(value)
    if isinstance(pairs, dict):
        pairs = list(pairs.items())
    elif isinstance(pairs, (list, tuple)):
        pairs = [_pair(item) for item in pairs]
    if not isinstance(pairs, list) or not all(pair and isinstance(pair[0], str) for pair in pairs):
        raise Unusable(f"{name} is no JSON object")
    made = {}
    for key, field in pairs:
        key = key.strip().casefold()
        made[key] = Unusable("is there twice") if key in made else field
    return made


def _pair(item: Any) -> tuple[Any, Any] | None:
    """An entry of a map that is written as a list: [key, value], or {"key": ..., "value": ...}."""
    if isinstance(item, dict) and set(item) == {"key", "value"}:
        return item["key"], item["value"]
    return tuple(item) if isinstance(item, (list, tuple)) and len(item) == 2 else None


def listing(value: Any, name: str) -> list:
    """The value as a list, also where it is JSON text; Unusable where it is none."""
    value = from_json(value)
    if not isinstance(value, (list, tuple)):
        raise Unusable(f"{name} is no list")
    return list(value)


def is_list(value: Any) -> bool:
    """Whether it is a list of objects, or the JSON of one, rather than a text to be read."""
    found = from_json(value)
    return isinstance(found, (list, tuple)) and all(map(_is_object, found))


def _is_object(value: Any) -> bool:
    return isinstance(from_json(value), dict) or isinstance(value, (list, tuple))


def texts(value: Any, name: str) -> list[str]:
    """The value as a list of strings, also where it is JSON text; Unusable where it is none."""
    value = from_json(value)
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise Unusable(f"{name} is no list of texts")
    return list(value)


def options_of(value: Any, name: str) -> dict[str, str]:
    """The options of a question, as they stand, by their labels: A, B, ... or those they bear.

    A list of texts, an object {"A": "yes", "B": "no"}, or a text: "yes | no", or JSON of the two.
    """
    found = from_json(value)
    if isinstance(found, str) and "|" in found:
        found = found.split("|")
    is_map = isinstance(found, list) and found and all(map(_pair, found))
    if not (is_map or isinstance(found, dict)):
        said = [signs(text, "an option") for text in texts(found, name)]
        return {choice.label: text for choice, text in zip(choices(said), said, strict=True)}
    # Parquet has a field for each letter that any of its rows has: null where a row has less.
    given = {
        key.upper(): _read(text, signs, "an option")
        for key, text in mapping(found, name).items()
        if text is not None
    }
    labels = sorted(given, key=lambda key: (len(key), key))
    shown = [f"{key}. {given[key]}" if key.isdecimal() else given[key] for key in labels]
    # With a gap among them a question would show an option under another letter than its own.
    if [choice.label for choice in choices(shown)] != labels:
        raise Unusable(f"{name} is an object whose keys are not A, B, C, ... or 1, 2, 3, ...")
    return {key: given[key] for key in labels}


def chosen(answer: str, options: Mapping[str, str]) -> str:
    """The one option that an answer is, names by its label, or repeats with or without its label.

    options: their texts by their labels.
    """
    texts = [choice.text for choice in choices(list(options.values()))]
    form = re.fullmatch(r"[(\[]?([A-Za-z]{1,2}|[0-9]{1,2})(?:[.):\]]+ ?(.*))?", answer)
    meant = {
        option
        for (label, option), text in zip(options.items(), texts, strict=True)
        if answer in (option, text)
        or (form and form[1].upper() == label and form[2] in (None, "", text))
    }
    # An option that is there twice is two: its text alone is stored, and judged.
    found = [option for option in options.values() if option in meant]
    if len(found) != 1:
        raise Unusable(f"the answer is {'two' if found else 'none'} of the options")
    return found[0]


def plain_text(value: Any, name: str) -> str:
    """A text, as it stands."""
    if not isinstance(value, str):
        raise Unusable(f"{name} is no text")
    return value


def identifier(value: Any, name: str) -> str:
    """A text without outer blanks; or a whole number, as a text."""
    if isinstance(value, float) and abs(value) < _MAX_WHOLE and value == int(value):
        value = int(value)  # a table with a gap in a column of whole numbers makes floats of them
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise Unusable(f"{name} is neither a text nor a whole number")
    return value.strip()


def words(value: Any, name: str) -> str:
    """A question or an answer on one line; a dash alone, or the like, is none."""
    if isinstance(value, str) and not any(map(str.isalnum, value)):
        raise Unusable(f"{name} is empty")
    return signs(value, name)


def signs(value: Any, name: str) -> str:
    """A text on one line, be it a sign such as "+"."""
    if value is None:
        raise Unusable(f"{name} is missing")
    if not isinstance(value, str):
        raise Unusable(f"{name} is no text")
    if len(value) > MAX_WORDS:
        raise Unusable(f"{name} is longer than {MAX_WORDS} characters")
    try:
        return clean_words(value, name)
    except UserError as error:
        raise Unusable(str(error)) from None


def split_name(value: Any, name: str = "split") -> str:
    """train, validation or test by any of their usual names."""
    if not isinstance(value, str) or value.strip().lower() not in _SPLITS:
        raise Unusable("the split is none of train, validation and test")
    return _SPLITS[value.strip().lower()]


def split_of_file(stem: str) -> str:
    """The split that a file's name ends in ("charades_sta_test", "val"), else ""."""
    return _SPLITS.get(re.split(r"[^a-z]+", stem.lower())[-1], "")


def from_json(value: Any) -> Any:
    """The object or list that a text is the JSON of; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        found = parsed(value, "field")
        return value if isinstance(found, Unusable) else found
    return value
