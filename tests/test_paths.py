"""Text becomes a path in one place: pathlib's, or epath's of an address."""

import os
import re
from pathlib import Path, PosixPath

import pytest

from medscope_jax import paths
from medscope_jax.errors import UserError
from medscope_jax.paths import check_address, filesystem, is_remote, scheme_of, to_path


def test_a_path_of_this_machine_is_pathlibs(tmp_path):
    for text in ("run", "/data/run", "s3:/bucket", "C:/data", str(tmp_path), ""):
        assert type(to_path(text)) is PosixPath and to_path(text) == Path(text)
        assert not is_remote(text) and scheme_of(text) == ""
    assert to_path(tmp_path) == tmp_path


def test_an_address_stays_one(gcs):
    path = to_path(f"{gcs}/a") / "b.json"
    assert os.fspath(path) == str(path) == f"{gcs}/a/b.json"
    assert (path.name, str(path.parent)) == ("b.json", f"{gcs}/a")
    assert is_remote(path) and scheme_of(path) == "gs"
    assert to_path(path) == path == to_path(f"{gcs}//a/b.json/")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("GS://bucket/a", "did you mean 'gs'"),
        ("memory://a", "of a kind that is not known"),
        ("https://host/a", "of a kind that is not known"),
        ("gs:///", "names no bucket"),
        ("az://container/a", "needs the package adlfs: python -m pip install adlfs"),
    ],
)
def test_an_address_that_is_not_reached(monkeypatch, address, words):
    found = paths.importlib.util.find_spec
    missing = {"adlfs"}
    monkeypatch.setattr(
        paths.importlib.util, "find_spec", lambda name: None if name in missing else found(name)
    )
    for check in (check_address, to_path):
        with pytest.raises(UserError, match="--workdir .*") as error:
            check(address, "--workdir")
        assert words in str(error.value) and "\n" not in str(error.value)


def test_nothing_that_another_process_wrote_is_hidden_by_an_old_listing(in_bucket):
    """Two clients of a bucket: epath's own, and one with a listing of its own."""
    in_bucket.joinpath("one").write_text("1")
    assert [path.name for path in in_bucket.iterdir()] == ["one"]
    assert not (in_bucket / "two").exists()
    filesystem(in_bucket).pipe_file(f"{in_bucket}/two", b"2")
    assert (in_bucket / "two").exists()
    assert sorted(path.name for path in in_bucket.iterdir()) == ["one", "two"]
    filesystem(in_bucket).rm_file(f"{in_bucket}/one")
    assert not (in_bucket / "one").exists()


def test_pathlib_is_given_no_flag_that_may_be_an_address():
    """It would make a folder of it, and say nothing."""
    root = Path(__file__).resolve().parent.parent
    names = "workdir|data_dir|checkpoint|source|target"
    flag = re.compile(rf"\bPath\((flags|args|\w*\.?config)\.[\w.]*({names})\b")
    rooms = [root / "medscope_jax", root / "tfds_builders"]
    texts = [path.read_text() for room in rooms for path in room.rglob("*.py")]
    assert len(texts) > 100 and not [found[0] for text in texts if (found := flag.search(text))]
    assert flag.search("folder = pathlib.Path(flags.workdir)")
