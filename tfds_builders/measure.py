"""Lengths of the rows that a config's training makes of a built suite; see data/row_lengths.py."""

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ml_collections import ConfigDict

from medscope_jax.config import load_config
from medscope_jax.copies import local_copy
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.data.row_lengths import row_lengths
from medscope_jax.dialogue import (
    Layout,
    Tokenizer,
    load_qwen_tokenizer,
    load_tokenizer,
    save_tokenizer,
)
from medscope_jax.errors import UserError
from medscope_jax.paths import to_path
from medscope_jax.training.asked import ASKED, prompt_maker
from medscope_jax.training.from_config import layouts, with_vocabulary
from medscope_jax.training.imported import with_checkpoint_shapes
from medscope_jax.training.run import MANY, suite_tokenizer
from medscope_jax.training.stage_rows import KINDS, row_makers


def measure_rows(
    spec: str,
    checkpoint: str | None,
    data_dir: str | os.PathLike,
    say: Callable[[str], None] = print,
) -> None:
    """Measures the rows of all supervised stages, and keeps their lengths beside the suite.

    The prompts of questions too, where there are so many that a run does not look at all of them.

    Args:
      spec: the config, FILE[:ARG], as training is given it.
      checkpoint: the imported weights that the run starts from, with their tokenizer; None: the
        config's, or, where it has none, the run trains a tokenizer, and so is the same one here.
      data_dir: with clinvideo_frames and clinvideo_suite.

    Raises:
      UserError: no such config or weights, or the suite is built for frames of another size.
    """
    overrides = [f"model.checkpoint={checkpoint}"] if checkpoint else []
    config = with_checkpoint_shapes(load_config(spec, overrides))
    if config.start_from:
        raise UserError(f"{spec} has start_from, whose tokenizer is the run's: it measures itself")
    suite = ClinvideoReader(data_dir)
    built = suite.video_settings()
    for key in ("fps", "height", "width"):
        if getattr(built, key) != config.video[key]:
            raise UserError(
                f"{spec} has video.{key} {config.video[key]}, but {data_dir} was built with "
                f"{getattr(built, key)}: name another config, or change suite.json"
            )
    with _tokenizer(config, suite) as (load, size):
        _measure(config, suite, load, layouts(config, with_vocabulary(config.model, size)), say)


@contextlib.contextmanager
def _tokenizer(
    config: ConfigDict, suite: ClinvideoReader
) -> Iterator[tuple[Callable[[], Tokenizer], int]]:
    """(what reads the tokenizer that a run will have, in any process; its size)."""
    if config.model.checkpoint:
        size = config.model.text.vocab_size
        folder = local_copy(to_path(config.model.checkpoint))
        yield functools.partial(load_qwen_tokenizer, folder, size), size
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.model"
        tokenizer = suite_tokenizer(config, suite)
        save_tokenizer(tokenizer, path)
        yield functools.partial(load_tokenizer, path), tokenizer.vocab_size


def _measure(
    config: ConfigDict,
    suite: ClinvideoReader,
    load: Callable[[], Tokenizer],
    found: tuple[Layout, Layout],
    say: Callable[[str], None],
) -> None:
    """Measures all rows; found: the layouts of conversations about videos, and about clips."""
    for stage in KINDS:
        for maker in row_makers(config, suite, stage, found, load):
            positions = row_lengths(maker, suite.lengths_folder).positions
            made = int((positions > 0).sum())
            mean = positions.sum() / max(made, 1)
            say(
                f"{stage}: {made} of {len(positions)} records of {maker.part} make rows, of "
                f"{mean:.0f} positions on average"
            )
    for split, part in ASKED:
        count = len(suite.records(part, split)) if split in suite.splits(part) else 0
        if count > MANY:
            positions = row_lengths(
                prompt_maker(config, suite, part, split, found[0], load), suite.lengths_folder
            ).positions
            say(f"{part}, {split}: {count} prompts of at most {positions.max()} positions")
