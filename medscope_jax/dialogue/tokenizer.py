"""Tokenizers: text <-> ids, and the bytes behind every id for the on-device interpreter.

The phantom suite's own tokenizer is SentencePiece. Three kinds of pieces are fixed before training:
the protocol's tags, so that each is one id; its constant phrases, so that episodes are short enough
for a laptop; and the ticks of the frame bank's clock, "0.0", "1.0", ..., so that a time is one
token, which a model can copy from a frame's stamp into a call. The rest is byte-pair encoding with
byte fallback: no text is out of vocabulary, and every id stands for known bytes.
"""

import dataclasses
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import sentencepiece

from medscope_jax.dialogue import protocol
from medscope_jax.errors import UserError
from medscope_jax.manifest import read_checked, write_checked

_SPACE = "\u2581"  # SentencePiece writes a space as this character inside its pieces.
_PROBE = f"a{_SPACE}\n\u00e9"  # comes back only if no text is altered and any byte has a piece
_PHRASE_LIMIT = 80  # characters; the interpreter's byte table is as wide as the longest piece


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """What the project needs of a tokenizer.

    Attributes:
        encode: text -> ids; a tag becomes its single id.
        pieces: the bytes of each id.
        serialized: the file's content, for saving.
        ends: the ids that end an assistant's turn.
        mixed: the function behind encode_parts; None where no text holds tags.
    """

    encode: Callable[[str], list[int]]
    pieces: tuple[bytes, ...] = dataclasses.field(repr=False)
    serialized: bytes = dataclasses.field(repr=False)
    ends: tuple[int, ...]
    mixed: Callable[[Sequence[tuple[str, bool]]], list[int]] | None = None

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.pieces)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; bytes that are no valid UTF-8 become U+FFFD."""
        return b"".join(map(self.pieces.__getitem__, ids)).decode("utf-8", errors="replace")

    def tag(self, text: str) -> int:
        """The id of a text that must be one token, such as a tag; ValueError if it is not."""
        ids = self.encode(text)
        if len(ids) != 1:
            raise ValueError(f"{text!r} is {len(ids)} tokens in this tokenizer, not one")
        return ids[0]


def encode_parts(tokenizer: Tokenizer, parts: Iterable[tuple[str, bool]]) -> list[int]:
    """Ids of a text given as (piece, trusted) parts: tags count in trusted pieces only.

    What a user typed is not trusted: "<|im_end|>" in a question is plain text, not the end of the
    user's turn. Where the untrusted pieces make no tag, the ids are those of the whole text.
    """
    parts = list(parts)
    if tokenizer.mixed is None:
        return tokenizer.encode("".join(text for text, _ in parts))
    return tokenizer.mixed(parts)


def pad_vocabulary(tokenizer: Tokenizer, size: int) -> Tokenizer:
    """The tokenizer with at least `size` ids; those that are added stand for no bytes.

    A model's embedding may have more rows than there are pieces, and an untrained one samples them.
    """
    missing = (b"",) * (size - tokenizer.vocab_size)
    return dataclasses.replace(tokenizer, pieces=tokenizer.pieces + missing)


def split_tags(tags: Iterable[str]) -> Callable[[str], list[str]]:
    """A function that cuts a text before and after each tag, the longest where several match."""
    longest_first = sorted(tags, key=len, reverse=True)
    if not longest_first:
        return lambda text: [text] if text else []
    pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
    return lambda text: [piece for piece in pattern.split(text) if piece]


def train_tokenizer(corpus: Iterable[str], vocab_size: int, ticks: int) -> Tokenizer:
    """Trains the SentencePiece tokenizer on texts; "0.0" ... f"{ticks - 1}.0" are single pieces.

    Deterministic for the same corpus. `vocab_size` is an upper bound: a corpus too small for it
    gives fewer pieces.
    """
    times = [f"{second}.0" for second in range(ticks)]
    phrases = [p.replace(" ", _SPACE) for p in protocol.constant_phrases(_PHRASE_LIMIT)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        user_defined_symbols=[*protocol.TAGS, *phrases, *times],
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        character_coverage=1.0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        unk_id=0,
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece_tokenizer(model.getvalue())


def sentencepiece_tokenizer(serialized: bytes) -> Tokenizer:
    """A tokenizer from a serialized SentencePiece model of train_tokenizer's.

    Raises:
        RuntimeError: it is no such model, or so damaged that a tag is not one id or text changes.
    """
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=serialized)
        pieces = tuple(_piece_bytes(processor, i) for i in range(processor.get_piece_size()))
    except (ValueError, IndexError) as error:  # the library's, of pieces that are no UTF-8
        raise RuntimeError(f"a piece is broken: {error}") from error
    # SentencePiece's sign for a space is encoded by its bytes where a text itself holds it.
    sign = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE.encode()]

    def encode(text: str) -> list[int]:
        first, *rest = text.split(_SPACE)
        ids = processor.encode(first)
        for part in rest:
            ids += sign + processor.encode(part)
        return ids

    tags = [tag for tag in protocol.TAGS if tag.startswith("<")]
    cut = split_tags(tags)

    def count(text: str) -> int:
        return sum(piece in tags for piece in cut(text))

    def untagged(text: str) -> list[int]:
        """Cuts each tag after its "<", so that no piece for the whole of it applies."""
        ids = []
        for piece in cut(text):
            ids += encode("<") + encode(piece[1:]) if piece in tags else encode(piece)
        return ids

    def mixed(parts: Sequence[tuple[str, bool]]) -> list[int]:
        whole = "".join(text for text, _ in parts)
        trusted = [text for text, is_trusted in parts if is_trusted]
        # Counted in the whole text: two untrusted pieces may make a tag together.
        if count(whole) == sum(map(count, trusted)):
            return encode(whole)
        encoded = (encode(text) if is_trusted else untagged(text) for text, is_trusted in parts)
        return [index for ids in encoded for index in ids]

    tokenizer = Tokenizer(
        encode=encode,
        pieces=pieces,
        serialized=serialized,
        ends=(processor.piece_to_id(protocol.IM_END),),
        mixed=mixed,
    )
    if any(len(encode(tag)) != 1 for tag in protocol.TAGS):
        raise RuntimeError("a tag of the protocol is not one piece")
    if tokenizer.decode(encode(_PROBE)) != _PROBE:
        raise RuntimeError("text does not come back as it was")
    return tokenizer


def _piece_bytes(processor: sentencepiece.SentencePieceProcessor, index: int) -> bytes:
    if processor.is_control(index) or processor.is_unknown(index):
        return b""
    piece = processor.id_to_piece(index)
    if processor.is_byte(index):
        return bytes([int(piece[1:-1], 16)])  # "<0x0A>"
    return piece.replace(_SPACE, " ").encode()


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Writes the tokenizer's file and its checksum; a run may be killed at any moment.

    Raises:
        UserError: a checksum of another tokenizer is there: a model was trained with its ids.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checked(path, tokenizer.serialized, "put back a copy, or choose another --workdir")


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads a tokenizer's file; UserError where it is missing, broken or not as it was written."""
    again = "put back a copy, or delete it and start the same training again, which makes it again"
    try:
        return sentencepiece_tokenizer(read_checked(path, again))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: no tokenizer there ({reason}); train first") from error
    except RuntimeError as error:
        raise UserError(f"{path}: not a SentencePiece model; delete it and train again") from error
