"""Copies of a bucket's folders: made once, never stale; what is put there is whole or refused."""

import contextlib
import dataclasses

import pytest

from medscope_jax import copies
from medscope_jax.buckets import list_objects, put_object
from medscope_jax.copies import (
    UNDER_WAY,
    check_free,
    is_made,
    local_copy,
    new_target,
    place_of,
    working_copy,
)
from medscope_jax.errors import UserError
from medscope_jax.paths import cache_folder


@pytest.fixture
def fetched(monkeypatch):
    """Names of the files that are fetched."""
    names, get = [], copies.get_files

    def get_files(files):
        files = list(files)
        names.extend(source.name for source, _, _ in files)
        return get(files)

    monkeypatch.setattr(copies, "get_files", get_files)
    return names


def put(folder, **texts):
    for name, text in texts.items():
        put_object(folder / name, text.encode())


def texts(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in files_of(folder)}


def files_of(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def test_a_folder_of_this_machine_is_its_own_copy(tmp_path):
    assert local_copy(tmp_path / "none") == tmp_path / "none"
    with working_copy(tmp_path / "none") as here:
        assert here == tmp_path / "none"


def test_a_copy_is_made_once(in_bucket, fetched):
    put(in_bucket, a="1", b="2")
    put(in_bucket / "1.0.0", c="3")
    copy = local_copy(in_bucket)
    assert copy == cache_folder() / "files" / "gs" / str(in_bucket).removeprefix("gs://")
    assert texts(copy) == {"1.0.0/c": "3", "a": "1", "b": "2"} and sorted(fetched) == list("abc")
    assert local_copy(in_bucket) == copy and len(fetched) == 3
    assert local_copy(in_bucket / "1.0.0") == copy / "1.0.0" and len(fetched) == 3
    assert oct(copy.stat().st_mode)[-3:] == "700"  # it may hold a patient's pictures


def test_a_copy_is_never_stale(in_bucket, fetched):
    put(in_bucket, a="1", b="2", c="3")
    copy = local_copy(in_bucket)
    fetched.clear()
    put(in_bucket, a="4")  # of the same size
    (copy / "b").write_text("5")  # edited here
    (in_bucket / "c").unlink()
    assert texts(local_copy(in_bucket)) == {"a": "4", "b": "2"} and sorted(fetched) == ["a", "b"]
    (cache_folder() / "index").rename(cache_folder() / "gone")
    assert texts(local_copy(in_bucket)) == {"a": "4", "b": "2"}


def test_what_changes_while_it_is_copied_is_no_copy(in_bucket, monkeypatch):
    """Of a service that says no MD5, as most but Google's: by a look at the versions after it."""
    put(in_bucket, a="1", b="2")
    look = copies.list_objects
    monkeypatch.setattr(
        copies,
        "list_objects",
        lambda folder: {n: dataclasses.replace(o, md5="") for n, o in look(folder).items()},
    )
    get_files = copies.get_files

    def changing(files):
        put(in_bucket, b="3")
        return get_files(files)

    monkeypatch.setattr(copies, "get_files", changing)
    with pytest.raises(UserError, match="b changed while it was copied: run again"):
        local_copy(in_bucket)
    monkeypatch.setattr(copies, "get_files", get_files)
    assert texts(local_copy(in_bucket)) == {"a": "1", "b": "3"}


def test_what_is_not_there(in_bucket):
    with pytest.raises(UserError, match="is not there, or empty: check the address"):
        local_copy(in_bucket)
    with working_copy(in_bucket) as here:
        assert not list(here.iterdir()) and not is_made(in_bucket)


def test_a_target_is_there_when_it_is_whole(place):
    place.parent.mkdir(parents=True, exist_ok=True)
    check_free(place)
    with new_target(place) as folder:
        (folder / "b").mkdir()
        (folder / "a").write_text("1")
        (folder / "b" / "c").write_text("2")
        assert not place.exists() and not is_made(place)
    assert is_made(place) and texts(local_copy(place)) == {"a": "1", "b/c": "2"}
    for again in (check_free, lambda target: new_target(target).__enter__()):
        with pytest.raises(UserError, match="exists already: name another target, or delete it"):
            again(place)
    with pytest.raises(KeyError), new_target(place.with_name("other")) as folder:
        (folder / "a").write_text("1")
        raise KeyError
    assert not place.with_name("other").exists()


def test_a_target_that_is_half_there_is_refused_and_made_again(in_bucket):
    """The process was killed between two objects: the same machine's next one goes on."""
    put_files = copies.put_files

    def killed(files):
        yield next(put_files(files))
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "put_files", killed)
        patch.setattr(copies, "owning", left_behind)
        with pytest.raises(SystemExit), new_target(in_bucket) as folder:
            for name in ("a", "b", "old"):
                (folder / name).write_text(name)
    assert UNDER_WAY in list_objects(in_bucket) and not is_made(in_bucket)
    with pytest.raises(UserError, match="is not whole"):
        local_copy(in_bucket)
    check_free(in_bucket)
    with new_target(in_bucket) as folder:
        for name in ("a", "b"):
            (folder / name).write_text(name)
    assert list_objects(in_bucket).keys() == {"a", "b"} and is_made(in_bucket)
    assert not files_of(cache_folder() / "making" / "gs" / "bucket")[1:]  # but the lock


