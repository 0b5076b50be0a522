"""Addresses on command lines: one that can't be used there is one line, and no folder is made."""

from pathlib import Path

import pytest

from medscope_jax import ask, convert, evaluate, paths, plan, train
from medscope_jax import encode as bank
from medscope_jax.config import load_config
from medscope_jax.errors import UserError
from medscope_jax.files import check_folder, check_local
from medscope_jax.phantom.procedure import make_procedure
from medscope_jax.phantom.render import write_video
from tfds_builders import build, prepare, tfds
from tfds_builders.card import __main__ as card
from tfds_builders.synthesis import __main__ as synthesis

CPU = str(Path(__file__).resolve().parent.parent / "tpu_configs" / "cpu.py")
ADDRESS = "gs://bucket/folder"
OTHER = "ftp://bucket/folder"
ASK = ["--workdir=run", "--video=v.mp4", "--question=What is cut?"]
# Where the address may be of a bucket.
FOLDERS = [
    (train, ["--config", CPU, "--workdir", ADDRESS]),
    (train, ["--config", CPU, f"--workdir={ADDRESS}"]),
    (train, ["--config", CPU, "--workdir=run", f"--config.suite.data_dir={ADDRESS}"]),
    (train, ["--config", CPU, "--workdir=run", "--config.model.checkpoint", ADDRESS]),
    (evaluate, ["--workdir", ADDRESS]),
    (evaluate, ["--checkpoint", ADDRESS, "--data_dir=a", "--out=o"]),
    (evaluate, ["--checkpoint=a", "--data_dir", ADDRESS, "--out=o"]),
    (ask, [*ASK, f"--workdir={ADDRESS}"]),
    (ask, ["--checkpoint", ADDRESS, *ASK[1:]]),
    *((convert, [verb, "--source=a", "--target", ADDRESS]) for verb in convert.COMMANDS),
    *((convert, [verb, "--source", ADDRESS, "--target=b"]) for verb in convert.COMMANDS),
    (plan, ["--config", CPU, f"--config.model.checkpoint={ADDRESS}"]),
    (build, ["clinvideo_suite", "--manual_dir=m", "--data_dir", ADDRESS]),
    (prepare, ["--workdir", ADDRESS]),
    (bank, ["--workdir", ADDRESS, "--split=train"]),
    (bank, ["--checkpoint", ADDRESS, "--data_dir=a", "--target=b", "--split=train"]),
    (bank, ["--checkpoint=a", "--data_dir", ADDRESS, "--target=b", "--split=train"]),
    (bank, ["--checkpoint=a", "--data_dir=b", "--target", ADDRESS, "--split=train"]),
    (card, ["--workdir", ADDRESS]),
    (card, ["--data_dir", ADDRESS]),
]
# Where only a path of this machine can be used: recordings, pages, configs, a journal.
ENTRIES = [
    (train, ["--config", f"{ADDRESS}.py", "--workdir=run"]),
    (evaluate, ["--workdir=run", "--out", ADDRESS]),
    (ask, [*ASK, f"--video={ADDRESS}"]),
    (ask, [*ASK, f"--html={ADDRESS}"]),
    (ask, [*ASK, f"--json={ADDRESS}"]),
    (convert, ["import", "--source=a", "--target=b", "--base", ADDRESS]),
    (plan, ["--config", CPU, "--json", ADDRESS]),
    (build, ["clinvideo_suite", "--manual_dir", ADDRESS, "--data_dir=data"]),
    (card, ["--data_dir=a", "--output", ADDRESS]),
    (synthesis, ["--phantom=1", "--out", f"{ADDRESS}.jsonl"]),
    (synthesis, ["--phantom=1", "--out=rows.jsonl", "--videos", ADDRESS]),
    (synthesis, ["--manual_dir", ADDRESS, "--url=http://x", "--model=m", "--out=r.jsonl"]),
    (tfds, ["build", "tfds_builders/clinvideo_frames", "--data_dir", ADDRESS]),
    (tfds, ["build", "tfds_builders/clinvideo_frames", f"--manual_dir={ADDRESS}"]),
    (tfds, ["build", "tfds_builders/clinvideo_frames", f"--manual-dir={ADDRESS}"]),
]


