"""Qwen's byte-level BPE from a Hugging Face folder's tokenizer.json, by the `tokenizers` library.

The ids are those of transformers' tokenizer of the same folder. What differs is what this project
needs: the bytes of every id, for the on-device interpreter, and a way to encode a user's text in
which tags are mere text. In Qwen2.5's file <tool_call> and </tool_call> are single tokens, as are
<|im_start|>, <|im_end|> and the vision tags; <think>, <answer> and <tool_response> are not: they
are spelled in several tokens, like any word.

Text is brought into Unicode's composed form (NFC) first, as Qwen's file asks: "e" + U+0301 comes
back as "\\u00e9".
"""

import json
from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models

from medscope_jax.dialogue import protocol
from medscope_jax.dialogue.tokenizer import Tokenizer, split_tags
from medscope_jax.errors import UserError

# What the rollout loop and the frames need to find by one id.
SINGLE_TAGS = (
    protocol.PAD,
    protocol.IM_START,
    protocol.IM_END,
    protocol.IMAGE,
    protocol.VISION_START,
    protocol.VISION_END,
    protocol.TOOL_CALL,
    protocol.TOOL_CALL_END,
)


def load_qwen_tokenizer(path: Path | str, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer of a Hugging Face folder, or of a tokenizer.json itself.

    Args:
        path: a folder with a tokenizer.json, or that file.
        vocab_size: rows of the model's embedding (config.json's vocab_size), of which the
            checkpoints have more than there are tokens. Ids beyond the last token stand for no
            bytes. None: no ids beyond it.

    Raises:
        UserError: no such file, not a byte-level BPE, a tag that is not one token, or more tokens
            than vocab_size.
    """
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        serialized = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: no tokenizer there ({error.strerror})") from error
    return qwen_tokenizer(serialized, vocab_size, str(path))


def qwen_tokenizer(
    serialized: bytes, vocab_size: int | None = None, name: str = "tokenizer.json"
) -> Tokenizer:
    """As load_qwen_tokenizer, from the file's content; name: what errors call it."""
    plain, added = _read(serialized, name)
    trimmed = [t["content"] for t in added if t["lstrip"] or t["rstrip"] or t["single_word"]]
    if trimmed:
        raise UserError(f"{name}: {trimmed[0]!r} swallows its neighbours, which is not supported")
    tags = {token["content"]: token["id"] for token in added}
    missing = [tag for tag in SINGLE_TAGS if tag not in tags]
    if missing:
        raise UserError(f"{name}: {missing[0]} is not a token of its own, as the protocol needs")

    def mixed(parts: Sequence[tuple[str, bool]]) -> list[int]:
        ids, text = [], ""
        for part, trusted in parts:
            for piece in split_tags(part, tags) if trusted else [part]:
                if trusted and piece in tags:
                    ids += [*_ids(plain, text), tags[piece]]
                    text = ""
                else:
                    text += piece
        return ids + _ids(plain, text)

    return Tokenizer(
        encode=lambda text: mixed([(text, True)]),
        pieces=_pieces(plain.get_vocab(), tags, vocab_size, name),
        serialized=serialized,
        mixed=mixed,
    )


def _read(serialized: bytes, name: str) -> tuple[tokenizers.Tokenizer, list[dict]]:
    """The library's tokenizer without the added tokens, so that it finds no tag; and those."""
    try:
        description = json.loads(serialized)
        added = description["added_tokens"]
        plain = tokenizers.Tokenizer.from_str(json.dumps({**description, "added_tokens": []}))
    except Exception as error:  # the library raises bare Exception where it can't read a file
        raise UserError(f"{name}: not a tokenizer.json ({error})") from error
    byte_level = isinstance(plain.decoder, decoders.ByteLevel)
    if not (byte_level and isinstance(plain.model, models.BPE)):
        raise UserError(f"{name}: not a byte-level BPE tokenizer such as Qwen's")
    return plain, added


def byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in a byte-level vocabulary: letter -> byte.

    Bytes that print as Latin-1 stand for themselves, the others for U+0100, U+0101, ... in order
    (the convention of GPT-2's published tokenizer).
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printing]
    letters = {chr(byte): byte for byte in printing}
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}


def _pieces(vocab: dict[str, int], tags: dict[str, int], size: int | None, name: str):
    """The bytes of each id, b"" where no token has it."""
    used = max([*vocab.values(), *tags.values()]) + 1
    if size is not None and size < used:
        raise UserError(f"{name}: {used} tokens do not fit the model's vocab_size {size}")
    pieces = [b""] * (size or used)
    letters = byte_letters()
    for token, index in vocab.items():
        pieces[index] = bytes(letters[letter] for letter in token)
    for tag, index in tags.items():
        pieces[index] = tag.encode()
    return tuple(pieces)


def _ids(plain: tokenizers.Tokenizer, text: str) -> list[int]:
    try:
        text.encode()
    except UnicodeEncodeError:  # JSON can hold surrogates: pairs join, lone ones become U+FFFD
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return plain.encode(text, add_special_tokens=False).ids
