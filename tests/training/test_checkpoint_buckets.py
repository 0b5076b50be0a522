"""Checkpoints in a bucket: complete by their marker, never half read, damage noticed."""

import pytest

from medscope_jax import copies
from medscope_jax.buckets import list_objects
from medscope_jax.errors import UserError
from medscope_jax.files import write_bytes
from medscope_jax.training import checkpoint
from medscope_jax.training.checkpoint import Checkpoints
from tests.training import step_cases as cases

MARKER = "commit_success.txt"


def state(step):
    return {"params": cases.params(), "step": step}


def fill(folder, *steps, **options):
    with Checkpoints(folder, **options) as checkpoints:
        for step in steps:
            checkpoints.save(state(step), {"at": step}, {"stage": "warm_up", "step": step})


def restored(folder, **options):
    with Checkpoints(folder, **options) as checkpoints:
        found = checkpoints.restore(state(0))
        assert int(found.state["step"]) == found.meta["step"] == found.data["at"]
        return found.meta["step"]


def test_one_without_its_marker_is_never_read_and_is_removed(in_bucket):
    fill(in_bucket, 1, 2)
    write_bytes(in_bucket / "000003" / "state" / "d" / "0f", b"of a process that was killed")
    (in_bucket / "000002" / MARKER).unlink()
    assert restored(in_bucket, read_only=True) == 1
    numbers = {name.partition("/")[0] for name in list_objects(in_bucket)}
    assert numbers == {"000001", "000002", "000003"}  # whoever only reads changes nothing
    assert restored(in_bucket) == 1
    assert {name.partition("/")[0] for name in list_objects(in_bucket)} == {"000001"}
    fill(in_bucket, 2)
    assert restored(in_bucket) == 2


def test_damage_is_named_and_the_one_before_is_used(in_bucket, caplog):
    fill(in_bucket, 1, 2)
    arrays = in_bucket / "000002" / "state" / "d"
    (name,) = list_objects(arrays)
    data = bytearray((arrays / name).read_bytes())
    data[len(data) // 2] ^= 1
    write_bytes(arrays / name, bytes(data))
    assert restored(in_bucket) == 1
    assert "000002 is damaged and not used" in caplog.text


def test_a_bucket_out_of_reach_is_one_line(in_bucket, monkeypatch):
    fill(in_bucket, 1)
    with Checkpoints(in_bucket) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", unreachable)
        with pytest.raises(UserError) as error:
            checkpoints.save(state(2), {"at": 2}, {"stage": "warm_up", "step": 2})
    assert str(error.value) == (
        f"checkpoint {in_bucket}/000002 can't be saved (no route): those before it are kept; run "
        "the same command again"
    )
    assert restored(in_bucket) == 1


def unreachable(*_, **__):
    raise ValueError("no\nroute")


def test_where_orbax_does_not_write(in_bucket, monkeypatch, tmp_path):
    """It works in a copy, which is put there after each save; another machine goes on from it."""
    monkeypatch.setattr(checkpoint, "_WRITTEN", ("",))

    def on_another_machine(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return restored(in_bucket)

    fill(in_bucket, 1, 2, 3)
    assert {name.partition("/")[0] for name in list_objects(in_bucket)} == {"000002", "000003"}
    assert restored(in_bucket, read_only=True) == on_another_machine("second") == 3
    put_files = copies.put_files

    def killed(files):
        yield next(put_files(files))
        raise SystemExit

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copies, "put_files", killed)
        with pytest.raises(SystemExit):
            fill(in_bucket, 4)
    assert any(name.startswith("000004/") for name in list_objects(in_bucket))
    assert on_another_machine("third") == 3
    assert on_another_machine("second") == 4  # where it was saved
    fill(in_bucket, 5)
    assert on_another_machine("fourth") == 5
    monkeypatch.setattr(checkpoint.jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="several processes store checkpoints in gs://"):
        fill(in_bucket, 6)
