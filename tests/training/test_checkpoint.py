"""Checkpoints: bitwise restores onto any mesh, what is kept, damage noticed."""

import collections
import functools
import math
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from medscope_jax.data import batches as data_lib
from medscope_jax.distributed import abstract, make_mesh, state_shardings
from medscope_jax.errors import UserError
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.train_state import init_state, make_optimizer
from tests.training import step_cases as cases


def make_state(seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    params = {
        "embed": jax.random.normal(keys[0], (16, 8)),
        "layers": {"w": jax.random.normal(keys[1], (2, 8, 8), jnp.bfloat16)},
        "flag": jnp.array([True, False]),
        "small": jnp.arange(5, dtype=jnp.int8),
    }
    floats = {"embed": params["embed"], "layers": params["layers"]}
    optimizer = optax.chain(optax.clip(1.0), optax.adamw(1e-3)).init(floats)
    return {"params": params, "optimizer": optimizer, "step": jnp.int32(seed), "key": keys[3]}


def bits(tree):
    plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    return [np.asarray(plain(leaf)).tobytes() for leaf in jax.tree.leaves(tree)]


def meta(step, stage="warm_up"):
    return {"stage": stage, "step": step, "fingerprint": "abc"}


def fill(directory, *steps, **options):
    with Checkpoints(directory, **options) as checkpoints:
        for step in steps:
            checkpoints.save(make_state(step), {"next_index": step}, meta(step))


def restore(directory, abstract=None, **options):
    with Checkpoints(directory) as checkpoints:
        return checkpoints.restore(make_state() if abstract is None else abstract, **options)


def mesh(*shape):
    devices = np.array(jax.devices()[: np.prod(shape)]).reshape(shape)
    return Mesh(devices, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def test_a_folder_as_people_type_it(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    fill("../run", 3)
    assert restore("../run").meta == meta(3)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_restore_is_bitwise(place, asynchronous):
    assert restore(place) is None
    fill(place, 3, asynchronous=asynchronous)
    for wanted in (make_state(), jax.eval_shape(make_state)):
        restored = restore(place, wanted)
        assert bits(restored.state) == bits(make_state(3))
        assert jax.tree.structure(restored.state) == jax.tree.structure(make_state())
        assert restored.data == {"next_index": 3} and restored.meta == meta(3)
    # Restored arrays are as free as new ones, and a restored key goes on as the saved one.
    moved = jax.device_put(jnp.ones(()), NamedSharding(mesh(2, 4), PartitionSpec()))
    jax.jit(lambda a, b: a.sum() + b)(restored.state["params"]["embed"], moved)
    assert bits(jax.random.normal(restored.state["key"])) == bits(
        jax.random.normal(make_state(3)["key"])
    )


def test_restore_onto_another_mesh(tmp_path):
    def place(state, mesh):
        def spec(leaf):
            return PartitionSpec("fsdp") if leaf.ndim and leaf.shape[0] == 16 else PartitionSpec()

        shardings = jax.tree.map(lambda leaf: NamedSharding(mesh, spec(leaf)), state)
        return jax.device_put(state, shardings)

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(place(make_state(1), mesh(2, 4)), None, meta(1))
    for target in (mesh(1, 8), mesh(4, 2), mesh(1, 1)):
        wanted = place(make_state(0), target)
        restored = restore(tmp_path, wanted).state
        assert bits(restored) == bits(make_state(1))
        places = [leaf.sharding for leaf in jax.tree.leaves(wanted)]
        assert [leaf.sharding for leaf in jax.tree.leaves(restored)] == places
    assert bits(restore(tmp_path).state) == bits(make_state(1))


def test_a_training_state_from_eight_devices_to_one_and_back(tmp_path):
    """Heads and widths over tensor, weights over fsdp; then one device; then other eight."""
    optimizer = make_optimizer(
        {"learning_rate": 1e-2, "warmup": 0.2, "weight_decay": 0.0, "clip_norm": 1.0}
        | {"final_scale": 0.1},
        3,
    )
    state = init_state(cases.params(), optimizer, jax.random.key(1), train_vision=True)
    meshes = [
        make_mesh(axes, jax.devices()[: math.prod(axes.values())])
        for axes in ({"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1}, {"fsdp": 4, "tensor": 2})
    ]
    with Checkpoints(tmp_path) as checkpoints:
        moved = jax.device_put(state, state_shardings(state, meshes[0]))
        for step, target in enumerate([*meshes[1:], meshes[0]]):
            checkpoints.save(moved, None, meta(step))
            moved = checkpoints.restore(abstract(state, state_shardings(state, target))).state
            assert bits(moved) == bits(state)
            kernel = moved.params["text"]["layers"]["mlp"]["up_proj"]["kernel"]
            share = target.shape["fsdp"] * target.shape["tensor"]
            assert kernel.addressable_shards[0].data.size * share == kernel.size


def test_keeps_the_newest_and_each_finished_stage(tmp_path):
    with Checkpoints(tmp_path, latest=2) as checkpoints:
        for stage in ("warm_up", "rl"):
            for step in range(3):
                checkpoints.save(make_state(step), None, meta(step, stage), step == 2)
        checkpoints.save(make_state(9), None, meta(9, "extra"))
    with Checkpoints(
        tmp_path, latest=2
    ) as checkpoints:  # what is finished is known after a restart
        checkpoints.save(make_state(10), None, meta(10, "extra"))
        kept = [(m["stage"], m["step"]) for m in checkpoints.metas()]
        assert kept == [("warm_up", 2), ("rl", 2), ("extra", 9), ("extra", 10)]
        checkpoints.save(make_state(11), None, meta(11, "rl"), stage_finished=True)
        assert [m["step"] for m in checkpoints.metas()] == [2, 10, 11]
        warm_up = checkpoints.restore(make_state(), stage="warm_up")
        assert warm_up.meta == meta(2) and bits(warm_up.state) == bits(make_state(2))
        assert checkpoints.restore(make_state(), stage="extra") is None


def test_structure_by_stage_and_parts_of_a_state(tmp_path):
    fill(tmp_path, 4)
    seen = []
    restored = restore(tmp_path, lambda m: seen.append(m) or make_state())
    assert seen == [meta(4)] and restored.meta == meta(4)
    part = restore(tmp_path, {"params": make_state()["params"]}, partial=True)
    assert bits(part.state["params"]) == bits(make_state(4)["params"])
    with pytest.raises(UserError, match="is of another model: key is uint32.2. there, but nothing"):
        restore(tmp_path, {"params": make_state()["params"]})
    other = make_state() | {"step": jnp.zeros(3)}
    with pytest.raises(UserError, match=r"step is int32\[\] there, but float32\[3\] here"):
        restore(tmp_path, other)


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "flipped bit": lambda folder: flip(largest_file(folder / "state")),
    "truncated arrays": lambda folder: truncate(largest_file(folder / "state")),
    "missing arrays": lambda folder: shutil.rmtree(folder / "state"),
    "missing metadata": lambda folder: shutil.rmtree(folder / "meta"),
    "truncated data": lambda folder: truncate(folder / "data" / "metadata"),
    "other data": lambda folder: (folder / "data" / "metadata").write_text('{"state": {}}'),
    "empty folder": lambda folder: [shutil.rmtree(p) for p in folder.iterdir() if p.is_dir()],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_and_the_one_before_is_used(tmp_path, caplog, kind):
    fill(tmp_path, 1, 2)
    DAMAGE[kind](tmp_path / "000002")
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(make_state())
        assert restored.meta == meta(1) and bits(restored.state) == bits(make_state(1))
        warnings = [r.getMessage() for r in caplog.records if r.name.startswith("medscope_jax")]
        assert len(warnings) == 1 and "000002 is damaged and not used" in warnings[0]
        # It goes on from there, and the damaged one does not push a whole one out.
        checkpoints.save(make_state(2), {"next_index": 2}, meta(2))
        assert [m["step"] for m in checkpoints.metas()] == [1, 2]
    assert restore(tmp_path).meta == meta(2)


def damaged_files(folder, dice):
    """Each way to damage each file of a checkpoint, one at a time: (what, to do it, to undo it)."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        cut, place = whole[: dice.randrange(len(whole))], dice.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << dice.randrange(8)
        name = path.relative_to(folder)
        undo = functools.partial(path.write_bytes, whole)
        yield f"{name} cut to {len(cut)}", functools.partial(path.write_bytes, cut), undo
        yield f"{name} flipped at {place}", functools.partial(path.write_bytes, flipped), undo
        yield f"{name} deleted", path.unlink, undo


def test_damage_of_any_file_gives_no_wrong_state(tmp_path, caplog):
    """Either the file does not matter and every bit is right, or the checkpoint before is used."""
    fill(tmp_path, 1, 2)
    outcomes = collections.Counter()
    for what, damage, undo in damaged_files(tmp_path / "000002", random.Random(0)):
        damage()
        caplog.clear()
        restored = restore(tmp_path)
        step = restored.meta["step"]
        assert bits(restored.state) == bits(make_state(step)), what
        assert restored.data == {"next_index": step}, what
        named = "000002 is damaged and not used" in caplog.text
        assert named == (step == 1), what
        outcomes[step] += 1
        undo()
    assert outcomes[1] >= 10 and outcomes[2], outcomes
    assert restore(tmp_path).meta == meta(2)


def test_altered_arrays_are_noticed_though_they_read_well(tmp_path, caplog):
    fill(tmp_path, 1, 2)
    fill(tmp_path / "other", 7, 8)
    shutil.rmtree(tmp_path / "000002" / "state")
    shutil.copytree(tmp_path / "other" / "000002" / "state", tmp_path / "000002" / "state")
    assert restore(tmp_path).meta == meta(1)
    assert "were altered" in caplog.text


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path):
    fill(tmp_path, 1, 2)
    for name in ("000001", "000002"):
        flip(largest_file(tmp_path / name / "state"))
    with pytest.raises(UserError, match="no intact checkpoint .2 damaged."):
        restore(tmp_path)


def test_a_damaged_finished_stage_is_as_one_not_finished(tmp_path):
    fill(tmp_path, 1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(2), None, meta(2), stage_finished=True)
        flip(largest_file(tmp_path / "000002" / "state"))
        assert checkpoints.restore(make_state(), stage="warm_up") is None
        assert checkpoints.restore(make_state(), stage="rl") is None
        assert checkpoints.restore(make_state()).meta == meta(1)


def test_half_written_leftovers_are_cleared(tmp_path):
    fill(tmp_path, 1, 2)
    shutil.copytree(tmp_path / "000002", tmp_path / "000003.orbax-checkpoint-tmp")
    shutil.rmtree(tmp_path / "000003.orbax-checkpoint-tmp" / "meta")
    assert restore(tmp_path).meta == meta(2)
    fill(tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000002", "000003"]


def test_reading_beside_a_running_save_changes_nothing(tmp_path):
    fill(tmp_path, 1, 2)
    shutil.copytree(tmp_path / "000002", tmp_path / "000003.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore(make_state()).meta == meta(2)
    assert (tmp_path / "000003.orbax-checkpoint-tmp" / "meta").exists()
    with Checkpoints(tmp_path / "none", read_only=True) as checkpoints:
        assert checkpoints.metas() == [] and checkpoints.restore(make_state()) is None
    assert not (tmp_path / "none").exists()


def test_data_position_goes_with_the_state(tmp_path):
    def batches():
        records = list(range(10))
        return data_lib.make_batches(records, lambda r: {"x": np.int32(r)}, batch_size=3, seed=5)

    iterator = batches()
    for _ in range(5):
        next(iterator)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(5), iterator.get_state(), meta(5))
    resumed = batches()
    resumed.set_state(restore(tmp_path).data)
    for _ in range(6):
        assert (next(resumed)["x"] == next(iterator)["x"]).all()
