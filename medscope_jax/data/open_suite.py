"""The suite that a run learns from: phantom procedures, or what tfds_builders.build made of yours.

`open_suite` is asked once, by an entry point; all else is handed a `Suite` and does not know which
of the two it reads.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ml_collections import ConfigDict

from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.data.phantom_reader import PhantomReader
from medscope_jax.data.stored_rows import Rows, StoredVideos, VideoOutline
from medscope_jax.paths import to_path
from medscope_jax.phantom.suite_config import SuiteConfig


class Suite(Protocol):
    """A data set of records about videos, in parts and splits (see parts.py).

    Everything is read when it is asked for, and raises UserError where the suite is not there, was
    damaged, or has no such part or split. Rows of a split are in a fixed order.
    """

    @property
    def config(self) -> SuiteConfig | None:
        """What tfds_builders.prepare draws the suite from; None of one that is there already."""
        ...

    @property
    def lengths_folder(self) -> Path:
        """Where the lengths of its rows are kept (row_lengths.py); it need not be there."""
        ...

    def fingerprint(self, part: str) -> str:
        """Another one whenever the part was built of something else."""
        ...

    def splits(self, part: str) -> tuple[str, ...]:
        """The splits that a part has; none if the suite has no such part."""
        ...

    def records(self, part: str, split: str, fields: tuple[str, ...] = ()) -> Rows[dict[str, Any]]:
        """The records of a part and split, by row; phantom.records says what their fields are.

        fields: those to read; all if none are named. Each that is left out saves time.
        """
        ...

    def videos(self, split: str) -> StoredVideos:
        """The videos of a split, by row.

        Their frames [T, H, W, 3] RGB are like an array, and stay where they are, as JPEG, until
        they are asked for: whoever shows a window reads and decodes no more than that.
        """
        ...

    def outlines(self, split: str) -> dict[str, VideoOutline]:
        """The videos of a split by id, in the order of `videos`, without reading a frame.

        Empty where there are none. A phantom suite knows them before it is drawn.
        """
        ...

    def texts(self) -> Iterator[str]:
        """Texts of training records, for a tokenizer; a phantom suite's before it is drawn."""
        ...

    def samples(self, part: str, count: int) -> Iterator[tuple[dict[str, Any], VideoOutline]]:
        """Training records of a part, spread over it, each with its video's outline.

        So many of a data folder; of a phantom suite, drawn or not, all of so many procedures.
        """
        ...

    def check(self, video: ConfigDict, needed: Sequence[tuple[str, Sequence[str]]] = ()) -> None:
        """Refuses a suite that a run can't be made of, before the run claims its folder.

        Args:
          video: the config's section of this name: the frame rate (frames a second), size (pixels)
            and number of bank frames that the suite's videos must have.
          needed: (split, parts): in that split, one of the parts at least; a phantom suite has all.

        Raises:
          UserError: one line that names the key.
        """
        ...


def open_suite(config: ConfigDict, folder: Path) -> Suite:
    """The suite of a run's config; nothing of it is read yet.

    Args:
      config: the run's. config.suite.data_dir names a data folder; without it the suite is one of
        phantom procedures.
      folder: the run's, which a phantom suite is drawn into.
    """
    if config.suite.data_dir:
        return ClinvideoReader(to_path(config.suite.data_dir, "config.suite.data_dir"))
    section = {key: value for key, value in config.suite.items() if key != "data_dir"}
    shared = {
        "bank_fps": config.video.fps,
        "frame_height": config.video.height,
        "frame_width": config.video.width,
        "preview_frames": config.dialogue.preview_frames,
        "window_frames": config.dialogue.window_frames,
    }
    return PhantomReader(folder, {**section, **shared})
