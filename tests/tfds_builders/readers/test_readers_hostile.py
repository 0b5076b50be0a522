"""Long hostile texts are read in time that grows with their length: minutes otherwise."""

import contextlib
import json
import signal

import pytest

from medscope_jax.rl import parse_intervals
from tests.tfds_builders.readers.test_readers_fuzz import VALID
from tfds_builders.readers import read_source
from tfds_builders.record import Unusable
from tfds_builders.times import MAX_SPANS, seconds, spans, stated_spans

LENGTH = 100_000
PIECES = ("1", "1,", " ", "[", "[1", "[1, 2]", "1-2;", "01:05 - 01:10; ")


@pytest.fixture(autouse=True)
def limit():
    """A generous one, so that a hang is a failure."""
    if hasattr(signal, "SIGALRM"):
        signal.alarm(60)
        yield
        signal.alarm(0)
    else:
        yield


@pytest.mark.parametrize("piece", PIECES)
def test_texts_of_times(piece):
    long = piece * (LENGTH // len(piece))
    for text in (long, f"[{long}!", f"1{long}-", f"[{long}]"):
        assert all(end > start for start, end in parse_intervals(text))
        for read, second in ((stated_spans, True), (seconds, "x"), (spans, "x")):
            with contextlib.suppress(Unusable):
                assert len(read(text, second)) <= MAX_SPANS
        short = text[:20_000]  # as long as a question may be
        with contextlib.suppress(Unusable):
            assert len(stated_spans(short)) <= MAX_SPANS


@pytest.mark.parametrize("piece", PIECES)
def test_rows_of_them(tmp_path, piece):
    long = piece * (LENGTH // len(piece))
    row = VALID["plain"] | {"part": "rl", "turns": None}
    changes = [{key: long} for key in ("answer", "spans", "question", "options", "video")]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row | change) for change in changes))
    assert len(list(read_source("plain", path))) == len(changes)


@pytest.mark.parametrize("spread", [True, False])
def test_as_many_triplets_as_a_file_holds(tmp_path, spread):
    """Every frame, or one, of a video in which every instrument does another thing."""
    count = 1500
    kinds = ("instrument", "verb", "target", "phase")
    names = {kind: {str(i): f"{kind[0]}{i}" for i in range(count)} for kind in kinds}
    made = [[0, i, 1, -1, -1, -1, -1, i, i, -1, -1, -1, -1, -1, 0] for i in range(count)]
    frames = {str(i): [one] for i, one in enumerate(made)} if spread else {"0": made}
    path = tmp_path / "VID01.json"
    path.write_text(json.dumps({"categories": names, "annotations": frames}))
    found = list(read_source("cholect50", path))
    # A phase; of each instrument, when it is in view; of each triplet, three questions.
    asked = [made.question for made in found]
    assert len(asked) == len(set(asked)) >= 1 + 4 * count
    assert "Which instrument is used to v7 the t7?" in asked


def test_files_of_nothing_but_bad_rows_are_given_up(tmp_path, collect):
    """They would be read once for each part of a suite, and each row listed."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("7\n" * 12_000)
    good, bad = collect("plain", rows)
    assert not good and len(bad) == 10_001
    assert bad[-1].place == "rows.jsonl:10001"
    assert bad[-1].reason == "none of 10,000 rows can be used; nothing more is read of the file"
    good_row = json.dumps({"video": "v.mp4", "question": "What?", "answer": "It."})
    rows.write_text(f"{good_row}\n" + "7\n" * 12_000)
    good, bad = collect("plain", rows)
    assert len(good) == 1 and len(bad) == 12_000
    phases = tmp_path / "video01-phase.txt"
    phases.write_text("Frame\tPhase\n0\tPreparation\n1\tPreparation\n" + "x\n" * 12_000)
    good, bad = collect("cholec80", phases)
    assert not good and len(bad) == 10_001 and "no question is made" in bad[-1].reason
    names = {kind: {"0": "x"} for kind in ("instrument", "verb", "target", "phase")}
    labels = tmp_path / "VID01.json"
    frames = {"0": [[0] * 15, *([[]] * 12_000)]}
    labels.write_text(json.dumps({"categories": names, "annotations": frames}))
    good, bad = collect("cholect50", labels)
    assert not good and len(bad) == 10_001 and "no question is made" in bad[-1].reason
