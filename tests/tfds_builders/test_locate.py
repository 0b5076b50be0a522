"""Names of videos that tables and file systems changed."""

import unicodedata

import pytest

from tfds_builders.locate import locator

ACCENT = "Op\u00e9ration"
FILES = (
    unicodedata.normalize("NFD", f"{ACCENT}.mp4"),
    "007.mp4",
    "0012",
    "Clip.MP4",
    "v.1.avi",
    "two.mp4",
    "two.avi",
    "0003.mp4",
    "03.mp4",
    unicodedata.normalize("NFD", f"{ACCENT}/08.mp4"),
)


@pytest.fixture
def locate(tmp_path):
    for name in FILES:
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    find = locator(tmp_path)
    return lambda name: find(tmp_path / "videos", name)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (f"{ACCENT}.mp4", 0),
        (ACCENT + ".MP4", 0),
        ("7.mp4", 1),
        ("7", 1),
        ("007", 1),
        ("12", 2),
        ("clip.mp4", 3),
        ("clip", 3),
        ("v", 4),
        ("v.1", 4),
        ("two.avi", 6),
        ("03", 8),
        (f"{ACCENT}/8", 9),
        (f"{ACCENT}/8.mp4", 9),
    ],
)
def test_the_one_that_is_meant(locate, tmp_path, name, place):
    assert locate(name) == tmp_path / "videos" / FILES[place]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("two", "several are called so but for"),
        ("3.mp4", "several are called so but for"),
        ("70", "not there"),
        ("7.avi", "not there"),
        ("0", "not there"),
        (".", "outside"),
        ("../two.mp4", "outside"),
        ("/two.mp4", "outside"),
        ("a\0", "outside"),
    ],
)
def test_none_that_is_meant(locate, name, words):
    assert words in locate(name)


def test_an_exact_name_wins_and_links_out_are_not_read(locate, tmp_path):
    (tmp_path / "videos" / "7.mp4").touch()
    assert locate("7.mp4").name == "7.mp4"
    outside = tmp_path.parent / f"{tmp_path.name}_out"
    outside.mkdir()
    (outside / "9.mp4").touch()
    (tmp_path / "videos" / "away").symlink_to(outside)
    (tmp_path / "videos" / "10.mp4").symlink_to(outside / "9.mp4")
    assert "leads out" in locate("away/9.mp4")
    assert "not there" in locate("away/09.mp4")  # not even looked for
    assert "leads out" in locate("010")
