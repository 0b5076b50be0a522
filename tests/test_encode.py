"""Banks of a run's suite and of imported weights, as the entry point stores them."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from medscope_jax import encode as bank_builder
from medscope_jax.bank import make_bank
from medscope_jax.bank.bank_build import build_bank
from medscope_jax.bank.bank_store import load_bank
from medscope_jax.data.open_suite import open_suite
from medscope_jax.models import (
    ModelConfig,
    TextConfig,
    VisionConfig,
    encode_frames,
    init_params,
    save_params,
)
from medscope_jax.training import split_bank as bank_room
from medscope_jax.training.run import ENCODE_FRAMES, load_split, make_run, make_split_bank, run_mesh
from medscope_jax.training.split_bank import split_bank
from medscope_jax.training.stage import newest_model
from medscope_jax.training.workdir import read_workdir

SPLIT = "validation"


@pytest.fixture(scope="module")
def run(tmp_path_factory, micro_run):
    """A finished run of its own copy, and its newest model's parameters."""
    folder = tmp_path_factory.mktemp("bank") / "run"
    shutil.copytree(micro_run, folder)
    workdir, config = read_workdir(folder)
    run = make_run(config, workdir, run_mesh(config), open_suite(config, workdir.path))
    return run, newest_model(run, workdir)[1]


def bits(bank):
    return [
        (leaf.dtype.name, leaf.shape, np.asarray(leaf).tobytes())
        for leaf in jax.tree.leaves(bank.padded())
    ]


def no_encoding(monkeypatch):
    def build(folder, sources, encode, *rest):
        return build_bank(folder, sources, lambda frames: pytest.fail("encoded again"), *rest)

    monkeypatch.setattr(bank_room, "build_bank", build)
    monkeypatch.setattr(bank_room, "build_videos", lambda *_: pytest.fail("encoded again"))


def test_a_stored_bank_is_the_split_bank(run, monkeypatch, capsys):
    """Bit for bit, made by the entry point or by the function, and then only read."""
    run, params = run
    split = load_split(run, SPLIT)
    expected = bits(make_split_bank(run, params, split))
    arguments = ["--workdir", str(run.folder), "--split", SPLIT, "--dtype", "float32"]
    bank_builder.main(arguments)
    printed = capsys.readouterr().out
    assert "2 videos encoded, 0 were there\nfloat32 holds the tower's output to the bit" in printed
    with monkeypatch.context() as patch:
        no_encoding(patch)
        assert bits(bank_room.stored_bank(run, params, split)) == expected
        asked = ConfigDict(run.config.to_dict())
        asked.video.stored_bank = "float32"
        asking = dataclasses.replace(run, config=asked)
        assert bits(split_bank(asking, params, split, "test")) == expected
    assert bits(split_bank(run, params, split, "test")) == expected  # not asked for: made anew

    # Another tower, of the same shape: its own bank, without a word of the old one.
    other = jax.tree.map(lambda leaf: leaf * 1.01, {"vision": params["vision"]})
    changed = bits(bank_room.stored_bank(run, other, split))
    assert changed == bits(make_split_bank(run, other, split)) != expected
    bank_builder.main(arguments)
    printed = capsys.readouterr().out
    for name in split.rows:
        assert f"{name}: made again, it was made of other weights of the vision tower" in printed
    assert "2 videos encoded, 0 were there" in printed


def test_native_pairs_are_stored_as_pairs(run):
    """As make_split_bank takes them; read from the data set they are the same videos."""
    run, params = run
    config = run.config.copy_and_resolve_references()
    config.video.native_pairs = True
    run = dataclasses.replace(run, config=config)
    split = load_split(run, SPLIT)
    stored = bank_room.stored_bank(run, params, split)
    assert bits(stored) == bits(make_split_bank(run, params, split))
    sources = bank_builder.suite_sources(run.suite, SPLIT, pairs=True)
    made_of = bank_room.preprocessing(config.video)
    folder = bank_room.bank_folder(run.folder, "float32")
    vision = params["vision"]
    built = bank_room.build_vision_bank(folder, run.model, vision, sources, made_of, "float32")
    assert (built.made, built.kept) == (0, 2)


