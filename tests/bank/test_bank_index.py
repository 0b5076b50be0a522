"""What a folder holds, known without reading tokens; and builds in parts, by several processes."""

import dataclasses
import json

import pytest

from medscope_jax.bank import bank_index
from medscope_jax.bank.bank_build import build_videos
from medscope_jax.bank.bank_index import not_stored, write_index
from medscope_jax.bank.bank_key import BankKey
from medscope_jax.bank.bank_store import FrameSource, content_of, source_of
from medscope_jax.training.split_bank import part_of
from tests.bank import stored_cases as case


def test_what_is_missing_is_known_by_the_index_or_by_the_files(tmp_path, monkeypatch):
    videos = case.make_videos()
    built = case.build(tmp_path, videos, "float32")
    key = built.key
    opened, whole = [], bank_index.opened
    monkeypatch.setattr(bank_index, "opened", lambda path: opened.append(path.stem) or whole(path))
    assert not_stored(tmp_path, key, "float32") == [] and not opened
    assert not_stored(tmp_path, key, "int8") == list(videos)
    other = dataclasses.replace(key, weights="other")
    assert not_stored(tmp_path, other, "float32") == list(videos)
    changed = dataclasses.replace(key, videos=key.videos | {"video-3": "other", "new": "new"})
    assert not_stored(tmp_path, changed, "float32") == ["video-3", "new"]

    (tmp_path / "video-1.array_record").unlink()
    assert not_stored(tmp_path, key, "float32") == ["video-1"]
    index = json.loads((tmp_path / "index.json").read_text())
    for text in ("", "{", json.dumps(index | {"format": 0}), json.dumps(index | {"videos": {}})):
        (tmp_path / "index.json").write_text(text)
        opened.clear()
        assert not_stored(tmp_path, key, "float32") == ["video-1"]
        assert opened == ["video-0", "video-2", "video-3", "video-4"]
    (tmp_path / "video-2.array_record").write_bytes(b"half of it")
    assert not_stored(tmp_path, key, "float32") == ["video-1", "video-2"]


def watched(source, read):
    """The source, which notes (id, number of frames) of each reading."""

    def frames(start, stop):
        read.append((source.id, stop - start))
        return source.read(start, stop)

    return dataclasses.replace(source, read=frames)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_parts_are_the_whole(tmp_path, count):
    """Each process stores its own videos, to the bit what one stores; it reads few others."""
    videos = case.make_videos((3, 70, 1, 40, 5, 64, 33, 2, 90))
    case.build(tmp_path / "whole", videos, "int8")
    sources = [source_of(name, video) for name, video in videos.items()]
    contents = {source.id: content_of(source) for source in sources}
    key = BankKey(case.SIZE, case.HASH, contents)
    folder = tmp_path / "parts"
    folder.mkdir()
    taken = []
    for index in range(count):
        mine, read = part_of(sources, index, count), []

        seen = [watched(source, read) for source in sources]
        build_videos(folder, seen, mine, case.encoder(), case.BATCH, key, "int8")
        others = sum(frames for name, frames in read if name not in mine)
        assert others < 2 * case.BATCH  # of the batches at its ends
        taken.append(mine)
    assert sorted(name for mine in taken for name in mine) == sorted(videos)
    if count == 2:
        sizes = [sum(len(videos[name].times) for name in mine) for mine in taken]
        assert max(sizes) - min(sizes) < 90
    write_index(folder, key, "int8")
    assert case.contents(folder) == case.contents(tmp_path / "whole")


def test_a_noted_content_spares_the_pixels(tmp_path):
    """What is stored of a video whose content was noted is found without reading a frame."""
    videos = case.make_videos((3, 20))
    noted = {name: case.changed(v, content=f"noted {name}") for name, v in videos.items()}
    built = case.build(tmp_path, noted, "float32")
    assert built.key.videos == {name: f"noted {name}" for name in videos}
    unread = [
        FrameSource(n, v.times, v.duration, lambda *_: pytest.fail("read"), v.content)
        for n, v in noted.items()
    ]
    assert not_stored(tmp_path, built.key, "float32") == []
    build_videos(tmp_path, unread, set(), case.encoder(), case.BATCH, built.key, "float32")
    again = case.build(tmp_path, noted, "float32", lambda frames: pytest.fail("encoded again"))
    assert (again.kept, again.made) == (2, 0)
    assert (tmp_path / "index.json").exists()
