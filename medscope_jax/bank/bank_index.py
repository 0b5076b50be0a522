"""Which videos a folder of banks holds: by its index.json, and by what the files say themselves.

index.json is written when a build has ended, for people and so that a run need not open every file
to know that nothing is missing. A build that is about to write removes it first.
"""

import contextlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from medscope_jax.bank.bank_codec import RoundingError
from medscope_jax.bank.bank_file import FORMAT, SUFFIX, DamagedBank, opened
from medscope_jax.bank.bank_key import BankKey, differences
from medscope_jax.bank.bank_store import bank_path
from medscope_jax.errors import UserError
from medscope_jax.files import write_text
from medscope_jax.stored import read_json

INDEX = "index.json"
_SCHEMA = {
    **{"format": int, "dtype": str, "preprocessing": {...: object}, "weights": str},
    "videos": {...: {"content": str, ...: object}},
}


def not_stored(folder: Path, key: BankKey, dtype: str) -> list[str]:
    """The ids of those videos of the key that the folder does not hold as `dtype`.

    By the index and the names of files; a file that the index does not know is asked what it was
    made of. No tokens are read: who reads them is told of damage then.
    """
    there = {path.name for path in folder.glob(f"*{SUFFIX}")}
    listed = _listed(folder, key, dtype)

    def is_stored(name: str, content: str) -> bool:
        path = bank_path(folder, name)
        if path.name not in there:
            return False
        if listed.get(name) == content:
            return True
        return any(not differences(found, key, content) for found in _described(path, dtype))

    return [name for name, content in key.videos.items() if not is_stored(name, content)]


def _listed(folder: Path, key: BankKey, dtype: str) -> dict[str, str]:
    """Hashes of the videos in the index, by id; nothing where it is of something else."""
    try:
        index = read_json(folder / INDEX, _SCHEMA, "a build makes it again")
    except UserError:
        return {}
    if index["format"] != FORMAT or index["dtype"] != dtype or differences(index, key, None):
        return {}
    return {name: video["content"] for name, video in index["videos"].items()}


def _described(path: Path, dtype: str) -> Iterator[dict[str, Any]]:
    """What a file says of itself; nothing if it is damaged or of another type."""
    with contextlib.suppress(DamagedBank), opened(path) as file:
        if file.description["dtype"] == dtype:
            yield file.description


def write_index(
    folder: Path, settings: BankKey, dtype: str, names: Collection[str] = ()
) -> tuple[RoundingError, str]:
    """Lists the videos stored as `dtype` under the settings' preprocessing and weights.

    It is made of what the files say of themselves, so the same files give the same index.

    Returns:
      The error of the videos `names`, and which of them has the worst token ("": nothing rounded).
    """
    lines, total, worst = [], RoundingError(), ""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        for found in _described(path, dtype):
            if differences(found, settings, None):
                continue
            error = RoundingError(*found["squares"], *found["worst"])
            video = {
                "content": found["content"],
                "shape": found["shape"],
                "computed": found["computed"],
                "factors": sorted({factors for factors, _ in found["records"]} - {""}),
                "relative_rms": error.relative_rms,
                "worst_token": {"error": error.worst, "frame": error.frame, "token": error.token},
            }
            lines.append(f"{json.dumps(found['id'])}: {json.dumps(video)}")
            if found["id"] in names:
                worst = found["id"] if error.worst > total.worst else worst
                total = total.plus(error)
    head = {
        "format": FORMAT,
        "dtype": dtype,
        "preprocessing": settings.preprocessing.to_json(),
        "weights": settings.weights,
    }
    text = json.dumps(head)[:-1] + ', "videos": {\n' + ",\n".join(lines) + "\n}}\n"
    write_text(folder / INDEX, text)
    return total, worst
