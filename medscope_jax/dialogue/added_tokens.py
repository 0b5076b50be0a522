"""The tokens that a folder adds to its vocabulary, as transformers adds them.

tokenizer_config.json's added_tokens_decoder lists them with their ids; older folders have
special_tokens_map.json and added_tokens.json instead, or tokenizer.json's own list. Named tokens
that are not listed, such as eos_token, follow. transformers gives each added token the next free
id, whatever a file states: where the two differ, the folder is refused.
"""

from pathlib import Path
from typing import Any, NamedTuple

from medscope_jax.dialogue.bpe_files import TOKENIZER, Bpe
from medscope_jax.errors import UserError
from medscope_jax.strict_json import read_json_object

CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
_NAMED = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_DEFAULTS = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>")
# Switches that would give other ids; all are off in Qwen's files.
_OFF = ("add_prefix_space", "split_special_tokens", "add_bos_token", "add_eos_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_MOST, _LONGEST = 2**12, 2**7  # tokens, and characters of one


class Added(NamedTuple):
    """An added token."""

    id: int
    late: bool  # whether it is searched for in composed text, after the others
    listed: bool  # False: it is only named, as eos_token say, so that its id is new


def added_tokens(bpe: Bpe, folder: Path | None) -> dict[str, Added]:
    """The added tokens by content.

    Args:
        bpe: what the tokens are added to, and those of tokenizer.json itself.
        folder: with tokenizer_config.json and the other files, if there are any; or None.

    Raises:
        UserError: a file is broken, states another id than the token gets, disagrees with
            tokenizer.json, or has a setting that would give other ids.
    """
    stated = _listed(bpe.added, bpe.name)
    named: dict[str, Any] = {}
    if folder is not None:
        stated, named = _of_folder(folder, stated, bpe)
    there = {token["content"] for token in stated.values()}
    tokens = [token for _, token in sorted(stated.items())]
    tokens += [token for content, token in named.items() if content not in there]
    if len(tokens) > _MOST or any(len(token["content"]) > _LONGEST for token in tokens):
        raise UserError(
            f"{bpe.name}: {len(tokens):,} added tokens; {_MOST:,} of at most {_LONGEST} characters "
            "are supported"
        )
    for token in tokens:
        if token.get("single_word") or token.get("lstrip") or token.get("rstrip"):
            name = token["content"][:60]
            raise UserError(f"{bpe.name}: {name!r} swallows its neighbours, which is not supported")
    found: dict[str, Added] = {}
    free = len(bpe.vocab)
    for token in tokens:
        content = token["content"]
        index = bpe.vocab.get(content, free)
        # Named ones are added as special tokens, whatever a list says of them: before composing.
        late = content not in named and _is_normalized(token)
        found.setdefault(content, Added(index, late, content in there))
        free = max(free, index + 1)
    for index, token in stated.items():
        given = found[token["content"]].id
        if given != index:
            raise UserError(
                f"{bpe.name}: the added token {token['content'][:60]!r} is said to have id {index} "
                f"and would get {given}: added ids go on from the vocabulary's {len(bpe.vocab)}"
            )
    return found


def _of_folder(
    folder: Path, own: dict[int, dict], bpe: Bpe
) -> tuple[dict[int, dict[str, Any]], dict[str, dict[str, Any]]]:
    """(tokens by stated id, named tokens by content), of all the files that list tokens."""
    config = _optional(folder / CONFIG)
    if config.get("tokenizer_class") not in (None, *_CLASSES):
        kind = repr(config["tokenizer_class"])[:60]
        raise UserError(f"{folder / CONFIG}: tokenizer_class is {kind}, not Qwen's")
    for key in _OFF:
        if config.get(key) not in (None, False):
            raise UserError(
                f"{folder / CONFIG}: {key}={repr(config[key])[:60]} would give other ids, which is "
                "not supported: set it to false if the model was trained without"
            )
    # The same list by its older name, which later files may still use.
    config.setdefault("extra_special_tokens", config.pop("additional_special_tokens", None))
    listed = config.get("added_tokens_decoder")
    if listed is not None:
        stated = _by_id(listed, folder / CONFIG)
    else:
        config |= _optional(folder / SPECIAL)
        stated = _older(folder / ADDED, own)
    for index, token in own.items():
        if _essence(stated.get(index)) != _essence(token):
            raise UserError(
                f"{folder}: the files disagree about id {index}, {token['content'][:60]!r} in "
                f"{TOKENIZER}: take the tokenizer files of one and the same model"
            )
    return stated, _named(config, folder / CONFIG)


def _older(file: Path, own: dict[int, dict]) -> dict[int, dict[str, Any]]:
    """The tokens of added_tokens.json, {content: id}, and those of tokenizer.json, by id."""
    stated: dict[int, dict[str, Any]] = {}
    for content, index in _optional(file).items():
        if type(index) is not int or index < 0 or index in stated or not content:
            raise UserError(f"{file}: {content[:60]!r} has no id of its own: {repr(index)[:60]}")
        stated[index] = {"content": content}
    same = [i for i in own if i in stated and stated[i]["content"] == own[i]["content"]]
    return own | stated | {index: own[index] for index in same}


def _named(config: dict[str, Any], file: Path) -> dict[str, dict[str, Any]]:
    """The tokens that have a name, such as eos_token, and other special ones, by content."""
    values = [config.get(key, _DEFAULTS.get(key)) for key in _NAMED]
    others = (key for key in config if key.endswith("_token") and key not in (*_NAMED, *_OFF))
    values += [config[key] for key in others if isinstance(config[key], str | dict)]
    extra, older = config.get("extra_special_tokens"), config.get("additional_special_tokens")
    more, before = _extra(extra, file), _extra(older, file)
    if not more or isinstance(extra, dict):  # beside named ones, a list by the older name stands
        more = more + before
    named: dict[str, dict[str, Any]] = {}
    for value in [*(value for value in values if value), *more]:
        token = value if isinstance(value, dict) else {"content": value}
        token = _token({**token, "special": True}, file)
        named.setdefault(token["content"], token)
    return named


def _extra(tokens: Any, file: Path) -> list[Any]:
    """A list of special tokens, which may be an object of named ones."""
    tokens = list(tokens.values()) if isinstance(tokens, dict) else tokens
    if tokens is None:
        return []
    if not isinstance(tokens, list):
        raise UserError(f"{file}: its additional special tokens are {repr(tokens)[:60]}, no list")
    return tokens


def _by_id(listed: Any, file: Path) -> dict[int, dict[str, Any]]:
    """added_tokens_decoder: {"151643": {"content": ...}, ...}."""
    ids = list(listed) if isinstance(listed, dict) else [""]
    if not all(key.isascii() and key.isdigit() and len(key) < 19 for key in ids):
        raise UserError(f"{file}: added_tokens_decoder must give a token for each id")
    if len({int(key) for key in ids}) != len(ids):
        raise UserError(f"{file}: added_tokens_decoder gives an id twice")
    return {int(key): _token(value, file) for key, value in listed.items()}


def _listed(added: list[Any], name: str) -> dict[int, dict[str, Any]]:
    """tokenizer.json's added_tokens: [{"id": 151643, "content": ...}, ...]."""
    tokens: dict[int, dict[str, Any]] = {}
    for value in added:
        index = value.get("id") if isinstance(value, dict) else None
        if type(index) is not int or index in tokens:
            raise UserError(
                f"{name}: added_tokens has {repr(value)[:60]}, without an id of its own"
            )
        tokens[index] = _token({k: v for k, v in value.items() if k != "id"}, name)
    if list(tokens) != sorted(tokens):
        raise UserError(
            f"{name}: added_tokens is not in the order of its ids, and libraries give the ids in "
            "the order of the list: sort it by id, as they write it"
        )
    return tokens


def _token(value: Any, file: Path | str) -> dict[str, Any]:
    """The arguments of the library's AddedToken, checked."""
    value = {k: v for k, v in value.items() if k != "__type"} if isinstance(value, dict) else {}
    content, flags = value.get("content"), {k: v for k, v in value.items() if k != "content"}
    right = isinstance(content, str) and content and set(flags) <= set(_FLAGS)
    if not right or not all(isinstance(flag, bool) for flag in flags.values()):
        raise UserError(f"{file}: an added token is {repr(value)[:60]}, without content and flags")
    return value


def _essence(token: dict[str, Any] | None) -> tuple | None:
    """What the ids depend on of a token."""
    if token is None:
        return None
    flags = (token.get(flag, False) for flag in ("single_word", "lstrip", "rstrip"))
    return token["content"], *flags, _is_normalized(token)


def _is_normalized(token: dict[str, Any]) -> bool:
    return token.get("normalized", not token.get("special", False))


def _optional(file: Path) -> dict[str, Any]:
    return read_json_object(file) if file.exists() else {}