@pytest.mark.parametrize(
    ("program", "arguments"), ENTRIES, ids=[f"{e[0].__name__}-{i}" for i, e in enumerate(ENTRIES)]
)
def test_an_address_is_refused_before_anything_is_made(
    refusal, tmp_path, monkeypatch, program, arguments
):
    monkeypatch.chdir(tmp_path)
    line = refusal(program.main, arguments)
    assert ADDRESS in line and "only a path of this machine" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("program", "arguments"), FOLDERS, ids=[f"{e[0].__name__}-{i}" for i, e in enumerate(FOLDERS)]
)
@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ftp://bucket/folder", "of a kind that is not known: use one of gs://, s3://, az:// or"),
        ("s3://bucket/folder", "needs the package not_there: python -m pip install not_there"),
        ("gs://", "names no bucket: write gs://BUCKET/FOLDER"),
    ],
)
def test_an_address_that_is_not_reached_is_refused_before_anything_is_made(
    refusal, tmp_path, monkeypatch, program, arguments, address, words
):
    """It never becomes a folder "s3:"."""
    monkeypatch.setitem(paths.SCHEMES, "s3", ("not_there", "python -m pip install not_there"))
    monkeypatch.chdir(tmp_path)
    line = refusal(program.main, [argument.replace(ADDRESS, address) for argument in arguments])
    assert f"{address} " in line and words in line
    assert not list(tmp_path.iterdir())


LATIN = "caf\udce9/run"  # a name of Latin-1, as Python holds it
FILES = ("--config", "--video", "--html", "--json", "--output", "--out")


def is_of_a_folder(arguments):
    place = next(i for i, argument in enumerate(arguments) if ADDRESS in argument)
    flag = arguments[place].partition("=")[0]
    return (arguments[place - 1] if flag.startswith(ADDRESS) else flag) not in FILES


@pytest.mark.parametrize(
    ("program", "arguments"), [e for e in (*FOLDERS, *ENTRIES) if is_of_a_folder(e[1])]
)
def test_a_folder_whose_name_is_no_utf8(refusal, tmp_path, monkeypatch, program, arguments):
    """Storage libraries end in a traceback there, and OpenCV in a crash of the interpreter."""
    monkeypatch.chdir(tmp_path)
    line = refusal(program.main, [argument.replace(ADDRESS, LATIN) for argument in arguments])
    assert "caf<byte E9>/run has bytes in its whole path that are no UTF-8" in line
    assert not list(tmp_path.iterdir())


def test_a_whole_path_counts(tmp_path, monkeypatch):
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="--workdir run has bytes in its whole path"):
        check_folder("run", "--workdir")
    with pytest.raises(UserError, match="no UTF-8"):
        write_video(make_procedure(0, "train", "ophthalmic", 0), "a.mp4")
    check_folder(tmp_path / "é", "--workdir")


def test_addresses_of_judges_are_none(tmp_path):
    config = load_config(CPU, ["judge.url=http://localhost:8000/v1"])
    assert config.judge.url == "http://localhost:8000/v1"
    for path in ("C:/data", "/data/a:b", "s3:/bucket", tmp_path, ""):
        check_local(path, "--workdir")
        check_folder(path, "--workdir")
    for check in (check_folder, check_local):
        with pytest.raises(UserError, match="--workdir file:///data is an address"):
            check("file:///data", "--workdir")


def test_a_config_file_with_an_address(refusal, tmp_path, monkeypatch):
    """In the file itself, not on the command line."""
    mine = tmp_path / "mine.py"
    text = Path(CPU).read_text()
    assert text.count('"data_dir": ""') == 1
    mine.write_text(text.replace('"data_dir": ""', f'"data_dir": "{OTHER}"'))
    monkeypatch.chdir(tmp_path)
    assert f"config.suite.data_dir {OTHER} is an address of a kind" in refusal(
        train.main, ["--config", mine, "--workdir", "run"]
    )
    assert [path for path in tmp_path.iterdir() if path.name != "__pycache__"] == [mine]
