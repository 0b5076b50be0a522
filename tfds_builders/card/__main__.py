"""The card of a suite: what it holds, what a blind guess scores, and whether its splits leak.

    python -m tfds_builders.card --workdir DIR     a run's phantom suite
    python -m tfds_builders.card --data_dir DATA   a built ClinVideoSuite
                                 [--output FILE]   the page; card.html in the folder by default

The page is one file of HTML without outside resources: records a part, split, task and source;
samples a video, seconds of evidence and of clips, words of captions, how much of the videos the
evidence covers; what the build could not use, and what it cut; answer priors of train, scored on
the other splits. It is written in any case.

Exit status 0: no leak. 1: leaks between splits, each named in one line on stderr: a video in two
splits, a near-duplicate of one (card_hash.py says what that is), or a question with the same answer
about the same evidence.
"""

import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from medscope_jax.arguments import Parser
from medscope_jax.data.built import open_dataset
from medscope_jax.data.clinvideo_reader import AGAIN, ClinvideoReader, built_folder
from medscope_jax.data.open_suite import Suite
from medscope_jax.data.phantom_reader import prepared_suite
from medscope_jax.errors import UserError, run_main
from medscope_jax.files import check_folder, check_local, check_outputs, write_text
from medscope_jax.parts import PARTS, SPLITS
from medscope_jax.paths import is_remote, to_path
from medscope_jax.training.workdir import Workdir
from medscope_jax.visible import shown
from tfds_builders.card.blind_baselines import priors
from tfds_builders.card.leaks import find_leaks
from tfds_builders.card.near_duplicates import look_at
from tfds_builders.card.page import Card, LeftOut, render_card
from tfds_builders.card.stats import (
    caption_words,
    clip_seconds,
    evidence_coverage,
    evidence_share,
    make_row,
    record_counts,
    samples_per_video,
    video_seconds,
    window_seconds,
)
from tfds_builders.sharded_builder import changed, quarantined

_DATA_SETS = ("clinvideo_frames", "clinvideo_suite")

# Records or videos with the split that they are stored in.
Stored = Iterable[tuple[str, Mapping[str, Any]]]


def make_card(records: Stored, videos: Stored, left_out: Sequence[LeftOut] = ()) -> Card:
    """Draws up the card of a suite.

    Args:
      records: (split, record), fields as tfds_builders.record.make_record has them.
      videos: (split, video): id, source, frames uint8 [T, H, W, 3] RGB, times [T] and duration in
        seconds. One is in memory at a time.
      left_out: what the build could not use, or cut.
    """
    rows = [make_row(record, split) for split, record in records]
    looks, counts, durations = {}, {}, []
    for split, video in videos:
        look = look_at(video["frames"], video["times"], video["duration"])
        looks[split, video["id"]] = look
        place = split, video["source"]
        counts[place] = counts.get(place, 0) + 1
        durations.append((video["source"], look.duration))
    spreads = {
        "Samples a video": samples_per_video(rows),
        "Seconds a video": video_seconds(durations),
        "Seconds of evidence": window_seconds(rows),
        "Seconds of a clip": clip_seconds(rows),
        "Words of a caption": caption_words(rows),
        "Share of a video that evidence covers": evidence_coverage(rows),
    }
    return Card(
        counts=record_counts(rows),
        videos=dict(sorted(counts.items())),
        spreads={title: summaries for title, summaries in spreads.items() if summaries},
        shares={source: share.mean for source, share in evidence_share(rows).items()},
        priors=priors(rows),
        leaks=find_leaks(rows, looks),
        left_out=left_out,
    )


def read_suite(suite: Suite) -> tuple[Stored, Stored]:
    """Records and videos of a suite, of the parts that are there."""
    records = (
        (split, record)
        for part in PARTS
        for split in suite.splits(part)
        for record in suite.records(part, split)
    )
    return records, _videos(suite)


def _videos(suite: Suite) -> Stored:
    """Every video of a suite."""
    for split in SPLITS:
        outlines = suite.outlines(split)
        videos = suite.videos(split) if outlines else ()
        for (name, outline), video in zip(outlines.items(), videos, strict=True):
            known = {"id": name, "source": outline.source, "frames": video.frames}
            yield split, known | {"times": video.times, "duration": video.duration}


def built_suite(data_dir: pathlib.Path) -> ClinvideoReader:
    """The suite of a data folder.

    Raises:
      UserError: no frames or no part has been built.
    """
    suite = ClinvideoReader(data_dir)
    built_folder(data_dir, "clinvideo_frames")
    if not any(map(suite.splits, PARTS)):
        built_folder(data_dir, f"clinvideo_suite/{PARTS[0]}")
    return suite


def read_left_out(data_dir: pathlib.Path) -> list[LeftOut]:
    """What the builds of a ClinVideoSuite could not use, and what they cut, of the parts there."""
    suite = ClinvideoReader(data_dir)
    parts = [f"clinvideo_suite/{part}" for part in PARTS if suite.splits(part)]
    found: dict[LeftOut, None] = {}  # each part says again what the readers could not use
    for name in ("clinvideo_frames", *parts):
        builder = open_dataset(built_folder(data_dir, name), AGAIN)
        stages = {**quarantined(builder), f"{name.rpartition('/')[2]}, kept": changed(builder)}
        for stage, counts in stages.items():
            for (source, reason), count in sorted(counts.items()):
                found[stage, source, reason, count] = None
    return list(found)


def main(arguments: list[str]) -> int:
    """Writes a suite's card; 1 if its splits leak."""
    parser = Parser(description=__doc__.split("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", help="of a run, with its phantom suite")
    source.add_argument("--data_dir", help="of a built ClinVideoSuite")
    parser.add_argument("--output", help="where the page goes; by default card.html in the folder")
    flags = parser.parse_args(arguments)
    for name in ("workdir", "data_dir"):
        check_folder(getattr(flags, name) or "", f"--{name}")
    check_local(flags.output or "", "--output")
    folder = to_path(flags.workdir or flags.data_dir)
    page = pathlib.Path(flags.output) if flags.output else folder / "card.html"
    data_sets = [folder / name for name in _DATA_SETS]
    inputs = Workdir(folder).own if flags.workdir else data_sets
    if not is_remote(page):
        check_outputs({"--output": page}, {f"the data in {path.name}": path for path in inputs})
    if not page.parent.is_dir():
        raise UserError(f"{page.parent} is no folder; create it or choose another --output")
    suite = prepared_suite(folder) if flags.workdir else built_suite(folder)
    records, videos = read_suite(suite)
    left_out = read_left_out(folder) if flags.data_dir else ()
    card = make_card(records, tqdm(videos, "looking at videos", unit="video"), left_out)
    title = "ClinVideoSuite" if flags.data_dir else "Phantom suite"
    write_text(page, render_card(card, title), private=True)  # it quotes questions and answers
    print(shown(page))
    for leak in card.leaks:
        print(shown(leak), file=sys.stderr)
    return int(bool(card.leaks))


if __name__ == "__main__":
    run_main(main)
