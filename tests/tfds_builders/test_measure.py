"""What a build measures for a config is what its training finds."""

import jax
import numpy as np
import pytest

from medscope_jax.config import load_config
from medscope_jax.data import row_lengths
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import UserError
from medscope_jax.train import open_run
from medscope_jax.training import stage_rows as room
from medscope_jax.training.imported import with_checkpoint_shapes
from medscope_jax.training.run import load_split
from medscope_jax.training.workdir import open_workdir
from tests import ask_cases
from tests.tfds_builders import clinvideo_cases as cases
from tfds_builders import build as build_room
from tfds_builders.build import main

VIDEO = {"fps": 2.0, "height": 28, "width": 56, "max_frames": 40, "min_frames": 1}
CONFIG = """
from tpu_configs.cpu import get_config as plain

def get_config(arg=""):
    config = plain("smoke")
    config.video.update(fps={fps}, height={height}, width={width}, min_frames={min_frames})
    config.dialogue.length, config.dialogue.clip_length = 4000, 2000
    return config
"""


@pytest.fixture
def built(tmp_path, monkeypatch):
    """(data folder, config file, checkpoint); the suite as cases.write_folder makes it."""
    manual, data = tmp_path / "manual", tmp_path / "data"
    cases.write_folder(manual)
    sources = {"scope": cases.scope_rows(), "echo": cases.echo_rows()}
    cases.write_suite(manual, sources, video=VIDEO)
    monkeypatch.setattr(build_room, "read_source", lambda: cases.read_rows)
    file = tmp_path / "config.py"
    file.write_text(CONFIG.format(**VIDEO))
    return manual, data, file, ask_cases.make_checkpoint(tmp_path)


@pytest.mark.parametrize("imported", [True, False])
def test_a_run_finds_what_the_build_has_measured(built, tmp_path, monkeypatch, capsys, imported):
    """Of imported weights, or with a tokenizer of its own."""
    manual, data, file, checkpoint = built
    where = ["--manual_dir", str(manual), "--data_dir", str(data), "--num-processes", "1"]
    given = ["--checkpoint", str(checkpoint)] if imported else []
    main(["clinvideo_suite", *where, "--measure_for", str(file), *given])
    assert "warm_up: 1 of 1 records of cap make rows" in capsys.readouterr().out
    tables = sorted(path.name for path in (data / "lengths").iterdir())
    overrides = [f"model.checkpoint={checkpoint}"] if imported else []
    config = load_config(str(file), overrides)
    config = with_checkpoint_shapes(config)
    mesh, suite = make_mesh({}, jax.devices()[:1]), ClinvideoReader(data)
    with open_workdir(tmp_path / "run", config, True) as workdir:
        run = open_run(config, suite, workdir, mesh)
    split = load_split(run, "train")
    for stage in ("warm_up", "cold_start"):
        kept = room.stage_rows(run, stage, split)
        with monkeypatch.context() as patch:
            patch.setattr(row_lengths, "measure", None)  # nothing is measured again
            patch.setattr(room, "_KEPT_RECORDS", 0)
            found = room.stage_rows(run, stage, split)
        np.testing.assert_array_equal(np.stack(found.lengths), np.stack(kept.lengths))
        assert len(found.lengths.positions) > 0
    assert sorted(path.name for path in (data / "lengths").iterdir()) == tables


def test_what_can_not_be_measured_is_one_line(built, tmp_path):
    manual, data, file, checkpoint = built
    where = ["--manual_dir", str(manual), "--data_dir", str(data)]
    with pytest.raises(UserError, match="--checkpoint needs --measure_for"):
        main(["clinvideo_suite", *where, "--checkpoint", str(checkpoint)])
    flags = ["--measure_for", str(file), "--checkpoint", str(checkpoint)]
    with pytest.raises(UserError, match="for all of clinvideo_suite: leave --config out"):
        main(["clinvideo_suite", *where, "--config", "cap", *flags])
    main(["clinvideo_suite", *where, "--num-processes", "1"])
    (tmp_path / "other.py").write_text(CONFIG.format(**VIDEO | {"fps": 3.0}))
    flags = ["--measure_for", str(tmp_path / "other.py"), "--checkpoint", str(checkpoint)]
    with pytest.raises(UserError, match="has video.fps 3.0, but .* was built with"):
        main(["clinvideo_suite", *where, *flags])
