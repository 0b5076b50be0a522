"""Charades-STA: sentences and when they happen, in short home videos.

Layout: charades_sta_train.txt or charades_sta_test.txt, one sentence a line, times in seconds:

    AO8RW 0.0 6.9##a person is putting a book on a shelf.

A line becomes a grounding question, "When does this happen: a person is putting a book on a
shelf.", about the video AO8RW.mp4. The split is the one that the file's name ends in.

Not clinical: it serves to compare temporal grounding with what others report.

Obtaining: the sentences come with TALL (arXiv 1705.02101), the videos with Charades from the Allen
Institute for AI; the licence of Charades comes with its download.
"""

from collections.abc import Iterator
from pathlib import Path

from tfds_builders.readers._fields import asked, part_option, video_names
from tfds_builders.readers._files import annotate, require_file, text_rows
from tfds_builders.readers._values import split_of_file, words
from tfds_builders.record import Annotation, BadRow, Unusable
from tfds_builders.times import span


def read(path: Path, *, part: str = "", extension: str = ".mp4") -> Iterator[Annotation | BadRow]:
    """Grounding questions of one file.

    Args:
      path: the .txt file.
      part: "", rl or eval, as in the package's docstring.
      extension: of the video files.

    Raises:
      UserError: no such file, or another part.
    """
    part = part_option(part, ("rl", "eval"))
    split = split_of_file(path.stem)
    name_of = video_names()

    def make(place: str, line: str) -> Annotation:
        head, mark, sentence = line.partition("##")
        fields = head.split()
        if not mark or len(fields) != 3:
            raise Unusable("the line does not read: video, start, end, ##, sentence")
        video, start, end = fields
        question = f"When does this happen: {words(sentence, 'the sentence')}"
        evidence = (span(start, end, "the moment"),)
        return asked(
            place,
            name_of(video + extension),
            part,
            question,
            None,
            evidence=evidence,
            task="grounding",
            split=split,
        )

    return annotate(path, text_rows(require_file(path)), make)
