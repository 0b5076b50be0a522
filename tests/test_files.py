"""Files are whole or not there: on a full disk, when killed, when interrupted."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medscope_jax import files
from medscope_jax.errors import UserError


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("place", ["open", "fsync", "replace"])
@pytest.mark.parametrize("before", [None, "old"])
def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch, place, before):
    """Whenever it fills up: the file's name shows the old text or nothing, and no litter stays."""
    path = tmp_path / "results.json"
    if before is not None:
        files.write_text(path, before)
    with monkeypatch.context() as patch:
        patch.setattr(files if place == "open" else os, place, full, raising=False)
        with pytest.raises(UserError, match="disk full while writing .*results.json") as error:
            files.write_text(path, "new")
    kept = "nothing was written" if before is None else "the old one is kept"
    assert kept in str(error.value) and "\n" not in str(error.value)
    assert [(item.name, item.read_text()) for item in tmp_path.iterdir()] == (
        [] if before is None else [("results.json", before)]
    )


def test_an_interruption_leaves_no_litter(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(tmp_path / "report.html", "new")
    assert not list(tmp_path.iterdir())


def test_the_text_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    """Else a power loss could leave the name on an empty file; then the folder is synced too."""
    path, done = tmp_path / "results.json", []
    sync, replace = os.fsync, os.replace

    def noted_sync(descriptor):
        sync(descriptor)
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        done.append("folder" if folder else next(tmp_path.iterdir()).read_text())

    def noted_replace(source, target):
        done.append(f"{Path(source).read_text()} at {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    files.write_text(path, "é")
    assert done == ["é", "é at results.json", "folder"] and path.read_bytes() == "é".encode()


WRITE = """
import sys
from medscope_jax.files import write_text
while True:
    for letter in "ab":
        write_text(sys.argv[1], letter * 200_000)
"""


def test_a_reader_and_a_kill_see_whole_files_only(tmp_path):
    path = tmp_path / "report.html"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    writer = subprocess.Popen([sys.executable, "-c", WRITE, str(path)], env=environment)
    try:
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        seen = [path.read_text() for _ in range(300)]
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    for text in [*seen, path.read_text()]:
        assert len(text) == 200_000 and len(set(text)) == 1


def test_what_is_no_file_is_not_replaced(tmp_path):
    """A pipe, a device, or a link to the terminal; what lies in memory (/dev/shm) is a file."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", "/dev/null", "/dev/stdout", "/proc/x"):
        for write in (files.write_text, lambda path, _: files.check_target(path)):
            with pytest.raises(UserError, match="no regular file but a pipe"):
                write(path, "new")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    for path in ("/dev/shm/trace.html", tmp_path / "new", tmp_path, "/device/x"):
        files.check_target(path)


def test_pipes_and_devices_are_not_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"text")
    with files.open_regular(tmp_path / "file") as file:
        assert file.read() == b"text"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path, tmp_path / "none"):
        with pytest.raises(OSError):
            files.open_regular(path)
