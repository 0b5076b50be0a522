"""Qwen's byte-level BPE of a Hugging Face folder, by the `tokenizers` library.

The ids are those of transformers' tokenizer of the same folder. Beyond it there are the bytes of
every id, for the on-device interpreter, and a way to encode a user's text in which tags are plain
text. In Qwen2.5's file <tool_call> and </tool_call> are single tokens, as are <|im_start|>,
<|im_end|> and the vision tags; <think>, <answer> and <tool_response> are several tokens each.

Text is first brought into Unicode's composed form (NFC), as Qwen's file asks: "e" + U+0301 is
decoded as "\\u00e9".
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers

from medscope_jax.dialogue import protocol
from medscope_jax.dialogue.added_tokens import Added, added_tokens
from medscope_jax.dialogue.bpe_files import (
    Bpe,
    build,
    byte_letters,
    check_spelling,
    read_bpe,
)
from medscope_jax.dialogue.tokenizer import Tokenizer
from medscope_jax.dialogue.turn_ends import turn_ends
from medscope_jax.errors import UserError

# Tags that the rollout loop and the frames' text need as one id each.
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
_HALF = re.compile("[\ud800-\udfff]")  # of a character, as JSON can hold them


def load_qwen_tokenizer(path: Path | str, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer of a Hugging Face folder, or of a tokenizer.json itself.

    Args:
        path: a folder with a tokenizer.json, or with vocab.json and merges.txt; the files beside
            them (added tokens, generation_config.json) count as in transformers. Or a
            tokenizer.json, which then counts alone.
        vocab_size: rows of the model's embedding (config.json's vocab_size), which may be more than
            there are tokens. Ids beyond the last token stand for no bytes. None: no such ids.

    Raises:
        UserError: no such file, a damaged one, not Qwen's byte-level BPE, a tag that is not one
            token, more tokens than vocab_size, or an eos_token_id that can't end a turn.
    """
    path = Path(path)
    return _tokenizer(read_bpe(path), path if path.is_dir() else None, vocab_size)


def _tokenizer(bpe: Bpe, folder: Path | None, vocab_size: int | None) -> Tokenizer:
    added = added_tokens(bpe, folder)
    tags = {tag: token.id for tag, token in added.items()}
    # A tag that is not in the files would get an id that the model was not trained with.
    missing = [tag for tag in SINGLE_TAGS if tag not in added or not added[tag].listed]
    if missing:
        raise UserError(
            f"{bpe.name}: {missing[0]} is not a token of its own, as the protocol needs"
        )
    check_spelling(bpe, tags)
    pieces = _pieces(bpe.vocab, tags, vocab_size, bpe.name)
    mixed = _mixed(build(bpe), added)
    return Tokenizer(
        encode=lambda text: mixed([(text, True)]),
        pieces=pieces,
        serialized=bpe.serialized,
        ends=turn_ends(folder, pieces, tags) if folder else (tags[protocol.IM_END],),
        mixed=mixed,
    )


def _mixed(
    plain: tokenizers.Tokenizer, added: Mapping[str, Added]
) -> Callable[[Sequence[tuple[str, bool]]], list[int]]:
    """The function behind encode_parts; plain: the library's tokenizer without added tokens."""
    compose = normalizers.NFC().normalize_str
    late_tags = {compose(tag): token.id for tag, token in added.items() if token.late}
    early = _finder({tag: token.id for tag, token in added.items() if not token.late})
    late = _finder(late_tags)

    def cut(part: str) -> Iterator[str | int]:
        """A trusted text as ids of added tokens and the texts between them."""
        for piece in early(part):
            if late_tags and isinstance(piece, str):
                yield from late(compose(_joined(piece)))
            else:
                yield piece

    def mixed(parts: Sequence[tuple[str, bool]]) -> list[int]:
        ids, text = [], ""
        for part, trusted in parts:
            for piece in cut(part) if trusted else [part]:
                if isinstance(piece, int):
                    ids += [*_ids(plain, text), piece]
                    text = ""
                else:
                    text += piece
        return ids + _ids(plain, text)

    return mixed


def _finder(tags: Mapping[str, int]) -> Callable[[str], list[str | int]]:
    """A function that cuts a text into ids of tags and the texts between.

    It is the library's tokenizer with the tags as its only tokens, so that it finds what
    transformers' finds: of several tags that begin at one character, the longest.
    """
    finder = tokenizers.Tokenizer(models.BPE())
    finder.add_tokens([tokenizers.AddedToken(tag, normalized=False) for tag in tags])
    ids = {finder.token_to_id(tag): index for tag, index in tags.items()}

    def find(text: str) -> list[str | int]:
        found = finder.encode(_HALF.sub("\ufffd", text), add_special_tokens=False)
        pieces: list[str | int] = []
        start = 0
        for index, (begin, end) in zip(found.ids, found.offsets, strict=True):
            pieces += [text[start:begin], ids[index]]
            start = end
        return [piece for piece in [*pieces, text[start:]] if piece != ""]

    return find


def _pieces(
    vocab: Mapping[str, int], tags: Mapping[str, int], size: int | None, name: str
) -> tuple[bytes, ...]:
    """The bytes of each id, b"" where no token has it."""
    used = max([*vocab.values(), *tags.values()]) + 1
    if size is not None and size < used:
        raise UserError(f"{name}: {used} tokens do not fit the model's vocab_size {size}")
    pieces = [b""] * (size or used)
    letters = byte_letters()
    for token, index in vocab.items():
        if token not in tags:
            pieces[index] = bytes(letters[letter] for letter in token)
    for tag, index in tags.items():
        pieces[index] = tag.encode()
    return tuple(pieces)


def _ids(plain: tokenizers.Tokenizer, text: str) -> list[int]:
    return plain.encode(_joined(text), add_special_tokens=False).ids


def _joined(text: str) -> str:
    """The text with pairs of surrogates as characters, and lone ones as U+FFFD."""
    if not _HALF.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
