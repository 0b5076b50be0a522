"""Lengths of the rows that a config's training makes of a built suite; see data/row_lengths.py."""

import functools
import os
from collections.abc import Callable

from medscope_jax.config import load_config
from medscope_jax.copies import local_copy
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.data.row_lengths import row_lengths
from medscope_jax.dialogue import load_qwen_tokenizer
from medscope_jax.errors import UserError
from medscope_jax.paths import to_path
from medscope_jax.training.asked import ASKED, prompt_maker
from medscope_jax.training.from_config import layouts, with_vocabulary
from medscope_jax.training.imported import with_checkpoint_shapes
from medscope_jax.training.run import MANY
from medscope_jax.training.stage_rows import KINDS, row_makers


def measure_rows(
    spec: str, checkpoint: str, data_dir: str | os.PathLike, say: Callable[[str], None] = print
) -> None:
    """Measures the rows of all supervised stages, and keeps their lengths beside the suite.

    The prompts of questions too, where there are so many that a run does not look at all of them.

    Args:
      spec: the config, FILE[:ARG], as training is given it.
      checkpoint: the imported weights that the run starts from, with their tokenizer.
      data_dir: with clinvideo_frames and clinvideo_suite.

    Raises:
      UserError: no such config or weights, or the suite is built for frames of another size.
    """
    overrides = [f"model.checkpoint={checkpoint}"]
    config = with_checkpoint_shapes(load_config(spec, overrides))
    suite = ClinvideoReader(data_dir)
    built = suite.video_settings()
    for key in ("fps", "height", "width"):
        if getattr(built, key) != config.video[key]:
            raise UserError(
                f"{spec} has video.{key} {config.video[key]}, but {data_dir} was built with "
                f"{getattr(built, key)}: name another config, or change suite.json"
            )
    size = config.model.text.vocab_size
    folder = local_copy(to_path(config.model.checkpoint))
    load = functools.partial(load_qwen_tokenizer, folder, size)
    found = layouts(config, with_vocabulary(config.model, size))
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