def test_rounded_banks_say_their_error(run, capsys):
    run, params = run
    split = load_split(run, SPLIT)
    exact = np.asarray(make_split_bank(run, params, split).padded().tokens, np.float64)
    found = {}
    for dtype in ("bfloat16", "int8"):
        arguments = ["--workdir", str(run.folder), "--split", SPLIT]
        bank_builder.main(arguments + ["--dtype", dtype] * (dtype != "bfloat16"))
        printed = capsys.readouterr().out
        bank = bank_room.stored_bank(run, params, split, dtype)
        assert bank.tokens.dtype == "bfloat16"
        index = json.loads((run.folder / "banks" / dtype / "index.json").read_text())
        errors = [video["relative_rms"] for video in index["videos"].values()]
        assert list(index["videos"]) == sorted(split.rows)
        off = np.asarray(bank.padded().tokens, np.float64) - exact
        found[dtype] = np.linalg.norm(off) / np.linalg.norm(exact)
        said = float(printed.split(" is off by ")[1].split(" %")[0]) / 100
        assert min(errors) - 1e-5 < said < max(errors) + 1e-5
    # bfloat16 comes back as it is; int8 is rounded once more on its way to bfloat16.
    assert abs(found["bfloat16"] - 0.0017) < 0.0005 and found["bfloat16"] < found["int8"] < 0.03


def test_names_are_asked_for(run):
    run, params = run
    split = load_split(run, SPLIT)
    with pytest.raises(ValueError, match="an id of its own"):
        bank_room.stored_bank(run, params, SimpleNamespace(videos=split.videos, rows={}))


def test_mistakes_are_one_line(run, refusal, tmp_path):
    folder = run[0].folder
    main = bank_builder.main
    frames = next((folder / "suite" / "tfds" / "phantom_frames").iterdir())
    suite = frames.parent.parent / "phantom_suite"
    workdir = ["--workdir", folder, "--split", SPLIT]
    there = ["--checkpoint", tmp_path, "--target", tmp_path / "bank", "--split", "train"]
    assert "name either --workdir" in refusal(main, ["--split", SPLIT])
    assert "name either --workdir" in refusal(main, [*workdir, "--checkpoint", folder])
    assert "go with --checkpoint" in refusal(main, [*workdir, "--target", tmp_path])
    assert "go with --checkpoint" in refusal(main, there)
    assert "did you mean 'bfloat16'" in refusal(main, [*workdir, "--dtype", "float16"])
    assert "no split 'dev'" in refusal(main, ["--workdir", folder, "--split", "dev"])
    assert "holds no run" in refusal(main, ["--workdir", tmp_path, "--split", SPLIT])
    assert "no built TFDS data set" in refusal(main, [*there, "--data_dir", tmp_path])
    part = next((suite / "eval").iterdir())
    assert "no data set of frames: it has no frames, times" in refusal(
        main, [*there, "--data_dir", part]
    )
    assert "has no model.json" in refusal(main, [*there, "--data_dir", frames])
    there[-1] = "dev"
    assert "has no split 'dev'; it has" in refusal(main, [*there, "--data_dir", frames])


def test_imported_weights_get_their_bank(run, tmp_path, capsys):
    """The tower alone is loaded; its bank is make_bank's of the same frames."""
    run, _ = run
    vision = VisionConfig(
        depth=1, hidden_size=32, intermediate_size=48, num_heads=2, window_size=28,
        fullatt_block_indexes=(0,), out_hidden_size=32,
    )  # fmt: skip
    text = TextConfig(
        vocab_size=128, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, mrope_section=(4, 2, 2),
    )  # fmt: skip
    model = ModelConfig(vision, text)
    params = init_params(model, jax.random.key(0))
    save_params(tmp_path / "checkpoint", params, model)
    frames = next((run.folder / "suite" / "tfds" / "phantom_frames").iterdir())
    target = tmp_path / "bank"
    bank_builder.main(
        ["--checkpoint", str(tmp_path / "checkpoint"), "--data_dir", str(frames)]
        + ["--split", SPLIT, "--target", str(target), "--dtype", "float32"]
    )
    assert "2 videos encoded, 0 were there" in capsys.readouterr().out

    split = load_split(run, SPLIT)
    sources = bank_builder.frame_sources(frames, SPLIT)
    made_of = bank_room.preprocessing({"height": 28, "width": 56})
    built = bank_room.build_vision_bank(
        target, model, params["vision"], sources, made_of, "float32"
    )
    assert (built.made, built.kept) == (0, 2)
    encode = jax.jit(lambda frames: encode_frames(params, model, frames))
    stamps = lambda times: [[1]] * len(times)  # noqa: E731
    expected = make_bank(encode, split.videos, stamps, ENCODE_FRAMES)
    found = load_bank(target, built.key, sources, stamps)
    assert bits(found) == bits(expected)
