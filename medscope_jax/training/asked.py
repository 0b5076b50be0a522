"""The questions of stage 3 and evaluation: of very many, each is read when it is asked."""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from medscope_jax.data.open_suite import Suite
from medscope_jax.data.row_lengths import RowMaker, row_lengths, without_pixels
from medscope_jax.dialogue import Layout, Tokenizer
from medscope_jax.distributed.multihost import first_process_first
from medscope_jax.rollout import VideoQuestion, prompt_width
from medscope_jax.training.run import MANY, Run, VideoSplit, suite_of
from medscope_jax.training.stage_rows import tokenizer_loader
from medscope_jax.video.lazy_frames import Series

# What a run asks: (split, part).
ASKED = (("train", "rl"), ("test", "eval"))


class Questions:
    """Records about videos of a split as questions, numbered in their order."""

    def __init__(self, records: Series[Mapping], split: VideoSplit):
        self._records, self._split = records, split

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> VideoQuestion:
        record = self._records[number]
        place = self.place(record)
        return VideoQuestion(record, place, self._split.videos[place].times, number)

    def place(self, record: Mapping) -> int:
        """A record's video in the split, and in the bank made of it."""
        return self._split.rows[record["video"]]


def deciding(run: Run, part: str, split: str, count: int) -> list[int]:
    """Numbers of those of a part's `count` questions that decide how wide prompts are.

    All of them, for the caller to look at, if they are not MANY. Of many, all have been measured:
    the longest and the shortest one, or the first that can't be asked.
    """
    if count <= MANY:
        return list(range(count))
    load = tokenizer_loader(run)
    maker = prompt_maker(run.config, suite_of(run), part, split, run.layout, load)
    positions = row_lengths(maker, run.folder / "lengths").positions
    shortest = int(positions.argmin())  # 0 positions: it can't be asked
    return [shortest] if positions[shortest] == 0 else [int(positions.argmax()), shortest]


def prompt_maker(
    config: ConfigDict,
    suite: Suite,
    part: str,
    split: str,
    layout: Layout,
    load: Callable[[], Tokenizer],
) -> RowMaker:
    """How the prompts of a part's questions are made, by whichever process.

    Args:
        layout: of conversations about whole videos.
        load: reads the tokenizer, as RowMaker.load_tokenizer.
    """
    return RowMaker(suite, part, "prompt", layout, config.video.native_pairs, load, split)


def check_questions(run: Run) -> None:
    """Refuses questions that leave no room for an answer, before anything is trained.

    Where there are MANY; config_checks has seen all others before the run claimed its folder.

    Raises:
        UserError: names the question.
    """
    suite, spare = suite_of(run), run.config.rollout.turn_tokens
    for split, part in ASKED:
        if split not in suite.splits(part):  # of a run of other stages
            continue
        records = suite.records(part, split)
        if len(records) <= MANY:
            continue
        videos = suite.outlines(split)
        with first_process_first(f"questions {part} {split}"):
            chosen = [records[n] for n in deciding(run, part, split, len(records))]
        found = [videos[record["video"]] for record in chosen]
        pairs = run.config.video.native_pairs
        times = [without_pixels(each.times, each.duration, pairs).times for each in found]
        prompt_width(chosen, times, run.tokenizer, run.layout, True, spare)
