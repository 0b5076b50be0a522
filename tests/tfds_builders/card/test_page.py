"""The card as a whole: a suite made by hand and a built one, leaks named, one page for itself."""

import html
import re

import numpy as np
import pytest

from medscope_jax.data.phantom_reader import prepared_suite
from medscope_jax.errors import UserError
from medscope_jax.phantom.suite_config import SuiteConfig
from tfds_builders.card import __main__ as card
from tfds_builders.card.__main__ import main, make_card, read_suite
from tfds_builders.card.page import number, render_card
from tfds_builders.prepare import prepare_suite

TINY = SuiteConfig(
    **{f"train_{source}": 2 for source in ("ophthalmic", "endoscopic")},
    **{f"validation_{source}": 1 for source in ("ophthalmic", "endoscopic")},
    **{f"test_{source}": 1 for source in ("ophthalmic", "endoscopic", "laparoscopic")},
    captions_per_video=3,
)


def record(name, video, split, **changes):
    """A record about a 40-second video, with evidence from second 10 to 14."""
    return split, {
        **{"id": name, "video": video, "part": "rl", "source": "gut", "split": split},
        **{"task": "vqa", "question": "Which side?", "answer": "left", "options": [], "turns": []},
        "evidence": np.array([[10, 14]], np.float32),
        "evidence_time": np.float32(-1),
        "duration": np.float32(40),
        "window": np.array([-1, -1], np.float32),
        **changes,
    }


def video(name, split, seed):
    """A video whose every cell goes its own way."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (40, 8, 9, 3), dtype=np.uint8)
    times = np.arange(40.0)
    return split, {
        **{"id": name, "source": "gut", "frames": frames.repeat(4, 1).repeat(4, 2)},
        **{"times": times, "duration": 40.0},
    }


@pytest.fixture
def clean_suite():
    records = [
        record("a", "v", "train"),
        record("b", "v", "train", part="cap", answer="a <b>tool</b> & more", task="caption"),
        record("c", "w", "test"),
    ]
    return records, [video("v", "train", 0), video("w", "test", 1)]


def test_a_suite_made_by_hand(clean_suite):
    made = make_card(*clean_suite)
    assert made.counts == {
        ("cap", "train", "caption", "gut"): 1,
        ("rl", "test", "vqa", "gut"): 1,
        ("rl", "train", "vqa", "gut"): 1,
    }
    assert made.videos == {("test", "gut"): 1, ("train", "gut"): 1}
    assert made.spreads["Samples a video"]["gut"].values == (2.0, 1.0)
    assert made.spreads["Words of a caption"]["gut"].values == (4.0,)
    assert made.spreads["Share of a video that evidence covers"]["gut"].mean == pytest.approx(0.1)
    assert "Seconds of a clip" not in made.spreads and made.shares == {"gut": 1.0}
    (prior,) = made.priors
    assert (prior.by_task, prior.by_question, prior.split) == (1.0, 1.0, "test")
    assert made.leaks == []


def test_every_kind_of_planted_leak_is_named(clean_suite):
    records, videos = clean_suite
    records += [
        record("d", "v", "test", question="Other?"),
        record("e", "copy", "test"),
    ]
    split, copied = videos[0]
    noise = np.random.default_rng(9).integers(0, 2, copied["frames"].shape, dtype=np.uint8)
    videos.append(("test", {**copied, "id": "copy", "frames": copied["frames"] // 2 * 2 + noise}))
    kinds = [str(leak) for leak in make_card(records, videos).leaks]
    assert kinds[0] == "leak, same video: test: v and train: v"
    assert kinds[1].startswith("leak, near-duplicate video: test: copy and train: v (")
    assert kinds[2].startswith("leak, same question: test: e and train: a (")
    assert len(kinds) == 3


def outside(page):
    """Everything in a page that would fetch or run something."""
    links = re.findall(r'(?:src|srcset|href|action|data)\s*=\s*"([^"]*)"', page)
    fetched = [link for link in links if not link.startswith(("data:image/svg+xml;base64,", "#"))]
    return fetched + re.findall(r"<script|<link|<iframe|@import|url\(", page)


def test_the_page_stands_alone_and_is_escaped(clean_suite):
    records, videos = clean_suite
    records.append(record("<img src=x>", "v", "test"))
    made = make_card(records, videos)
    page = render_card(made, "A <suite>")
    assert outside(page) == [] and page.count("data:image/svg+xml;base64,") >= 4
    assert "A &lt;suite&gt;" in page and "<img src=x>" not in page
    text = html.unescape(page)
    for leak in made.leaks:
        assert str(leak) in text
    assert page == render_card(made, "A <suite>")
    empty = render_card(make_card([], []), "Nothing")
    assert outside(empty) == [] and "no questions outside" in empty


def test_numbers_in_tables():
    assert [number(x) for x in (3, 1234.5, 0.12345, 12.0, float("nan"))] == [
        *("3", "1,234", "0.123", "12", "\u2013")
    ]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    prepare_suite(folder, TINY, progress=False, processes=1)
    return folder


def test_a_phantom_suite_leaks_nothing(workdir, capsys):
    assert main(["--workdir", str(workdir)]) == 0
    output = capsys.readouterr()
    assert output.out.strip() == str(workdir / "card.html") and "leak" not in output.err
    page = (workdir / "card.html").read_text()
    assert outside(page) == [] and "No leak between splits was found" in page
    records, videos = read_suite(prepared_suite(workdir))
    made = make_card(records, videos)
    assert sum(made.videos.values()) == 9
    assert {prior.task for prior in made.priors} >= {"grounding", "vqa", "perception", "order"}
    grounding = [prior for prior in made.priors if prior.task == "grounding"]
    assert all(prior.miou < 0.3 and prior.recall <= 0.5 for prior in grounding)


def test_leaks_are_lines_and_a_status(workdir, tmp_path, monkeypatch, capsys):
    """Training videos put into the test split under new names."""
    records, videos = map(list, read_suite(prepared_suite(workdir)))
    name = next(video["id"] for split, video in videos if split == "train")
    videos += [("test", {**v, "id": "new"}) for s, v in videos if v["id"] == name]
    records += [
        ("test", {**r, "id": "new-1", "video": "new"}) for s, r in records if r["video"] == name
    ]
    monkeypatch.setattr(card, "read_suite", lambda _: (records, videos))
    page = tmp_path / "page.html"
    assert main(["--workdir", str(workdir), "--output", str(page)]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("leak")]
    assert lines[0].startswith(f"leak, near-duplicate video: test: new and train: {name} (")
    assert len(lines) > 1 and all("same question: test: new-1 and train:" in x for x in lines[1:])
    assert lines[0] in html.unescape(page.read_text())


def test_mistakes_are_one_line(tmp_path, workdir, refusal):
    assert "no finished suite" in refusal(main, ["--workdir", tmp_path])
    assert "has no clinvideo_frames" in refusal(main, ["--data_dir", tmp_path])
    missing = tmp_path / "none" / "card.html"
    assert "is no folder" in refusal(main, ["--workdir", workdir, "--output", missing])
    with pytest.raises(UserError):
        prepared_suite(tmp_path)