class left_behind:
    """An owner whose process is killed: of an earlier start of this machine."""

    def __init__(self, path, busy):
        import json

        from medscope_jax.owners import _here

        put_object(path, json.dumps({**_here(), "boot": "earlier", "time": 0}).encode())

    def __enter__(self):
        return None

    def __exit__(self, *_):
        return None


def build(folder, **texts):
    """What a builder does: files, then a seal that speaks for them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "seal").write_text("".join(texts.values()))


def test_a_working_copy_is_put_back(in_bucket, fetched, monkeypatch, tmp_path):
    with working_copy(in_bucket, last=("seal",)) as here:
        build(here / "x", a="1", b="2")
        build(here / "y", a="3")
        for name in (".lock", "x/a.partial"):  # of others who work here
            (here / name).write_text("")
    assert list_objects(in_bucket).keys() == {"x/a", "x/b", "x/seal", "y/a", "y/seal"}
    with working_copy(in_bucket, last=("seal",)) as here:
        assert not fetched  # what was put there is known here
        (here / "x" / "b").unlink()
        build(here / "x", a="4")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert texts(local_copy(in_bucket)) == {"x/a": "4", "x/seal": "4", "y/a": "3", "y/seal": "3"}


def test_a_failed_build_puts_nothing_back(in_bucket):
    with pytest.raises(KeyError), working_copy(in_bucket) as here:
        build(here, a="1")
        raise KeyError
    assert not list_objects(in_bucket)
    with working_copy(in_bucket) as here:  # and is gone on with
        assert (here / "a").exists()


@pytest.mark.parametrize("kept", range(4))
def test_a_killed_putting_back_leaves_no_seal_over_a_mixture(in_bucket, monkeypatch, kept):
    """Whatever of it has happened, x has the seal of what it holds, or none; y stays whole."""
    with working_copy(in_bucket, last=("seal",)) as here:
        build(here / "x", a="1", b="2")
        build(here / "y", a="3")
    put_files, left = copies.put_files, [kept]

    def killed(files):
        for pair in files:
            if not left[0]:
                raise SystemExit
            left[0] -= 1
            yield from put_files([pair])

    ending = pytest.raises(SystemExit) if kept < 3 else contextlib.nullcontext()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "put_files", killed)
        with ending, working_copy(in_bucket, last=("seal",)) as here:
            build(here / "x", a="4", b="5")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place_of(in_bucket) / "another"))
    found = texts(local_copy(in_bucket))
    assert found["y/seal"] == "3" == found["y/a"]
    assert found.get("x/seal") == (None if kept < 3 else "45")
    assert (found["x/a"] + found["x/b"] == "45") == (kept >= 2)
