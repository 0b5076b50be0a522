"""The card of a built ClinVideoSuite: a recording that another source holds once more is found."""

import cv2
import pytest

from medscope_jax.data.clinvideo_reader import ClinvideoReader
from tests.tfds_builders.clinvideo_cases import build_all, row, write_suite, write_video
from tfds_builders.card.__main__ import built_suite, main, make_card, read_suite


def recode(source, target, size):
    """The same recording by another codec, larger."""
    capture = cv2.VideoCapture(str(source))
    writer = cv2.VideoWriter(str(target), cv2.VideoWriter_fourcc(*"MJPG"), 8.0, size)
    while True:
        came, frame = capture.read()
        if not came:
            break
        writer.write(cv2.resize(frame, size))
    writer.release()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two sources; the second one tests with the first one's training video under another name."""
    root = tmp_path_factory.mktemp("built")
    manual, data = root / "manual", root / "data"
    for name in ("scope", "other"):
        (manual / name / "videos").mkdir(parents=True)
    write_video(manual / "scope" / "videos" / "Erika.mp4", 9, seed=1)
    write_video(manual / "scope" / "videos" / "b.mp4", 9, seed=2)
    recode(
        manual / "scope" / "videos" / "Erika.mp4",
        manual / "other" / "videos" / "Mustermann.avi",
        (96, 72),
    )
    asked = {"question": "Where?", "spans": [[2.0, 5.0]]}
    rows = {
        "scope": [
            row("Erika.mp4", "rl", 0, split="train", **asked),
            row("b.mp4", "eval", 1, split="test", **asked),
        ],
        "other": [row("Mustermann.avi", "eval", 0, split="test", **asked)],
    }
    write_suite(manual, rows)
    build_all(manual, data)
    return data


def test_leaks_are_named_by_ids(data, capsys):
    assert main(["--data_dir", str(data)]) == 1
    errors = capsys.readouterr().err
    leaks = [line for line in errors.splitlines() if line.startswith("leak")]
    ids = {name.split("-")[0]: name for name in ClinvideoReader(data).outlines("test")}
    (train,) = ClinvideoReader(data).outlines("train")
    assert len(leaks) == 2
    assert leaks[0].startswith(
        f"leak, near-duplicate video: test: {ids['other']} and train: {train} ("
    )
    assert leaks[1].startswith("leak, same question: test: ")
    page = (data / "card.html").read_text()
    for text in (errors, page):
        assert "Erika" not in text and "Mustermann" not in text


def test_what_is_counted(data):
    made = make_card(*read_suite(built_suite(data)))
    assert made.counts == {
        ("eval", "test", "vqa", "other"): 1,
        ("eval", "test", "vqa", "scope"): 1,
        ("rl", "train", "vqa", "scope"): 1,
    }
    assert made.videos == {("test", "other"): 1, ("test", "scope"): 1, ("train", "scope"): 1}
    assert [prior.by_question for prior in made.priors] == [1.0, 1.0]
