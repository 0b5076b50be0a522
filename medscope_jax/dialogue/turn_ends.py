"""The token ids that end an assistant's turn, as the files of a model's folder state them.

Models of Qwen's family end a turn with <|im_end|> or with <|endoftext|>. The eos_token_id of
generation_config.json, one id or a list, says which. Without one there, config.json's counts, at
its top or in text_config, as in transformers. <|im_end|> always ends a turn: the chat template has
it.
"""

from collections.abc import Sequence
from pathlib import Path

from medscope_jax.dialogue import protocol
from medscope_jax.errors import UserError
from medscope_jax.strict_json import read_json_object

_GENERATION, _CONFIG, _KEY = "generation_config.json", "config.json", "eos_token_id"
_MOST = 64  # ids


def stated_ends(folder: Path) -> tuple[list[int], bool]:
    """The ids that a folder's files state, and whether they were stated for this very model.

    False: they come from the configuration, which may only repeat the family's defaults.

    Raises:
        UserError: a file can't be read, or its eos_token_id is no id and no list of ids.
    """
    if (folder / _GENERATION).exists():
        values = read_json_object(folder / _GENERATION)
        if ids := _ids(values.get(_KEY), folder / _GENERATION):
            return ids, values.get("_from_model_config") is not True
    if not (folder / _CONFIG).exists():
        return [], False
    values = read_json_object(folder / _CONFIG)
    text = values.get("text_config")
    nested = text.get(_KEY) if isinstance(text, dict) else None
    return _ids(nested if values.get(_KEY) is None else values[_KEY], folder / _CONFIG), False


def turn_ends(folder: Path, pieces: Sequence[bytes], tags: dict[str, int]) -> tuple[int, ...]:
    """The ids that end a turn: <|im_end|>'s first, then those that the folder states.

    </tool_call> is not among them: a call ends a turn too, but the row goes on.

    Args:
        folder: with generation_config.json and config.json, if there are any.
        pieces: the bytes of each id of the model's vocabulary.
        tags: ids of the added tokens.

    Raises:
        UserError: as stated_ends; or a stated id is beyond the vocabulary, or stands for text.
    """
    stated, chosen = stated_ends(folder)
    ends = [tags[protocol.IM_END]]
    for index in stated:
        if index >= len(pieces):
            if not chosen:
                continue  # the family's default, which a small model's vocabulary lacks
            raise UserError(
                f"{folder / _GENERATION}: {_KEY} {index} is beyond the {len(pieces)} ids of this "
                "model: write there what its tokenizer ends with"
            )
        if pieces[index] and index not in tags.values():
            raise UserError(
                f"{folder}: {_KEY} {index} is {pieces[index].decode(errors='replace')[:60]!r} in "
                f"this tokenizer, a word: give {_GENERATION} the id of a token that ends a turn, "
                f"such as {protocol.IM_END}'s, {tags[protocol.IM_END]}"
            )
        if index not in (*ends, tags[protocol.TOOL_CALL_END]):
            ends.append(index)
    return tuple(ends)


def _ids(value: object, file: Path) -> list[int]:
    """An eos_token_id as a list; empty where it is null."""
    ids: list = value if isinstance(value, list) else [] if value is None else [value]
    if len(ids) > _MOST or not all(type(i) is int and 0 <= i < 2**31 for i in ids):
        raise UserError(
            f"{file}: {_KEY} is {repr(value)[:60]}; expected a token's id or a list of such ids"
        )
    return ids
