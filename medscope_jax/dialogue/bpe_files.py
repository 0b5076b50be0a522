"""Qwen's byte-level BPE as a folder holds it: tokenizer.json, or vocab.json and merges.txt.

Only what makes the ids is taken from the files, and checked: the vocabulary, the merges, the added
tokens. How text is cut into words is Qwen's own and written down here, as in transformers; a file
that says otherwise is refused by name. Truncation, padding and offsets are left to their files.

A damaged file is noticed: each byte must have a letter, each merge must make a token, a merge must
make each longer token, and the ids must be 0, 1, 2 ... without a gap.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from medscope_jax.errors import UserError, one_line
from medscope_jax.files import open_regular
from medscope_jax.strict_json import parse_json, read_json_object

TOKENIZER, VOCAB, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
WORDS = (  # what transformers cuts a text into before it merges letters
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_STEPS = {
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ],
    },
}
# Settings of the model on which no id depends, as every byte has a letter; and those that matter.
_IDLE = ("type", "vocab", "merges", "unk_token", "fuse_unk", "byte_fallback")
_PLAIN = {
    "dropout": (None, 0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "ignore_merges": (None, False),
}
_MOST = 2**24  # bytes of a file; the published ones have at most 11 million


class Bpe(NamedTuple):
    """What makes ids, before the added tokens."""

    vocab: dict[str, int]  # spelled in byte_letters
    merges: list[tuple[str, str]]  # in the order of their priority
    added: list[dict[str, Any]]  # tokenizer.json's added_tokens, as it has them
    serialized: bytes  # tokenizer.json, b"" where there is none
    name: str  # of the file, for errors


def read_bpe(path: Path) -> Bpe:
    """The files of a folder, or a tokenizer.json.

    Raises:
        UserError: one line: no such file, or a damaged one, or one of another kind of tokenizer.
    """
    file = path / TOKENIZER if path.is_dir() else path
    if not file.exists() and (path / VOCAB).exists() and (path / MERGES).exists():
        merges = _read(path / MERGES).decode(errors="replace").split("\n")
        lines = [line.removesuffix("\r") for line in merges[: -1 if merges[-1] == "" else None]]
        lines = [line for line in lines if not line.startswith("#version")]
        vocab = read_json_object(path / VOCAB, _MOST)
        return _checked(vocab, lines, [], b"", f"{path / VOCAB} with {MERGES}")
    return _parse(_read(file), str(file))


def _parse(serialized: bytes, name: str) -> Bpe:
    """The content of a tokenizer.json; as read_bpe."""
    try:
        values = parse_json(serialized)
    except ValueError as error:
        raise UserError(f"{name}: not a tokenizer.json ({one_line(error)[:200]})") from error
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise UserError(f"{name}: not a tokenizer.json (it has no model)")
    model = values["model"]
    kinds = (model.get("type", "BPE"), (values.get("decoder") or {}))
    if kinds[0] != "BPE" or not isinstance(kinds[1], dict) or kinds[1].get("type") != "ByteLevel":
        raise UserError(f"{name}: not a byte-level BPE tokenizer such as Qwen's")
    for key, wanted in _STEPS.items():
        _require(name, key, values.get(key), _plain(values.get(key)) == wanted)
    _require(name, "post_processor", values.get("post_processor"), _adds_nothing(values))
    for key, value in model.items():
        if key not in _IDLE:
            known = any(value == plain and value is not True for plain in _PLAIN.get(key, ()))
            _require(name, f"model.{key}", value, known)
    added = values.get("added_tokens") or []
    return _checked(model.get("vocab"), model.get("merges"), added, serialized, name)


def build(bpe: Bpe) -> tokenizers.Tokenizer:
    """The library's tokenizer, as transformers builds it; without the added tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=bpe.vocab, merges=bpe.merges))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, letters])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in a byte-level vocabulary: letter -> byte.

    Bytes that print as Latin-1 stand for themselves, the others for U+0100, U+0101, ... in order
    (the convention of GPT-2's published tokenizer).
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printing]
    letters = {chr(byte): byte for byte in printing}
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}


