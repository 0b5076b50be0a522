"""Objects are whole or not there, and made by one of several processes."""

import concurrent.futures
import os

import pytest

from medscope_jax import buckets
from medscope_jax.buckets import (
    create_object,
    get_files,
    list_objects,
    put_files,
    put_object,
    remove_left_objects,
    remove_objects,
)
from medscope_jax.errors import UserError
from medscope_jax.files import is_there, open_regular, size_of, write_bytes
from medscope_jax.paths import filesystem, to_path


def test_a_file_of_either_kind(place):
    place.mkdir(parents=True, exist_ok=True)
    path = place / "é b.json"
    assert not is_there(path) and size_of(path) == 0
    for data in (b"old", b"", b"\n a mail would lose it: \r", os.urandom(10**6)):
        write_bytes(path, data, private=True)
        with open_regular(path) as file:
            assert file.read() == data
        assert is_there(path) and size_of(path) == len(data)
    assert [found.name for found in place.iterdir()] == [path.name]  # nothing temporary is left
    with pytest.raises(FileNotFoundError):
        open_regular(place / "none")


def test_an_object_that_can_not_be_put_in_place_leaves_the_old_one(in_bucket, monkeypatch):
    path = in_bucket / "a"
    put_object(path, b"old")
    monkeypatch.setattr(filesystem(path), "cp_file", fail)
    with pytest.raises(UserError, match=r"a can't be reached \(no network\): check its name, your"):
        put_object(path, b"new")
    assert path.read_bytes() == b"old" and list(list_objects(in_bucket)) == ["a"]


def fail(*_, **__):
    raise RuntimeError("no network")


def test_what_a_killed_process_was_putting_is_removed(in_bucket):
    for name in ("a", ".0f.tmp", "b/.0f.tmp"):
        (in_bucket / name).write_bytes(b"x")
    assert list(list_objects(in_bucket)) == ["a"]
    remove_left_objects(in_bucket)
    left = filesystem(in_bucket).find(str(in_bucket))
    assert [name.rpartition(in_bucket.name + "/")[2] for name in left] == ["a", "b/.0f.tmp"]
    remove_left_objects(in_bucket / "none")


def test_one_of_many_creates_an_object(in_bucket):
    def create(number):
        try:
            create_object(in_bucket / "one", str(number).encode())
        except FileExistsError:
            return None
        return number

    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        made = [number for number in executor.map(create, range(24)) if number is not None]
    assert len(made) == 1 and (in_bucket / "one").read_bytes() == str(made[0]).encode()


def test_no_such_bucket(gcs):
    for action in (put_object, create_object):
        with pytest.raises(UserError, match="there is no such bucket"):
            action(to_path("gs://nobody/a"), b"")


def test_files_go_there_and_back(in_bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "_TOGETHER", 3)
    names = ["a", "b/c", "b/d e", "b/f/g", "é"]
    for name in names:
        path = tmp_path / "from" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(1000) + name.encode() + b"\r\n\x00")
    pairs = [(tmp_path / "from" / name, in_bucket / name) for name in names]
    assert list(put_files(pairs)) == [path for path, _ in pairs]
    found = list_objects(in_bucket)
    assert sorted(found) == sorted(names) and found["a"].size == 1004
    wanted = [(in_bucket / name, tmp_path / "to" / name, found[name]) for name in names]
    list(get_files(wanted))
    for name in names:
        assert (tmp_path / "to" / name).read_bytes() == (tmp_path / "from" / name).read_bytes()
    assert list_objects(in_bucket / "b").keys() == {"c", "d e", "f/g"}
    remove_objects(in_bucket / name for name in [*names, "none"])
    assert not list_objects(in_bucket)


def test_an_object_that_no_file_can_be(in_bucket, monkeypatch):
    """Whoever may write into a bucket shall not write beside its copy."""
    name = str(in_bucket).removeprefix("gs://") + "/a/../../../b"
    known = {name: {"type": "file", "size": 1}}
    monkeypatch.setattr(filesystem(in_bucket), "find", lambda *_, **__: known)
    with pytest.raises(UserError, match="has an object 'a/../../../b', which is no path"):
        list_objects(in_bucket)


def test_what_changed_while_it_was_copied_is_no_copy(in_bucket, tmp_path):
    put_object(in_bucket / "a", b"first")
    found = list_objects(in_bucket)["a"]
    put_object(in_bucket / "a", b"other")
    with pytest.raises(UserError, match="a changed while it was copied: run again"):
        list(get_files([(in_bucket / "a", tmp_path / "a", found)]))
    assert not list(tmp_path.glob("*a*"))
