"""Weights in and out by the command line: every bit kept, mistakes named, nothing half done."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from medscope_jax import convert, models
from medscope_jax.dialogue import CHAT_TEMPLATE
from medscope_jax.distributed import make_mesh, param_shardings
from medscope_jax.errors import UserError
from medscope_jax.files import new_folder
from medscope_jax.models import weight_arrays, weights
from medscope_jax.models.hf import safetensors_io
from medscope_jax.models.hf.hub_folder import open_hub_folder
from tests.models import model_cases, weights_cases
from tests.models.hf.peft_cases import import_peft

ROOT = Path(__file__).resolve().parent.parent


def tiny(dtype="bfloat16", **changes):
    return dataclasses.replace(model_cases.tiny_config(**changes), dtype=dtype, param_dtype=dtype)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A whole Hugging Face folder in many shards; tests only read it."""
    config = tiny()
    folder = tmp_path_factory.mktemp("convert") / "hf"
    drawn = weights_cases.random_weights(config, "bfloat16")
    return weights_cases.write_folder(folder, config, drawn, shard_bytes=20_000)


@pytest.fixture(scope="module")
def checkpoint(source):
    """The weights folder of `source`; tests only read it."""
    target = source.parent / "checkpoint"
    convert.import_folder(source, target)
    return target


def bits(folder):
    """The bytes, dtype and shape of every tensor of a Hugging Face folder."""
    found, problems = safetensors_io.read_folder(folder)
    assert not problems
    return {name: (t.kind, t.shape, t.read().tobytes()) for name, t in found.items()}


