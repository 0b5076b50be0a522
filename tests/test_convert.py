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
from tests import convert_cases
from tests.models import weights_cases

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A whole Hugging Face folder in many shards; tests only read it."""
    config = convert_cases.tiny()
    folder = tmp_path_factory.mktemp("convert") / "hf"
    drawn = weights_cases.random_weights(config, "bfloat16")
    return weights_cases.write_folder(folder, config, drawn, shard_bytes=20_000)


@pytest.fixture(scope="module")
def checkpoint(source):
    """The weights folder of `source`; tests only read it."""
    target = source.parent / "checkpoint"
    convert.import_folder(source, target)
    return target


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16"])
@pytest.mark.parametrize("tied", [True, False])
def test_round_trip_keeps_every_bit(tied, dtype, tmp_path, capsys):
    config = convert_cases.tiny(dtype, tied=tied, kv_heads=1 if tied else 4)
    drawn = weights_cases.random_weights(config, dtype)
    hf, there, back = tmp_path / "hf", tmp_path / "there", tmp_path / "deep" / "back"
    weights_cases.write_folder(hf, config, drawn, shard_bytes=50_000)
    convert.main(["import", "--source", str(hf), "--target", str(there)])
    printed = capsys.readouterr().out
    assert f"{models.count_params(config):,} parameters in {dtype}" in printed
    assert "can't be asked before this is mended: " in printed and "tokenizer.json" in printed
    assert models.read_model(there) == config
    convert_cases.same_bits(
        models.load_params(there, models.param_shapes(config)), models.import_hf(drawn, config)
    )
    convert.main(["export", "--source", str(there), "--target", str(back)])
    assert convert_cases.bits(back) == convert_cases.bits(hf)
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
    assert convert_cases.bits(tmp_path / "back") == convert_cases.bits(source)


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
    assert convert_cases.bits(tmp_path / "hf") == convert_cases.bits(source)
    assert sum(done) == 2 * models.count_params(config)
    assert max(done) < 10_000  # of tensors up to 75,264: a chunk's rows are more than a block
    params = models.load_params(tmp_path / "ck", models.param_shapes(config))
    models.save_params(tmp_path / "saved", params, config, like=source)
    convert.export_folder(tmp_path / "saved", tmp_path / "again")
    assert convert_cases.bits(tmp_path / "again") == convert_cases.bits(source)


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

    drawn = weights_cases.random_weights(convert_cases.tiny(), "bfloat16")
    new = weights_cases.write_folder(tmp_path / "new", convert_cases.tiny(), drawn, rename=rename)
    convert.import_folder(new, tmp_path / "ck")
    convert.export_folder(tmp_path / "ck", tmp_path / "back")
    assert convert_cases.bits(tmp_path / "back") == convert_cases.bits(source)


def test_a_tied_models_head_is_the_embedding(source, tmp_path):
    drawn = weights_cases.random_weights(convert_cases.tiny(), "bfloat16")
    drawn["lm_head.weight"] = drawn["model.embed_tokens.weight"]
    folder = weights_cases.write_folder(tmp_path / "hf", convert_cases.tiny(), drawn)
    convert.import_folder(folder, tmp_path / "ck")
    convert.export_folder(tmp_path / "ck", tmp_path / "back")
    assert convert_cases.bits(tmp_path / "back") == convert_cases.bits(source)


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
    convert_cases.same_bits(plain, expected)
    ours = models.load_params(checkpoint, shapes)
    convert_cases.same_bits(ours, expected)
    for leaf, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(shapes), strict=True):
        assert getattr(wanted, "sharding", None) in (None, getattr(leaf, "sharding", None))


def test_loading_casts_where_it_is_asked_to(tmp_path):
    config = convert_cases.tiny()
    drawn = weights_cases.plain_weights(config, "bfloat16")
    folder = weights_cases.write_folder(tmp_path / "hf", config, drawn)
    convert.import_folder(folder, tmp_path / "ck")
    wide = dataclasses.replace(config, param_dtype="float32")
    params = models.load_params(tmp_path / "ck", models.param_shapes(wide))
    convert_cases.same_bits(params, models.import_hf(drawn, wide))
    models.save_params(tmp_path / "wide", params, config, like=tmp_path / "ck")
    assert models.read_model(tmp_path / "wide").param_dtype == "float32"
    convert.export_folder(tmp_path / "wide", tmp_path / "back")
    stated = json.loads((tmp_path / "back" / "config.json").read_text())["torch_dtype"]
    assert stated == "float32" and {
        kind for kind, *_ in convert_cases.bits(tmp_path / "back").values()
    } == {"F32"}


def test_parameters_of_another_model_are_not_saved(checkpoint, tmp_path):
    config = models.read_model(checkpoint)
    params = models.load_params(checkpoint, models.param_shapes(config))
    params["text"]["layers"]["mlp"]["up_proj"]["kernel_scale"] = np.ones((3, 80), np.float32)
    del params["vision"]["merger_norm"]
    with pytest.raises(ValueError, match="up_proj/kernel_scale; vision/merger_norm/weight"):
        models.save_params(tmp_path / "ck", params, config)
    assert not (tmp_path / "ck").exists()


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
    other = models.param_shapes(convert_cases.tiny(kv_heads=1))
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
    convert_cases.same_bits(
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