def check_spelling(bpe: Bpe, tags: Collection[str]) -> None:
    """Refuses a vocabulary (without the added tokens `tags`) that no training can have made.

    Raises:
        UserError: a byte has no letter, a token is not written in letters, or no merge makes it.
    """
    letters, spelled = set(byte_letters()), bpe.vocab.keys() - tags
    if missing := letters - spelled:
        raise UserError(f"{bpe.name}: no token for the byte that is written {min(missing)!r}")
    if strange := {token for token in spelled if not token or not letters.issuperset(token)}:
        raise UserError(f"{bpe.name}: {min(strange)[:60]!r} is no token of a byte-level vocabulary")
    made = {first + second for first, second in bpe.merges}
    if unmade := {token for token in spelled if len(token) > 1} - made:
        raise UserError(f"{bpe.name}: no merge makes {min(unmade)[:60]!r}; the file is damaged")


def _checked(vocab: Any, lines: Any, added: Any, serialized: bytes, name: str) -> Bpe:
    """The parts of a tokenizer, each of its kind, and merges that fit the vocabulary."""
    if not isinstance(vocab, dict) or not isinstance(lines, list) or not isinstance(added, list):
        raise UserError(f"{name}: it lacks a vocabulary, merges or added_tokens of their kind")
    ids = vocab.values()
    if set(map(type, ids)) != {int} or set(ids) != set(range(len(ids))):
        raise UserError(f"{name}: the ids of its {len(ids):,} tokens are not 0 to {len(ids) - 1:,}")
    merges: list = [
        tuple(line.split(" ") if isinstance(line, str) else _strings(line)) for line in lines
    ]
    for number, pair in enumerate(merges, 1):
        if len(pair) != 2 or not (pair[0] in vocab and pair[1] in vocab and "".join(pair) in vocab):
            raise UserError(f"{name}: merge {number} makes no token of the vocabulary")
    if len(set(merges)) != len(merges):
        raise UserError(f"{name}: a merge is there twice")
    return Bpe(vocab, merges, added, serialized, name)


def _strings(line: Any) -> list[str]:
    """A merge's two parts; [] where it is no list of strings."""
    right = isinstance(line, list) and all(isinstance(part, str) for part in line)
    return line if right else []


def _plain(value: Any) -> Any:
    """A step's settings without those that change offsets alone."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items() if key != "trim_offsets"}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _adds_nothing(values: dict[str, Any]) -> bool:
    """Whether the post-processor leaves the ids as they are."""
    step = values.get("post_processor")
    if step is None:
        return True
    if not isinstance(step, dict):
        return False
    if step.get("type") == "Sequence" and isinstance(step.get("processors"), list):
        return all(_adds_nothing({"post_processor": part}) for part in step["processors"])
    if step.get("type") == "TemplateProcessing" and isinstance(step.get("single"), list):
        return all(isinstance(part, dict) and [*part] == ["Sequence"] for part in step["single"])
    return step.get("type") == "ByteLevel"


def _require(name: str, key: str, value: Any, right: bool) -> None:
    if not right:
        raise UserError(
            f"{name}: {key} is {json.dumps(value)[:100]}, which is not Qwen's and would give other "
            "ids: take the tokenizer files of the model that this one was made of"
        )


def _read(file: Path) -> bytes:
    try:
        with open_regular(file) as stream:
            data = stream.read(_MOST + 1)
    except OSError as error:
        why = error.strerror or error
        raise UserError(
            f"{file}: no tokenizer there ({why}); "
            f"a folder needs {TOKENIZER}, or {VOCAB} and {MERGES}"
        ) from error
    if len(data) > _MOST:
        raise UserError(f"{file} is longer than {_MOST:,} bytes, so it is no tokenizer's")
    return data