def same_bits(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16"])
@pytest.mark.parametrize("tied", [True, False])
def test_round_trip_keeps_every_bit(tied, dtype, tmp_path, capsys):
    config = tiny(dtype, tied=tied, kv_heads=1 if tied else 4)
    drawn = weights_cases.random_weights(config, dtype)
    hf, there, back = tmp_path / "hf", tmp_path / "there", tmp_path / "deep" / "back"
    weights_cases.write_folder(hf, config, drawn, shard_bytes=50_000)
    convert.main(["import", "--source", str(hf), "--target", str(there)])
    printed = capsys.readouterr().out
    assert f"{models.count_params(config):,} parameters in {dtype}" in printed
    assert "can't be asked before this is mended: " in printed and "tokenizer.json" in printed
    assert models.read_model(there) == config
    same_bits(
        models.load_params(there, models.param_shapes(config)), models.import_hf(drawn, config)
    )
    convert.main(["export", "--source", str(there), "--target", str(back)])
    assert bits(back) == bits(hf)
    for name in (*weights_cases.COMPANIONS, "config.json"):
        assert (back / name).read_bytes() == (hf / name).read_bytes(), name
    assert not list(tmp_path.rglob("*.partial"))


def test_an_export_has_a_chat_template(source, checkpoint, tmp_path):
    """The one that came with the weights, or else ours, with tools and frames."""
    convert.export_folder(checkpoint, tmp_path / "own")
    assert not list((tmp_path / "own").glob("chat_template.*"))  # tokenizer_config.json has one
    folder = shutil.copytree(source, tmp_path / "hf")
    (folder / "tokenizer_config.json").write_text("{}")
    convert.import_folder(folder, tmp_path / "ck")
    convert.export_folder(tmp_path / "ck", tmp_path / "out")
    added = tmp_path / "out" / "chat_template.jinja"
    assert added.read_text() == CHAT_TEMPLATE.read_text() and "tool_call" in added.read_text()


def test_paths_as_people_type_them(source, tmp_path, monkeypatch):
    """Relative, and through the folder above."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert.main(["import", "--source", str(source), "--target", "../there"])
    config = models.read_model(Path("../there"))
    loaded = models.load_params(Path("../there"), models.param_shapes(config))
    models.save_params(Path("../here/again"), loaded, config)
    convert.main(["export", "--source", "again", "--target", "../back"])
    assert bits(tmp_path / "back") == bits(source)


def test_large_arrays_go_in_blocks(source, tmp_path, monkeypatch):
    """As at real size: chunks smaller than a layer, blocks smaller than a tensor."""
    monkeypatch.setattr(weight_arrays, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(convert, "_BLOCK_BYTES", 1500)
    config = convert.import_folder(source, tmp_path / "ck")
    stored = weights.open_arrays(tmp_path / "ck", models.param_shapes(config))
    kernel = stored["text", "layers", "mlp", "up_proj", "kernel"]
    assert kernel.chunk_layout.write_chunk.shape == (1, 16, 20)
    assert stored["text", "embed_tokens"].chunk_layout.write_chunk.shape == (24, 16)
    done = []
    convert.export_folder(tmp_path / "ck", tmp_path / "hf", done.append, shard_bytes=30_000)
    assert bits(tmp_path / "hf") == bits(source)
    assert sum(done) == 2 * models.count_params(config)
    assert max(done) < 10_000  # of tensors up to 75,264: a chunk's rows are more than a block
    params = models.load_params(tmp_path / "ck", models.param_shapes(config))
    models.save_params(tmp_path / "saved", params, config, like=source)
    convert.export_folder(tmp_path / "saved", tmp_path / "again")
    assert bits(tmp_path / "again") == bits(source)


def test_shards_are_ordered_and_indexed(checkpoint, tmp_path):
    convert.export_folder(checkpoint, tmp_path / "hf", shard_bytes=30_000)
    index = json.loads((tmp_path / "hf" / safetensors_io.INDEX).read_text())
    config = models.read_model(checkpoint)
    assert index["metadata"]["total_size"] == 2 * models.count_params(config)
    files = sorted((tmp_path / "hf").glob("*.safetensors"))
    assert len(files) > 3 and files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    for file in files:
        sizes = [tensor.size for tensor in safetensors_io.read_header(file).values()]
        assert sum(sizes) <= 30_000 or len(sizes) == 1
    layers = [name.split(".")[2] for name in index["weight_map"] if ".layers." in name]
    assert layers == sorted(layers)  # a layer's tensors stand together


def test_both_spellings_of_names(source, tmp_path):
    def rename(name):
        if name.startswith("visual."):
            return "model." + name
        return name.replace("model.", "model.language_model.", 1)

    drawn = weights_cases.random_weights(tiny(), "bfloat16")
    new = weights_cases.write_folder(tmp_path / "new", tiny(), drawn, rename=rename)
    convert.import_folder(new, tmp_path / "ck")
    convert.export_folder(tmp_path / "ck", tmp_path / "back")
    assert bits(tmp_path / "back") == bits(source)


def test_a_tied_models_head_is_the_embedding(source, tmp_path):
    drawn = weights_cases.random_weights(tiny(), "bfloat16")
    drawn["lm_head.weight"] = drawn["model.embed_tokens.weight"]
    folder = weights_cases.write_folder(tmp_path / "hf", tiny(), drawn)
    convert.import_folder(folder, tmp_path / "ck")
    convert.export_folder(tmp_path / "ck", tmp_path / "back")
    assert bits(tmp_path / "back") == bits(source)


@pytest.mark.parametrize("axes", [{}, {"fsdp": 4, "tensor": 2}, {"data": 2, "fsdp": 4}])
def test_plain_orbax_restores_onto_any_mesh(checkpoint, axes):
    config = models.read_model(checkpoint)
    shapes = models.param_shapes(config)
    expected = models.load_params(checkpoint, shapes)
    if axes:
        shardings = param_shardings(shapes, make_mesh(axes, jax.devices()))
        shapes = jax.tree.map(
            lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
            shapes,
            shardings,
        )
    with ocp.StandardCheckpointer() as checkpointer:
        plain = checkpointer.restore((checkpoint / "params").absolute(), shapes)
    same_bits(plain, expected)
    ours = models.load_params(checkpoint, shapes)
    same_bits(ours, expected)
    for leaf, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(shapes), strict=True):
        assert getattr(wanted, "sharding", None) in (None, getattr(leaf, "sharding", None))


def test_loading_casts_where_it_is_asked_to(tmp_path):
    config = tiny()
    drawn = weights_cases.plain_weights(config, "bfloat16")
    folder = weights_cases.write_folder(tmp_path / "hf", config, drawn)
    convert.import_folder(folder, tmp_path / "ck")
    wide = dataclasses.replace(config, param_dtype="float32")
    params = models.load_params(tmp_path / "ck", models.param_shapes(wide))
    same_bits(params, models.import_hf(drawn, wide))
    models.save_params(tmp_path / "wide", params, config, like=tmp_path / "ck")
    assert models.read_model(tmp_path / "wide").param_dtype == "float32"
    convert.export_folder(tmp_path / "wide", tmp_path / "back")
    stated = json.loads((tmp_path / "back" / "config.json").read_text())["torch_dtype"]
    assert stated == "float32" and {kind for kind, *_ in bits(tmp_path / "back").values()} == {
        "F32"
    }


@pytest.fixture
def adapted(source, checkpoint, tmp_path):
    """(folder, params, config) of adapters and a vision tower that were trained on `checkpoint`."""
    lora = models.LoraConfig(rank=3, alpha=5.0, targets=("q_proj", "down_proj"))
    config = tiny()
    drawn = weights_cases.plain_weights(config, "bfloat16")
    convert.import_folder(
        weights_cases.write_folder(tmp_path / "hf", config, drawn), tmp_path / "base"
    )
    config = dataclasses.replace(config, lora=lora)
    params = models.add_lora(models.import_hf(drawn, config), config, jax.random.key(0))
    adapters = jax.tree.map(lambda leaf: leaf + 0.1, models.split_lora(params)[1])
    tower = models.import_hf(weights_cases.plain_weights(config, "bfloat16", seed=2), config)[
        "vision"
    ]
    part = {**adapters, "vision": tower}
    models.save_params(tmp_path / "trained", part, config, base=tmp_path / "base")
    return tmp_path / "trained", models.join_params(params, part), config


def test_a_folder_may_hold_what_was_trained(adapted):
    folder, params, config = adapted
    assert models.read_model(folder) == config
    same_bits(models.load_params(folder, models.weight_shapes(config)), params)
    stored = sum(file.stat().st_size for file in (folder / "params").rglob("*"))
    assert stored < 2 * models.count_params(config)  # the base is pointed to, not copied
    assert (folder / "tokenizer.json").is_file()
    (folder.parent / "base").rename(folder.parent / "elsewhere")
    with pytest.raises(UserError, match="the rest, .*/base, is not there"):
        models.load_params(folder, models.weight_shapes(config))


def test_adapters_are_merged_on_export(adapted, tmp_path):
    folder, params, config = adapted
    convert.main(["export", "--source", str(folder), "--target", str(tmp_path / "out")])
    found, _ = safetensors_io.read_folder(tmp_path / "out")
    expected = models.export_hf(models.merge_lora(params, config), config)
    plain = models.export_hf(models.split_lora(params)[0], config)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        ours = found[name].read()
        assert ours.dtype == array.dtype
        if name.startswith("model.layers.") and name.endswith(
            ("q_proj.weight", "down_proj.weight")
        ):
            wide = array.astype(np.float32)
            np.testing.assert_allclose(ours.astype(np.float32), wide, rtol=2**-7)  # one bit
            assert np.abs(wide - plain[name].astype(np.float32)).max() > 0.01
        else:
            assert ours.tobytes() == array.tobytes(), name


def test_adapters_go_out_as_pefts(adapted, tmp_path, capsys):
    folder, params, config = adapted
    arguments = ["--source", str(folder), "--target", str(tmp_path / "out"), "--adapter"]
    convert.main(["export", *arguments])
    count = sum(leaf.size for leaf in jax.tree.leaves(models.adapter_shapes(config, config.lora)))
    assert f"{count:,} parameters of adapters" in capsys.readouterr().out
    values = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    found = safetensors_io.read_header(tmp_path / "out" / "adapter_model.safetensors")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    tensors = {name: tensor.read() for name, tensor in found.items()}
    adapters, lora = import_peft(tensors, values, config)
    assert lora == config.lora
    same_bits(adapters, models.split_lora(params)[1])


def test_parameters_of_another_model_are_not_saved(checkpoint, tmp_path):
    config = models.read_model(checkpoint)
    params = models.load_params(checkpoint, models.param_shapes(config))
    params["text"]["layers"]["mlp"]["up_proj"]["kernel_scale"] = np.ones((3, 80), np.float32)
    del params["vision"]["merger_norm"]
    with pytest.raises(ValueError, match="up_proj/kernel_scale; vision/merger_norm/weight"):
        models.save_params(tmp_path / "ck", params, config)
    assert not (tmp_path / "ck").exists()


def broken(tmp_path, change, dtype="bfloat16"):
    """A folder whose weights `change` has had its hands in."""
    drawn = weights_cases.random_weights(tiny(), dtype)
    change(drawn)
    return weights_cases.write_folder(tmp_path / "broken", tiny(), drawn, shard_bytes=20_000)


def wrong_everything(drawn):
    norm = drawn["model.norm.weight"]
    drawn["model.norm.weight"] = norm[:3]
    del drawn["visual.blocks.2.attn.qkv.bias"]
    drawn["model.layers.9.mlp.up_proj.weight"] = norm


def test_every_wrong_tensor_is_named_before_anything_is_written(tmp_path, refusal):
    folder, target = broken(tmp_path, wrong_everything), tmp_path / "ck"
    shard = next(
        f
        for f in sorted(folder.glob("*.safetensors"))
        if "model.layers.2.mlp.up_proj.weight" in safetensors_io.read_header(f)
    )
    shard.write_bytes(shard.read_bytes()[:-2])
    last = list(safetensors_io.read_header(shard))[-1]
    line = refusal(convert.main, ["import", "--source", folder, "--target", target])
    assert line.startswith(f"{folder} is not a whole model: ")
    assert f"{last} is cut off in {shard.name}" in line
    assert "missing visual.blocks.2.attn.qkv.bias" in line
    assert "extra model.layers.9.mlp.up_proj.weight" in line
    assert "model.norm.weight is (3,), must be (64,)" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]


def test_many_problems_are_counted(tmp_path):
    def change(drawn):
        for name in [name for name in drawn if ".layers." in name]:
            del drawn[name]

    with pytest.raises(UserError) as error:
        open_hub_folder(broken(tmp_path, change))
    assert str(error.value).count("missing model.layers.") == 20
    assert str(error.value).endswith("; and 16 more")


def test_a_missing_shard(tmp_path, refusal):
    folder = broken(tmp_path, lambda drawn: None)
    gone = sorted(folder.glob("*.safetensors"))[3]
    lost = list(safetensors_io.read_header(gone))
    gone.unlink()
    line = refusal(convert.main, ["import", "--source", folder, "--target", tmp_path / "ck"])
    assert f"shard {gone.name} is missing, with {len(lost)} tensors" in line
    assert all(f"missing {name}" in line for name in lost)
    assert not (tmp_path / "ck").exists()


def test_dtypes_that_no_model_has(tmp_path):
    def quantized(drawn):
        drawn["model.layers.1.mlp.up_proj.weight"] = np.zeros((80, 64), np.int8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(safetensors_io.DTYPES, "I8", np.dtype(np.int8))  # to be able to write it
        folder = broken(tmp_path, quantized)
    with pytest.raises(UserError, match="quantized .model.layers.1.mlp.up_proj.weight of I8."):
        open_hub_folder(folder)


def test_two_spellings_of_one_tensor(tmp_path):
    def change(drawn):
        drawn["model.visual.merger.ln_q.weight"] = drawn["visual.merger.ln_q.weight"]

    with pytest.raises(UserError, match="visual.merger.ln_q.weight is there in both spellings"):
        open_hub_folder(broken(tmp_path, change))


def test_mistakes_of_the_command_line(source, checkpoint, tmp_path, refusal):
    def refused(command, origin, target):
        return refusal(convert.main, [command, "--source", origin, "--target", target])

    assert "import, save, export; not 'improt' (did you mean 'import'?)" in refused(
        "improt", "a", "b"
    )
    assert "import, save, export; not ''" in refusal(convert.main, [])
    arguments = ["--source", checkpoint, "--target", tmp_path / "ck", "--adapter"]
    assert "has no adapters" in refusal(convert.main, ["export", *arguments])
    assert "unknown argument '--adapter'" in refusal(convert.main, ["import", *arguments])
    assert "no folder" in refused("import", tmp_path / "nowhere", tmp_path / "ck")
    assert "exists already" in refused("import", source, checkpoint)
    assert "exists already" in refused("export", checkpoint, source)
    assert "has no model.json" in refused("export", source, tmp_path / "hf")
    assert "no weights there" in refused("import", checkpoint, tmp_path / "ck")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "llama"}')
    assert "a llama model, not Qwen2.5-VL" in refused("import", other, tmp_path / "ck")
    (tmp_path / "file").write_text("")
    assert "part of this path is a file" in refused("import", source, tmp_path / "file" / "ck")
    assert not (tmp_path / "ck").exists() and not (tmp_path / "hf").exists()


def test_another_models_shapes_are_not_loaded(checkpoint):
    other = models.param_shapes(tiny(kv_heads=1))
    with pytest.raises(UserError, match="k_proj/kernel is .3, 64, 32., must be .3, 64, 16."):
        models.load_params(checkpoint, other)


@pytest.mark.parametrize("end", ["kill", "raise"])
def test_an_import_that_ends_early_leaves_nothing_that_looks_finished(source, tmp_path, end):
    target = tmp_path / "ck"
    script = f"""
import os, signal, sys
from pathlib import Path
from medscope_jax import convert, errors
done = []
def advance(size):
    done.append(size)
    if len(done) == 12:
        {"os.kill(os.getpid(), signal.SIGKILL)" if end == "kill" else "raise OSError(28, 'full')"}
run = convert.import_folder
convert.import_folder = lambda source, target, *_: run(source, target, advance)
errors.run_main(convert.main)
"""
    command = [sys.executable, "-c", script, "import", "--source", source, "--target", target]
    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "."}
    )
    left = [path.name for path in tmp_path.iterdir()]
    if end == "kill":
        assert run.returncode == -signal.SIGKILL, run.stderr
        assert left == ["ck.partial"]
        with pytest.raises(UserError, match="has no model.json"):
            models.read_model(tmp_path / "ck.partial")
    else:
        assert run.returncode == 2 and "disk full" in run.stderr and not left
    config = convert.import_folder(source, target)  # the same command again
    assert [path.name for path in tmp_path.iterdir()] == ["ck"]
    drawn = weights_cases.random_weights(config, "bfloat16")
    same_bits(
        models.load_params(target, models.param_shapes(config)), models.import_hf(drawn, config)
    )


def test_two_processes_do_not_write_one_target(source, tmp_path):
    with new_folder(tmp_path / "ck"), pytest.raises(UserError, match="another process"):
        convert.import_folder(source, tmp_path / "ck")


@pytest.mark.slow
def test_the_7b_in_less_than_4_gb(tmp_path):
    """Exact names and shapes of the 7B in bfloat16, in shards of 4 GB, as sparse files."""
    config = models.preset("7b")
    hf, target = weights_cases.write_sparse_folder(tmp_path / "hf", config), tmp_path / "ck"
    assert len(list(hf.glob("*.safetensors"))) == 5
    command = [sys.executable, "-m", "medscope_jax.convert", "import"]
    run = subprocess.Popen(
        [*command, "--source", hf, "--target", target],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    private, resident = 0, 0  # most bytes, without and with the pages of files
    while run.poll() is None:
        status = Path(f"/proc/{run.pid}/status").read_text().split()
        if "RssAnon:" in status:
            private = max(private, 1024 * int(status[status.index("RssAnon:") + 1]))
            resident = max(resident, 1024 * int(status[status.index("VmHWM:") + 1]))
        time.sleep(0.05)
    assert run.returncode == 0 and "8,292,166,656 parameters in bfloat16" in run.stdout.read()
    print(f"private {private / 1e9:.2f} GB, resident {resident / 1e9:.2f} GB")
    assert private < 4e9 and resident < 4e9
    assert models.read_model(target) == config
    stored = weights.open_arrays(target, models.param_shapes(config))
    for path, leaf in convert.huggingface.leaves(models.param_shapes(config)):
        for name, layer in convert.huggingface.places(path, leaf.shape):
            place = stored[path] if layer is None else stored[path][layer]
            ends = []
            for rows in (slice(0, 1), slice(-1, None)):
                size = place.shape[convert.huggingface.first_axis(path)]
                start, stop, _ = rows.indices(size)
                part = convert._rows(place, path, start, stop).read().result()
                ends.append(convert.huggingface.to_theirs(path, part).ravel())
            np.testing.assert_array_equal(
                ends[0][: weights_cases.STAMP],
                weights_cases.stamp(name, 0, "bfloat16")[: ends[0].size],
            )
            np.testing.assert_array_equal(
                ends[1][-weights_cases.STAMP :],
                weights_cases.stamp(name, 1, "bfloat16")[-ends[1].size :],
            )
