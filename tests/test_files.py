"""Files are whole or not there: on a full disk, when killed, when interrupted."""

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from medscope_jax import files
from medscope_jax.errors import UserError
from tfds_builders.locate import locator
from tfds_builders.readers._files import listed


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
import tempfile
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
    for path in ("/dev/shm/trace.html", tmp_path / "new", "/device/x"):
        files.check_target(path)


def test_pipes_and_devices_are_not_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"text")
    with files.open_regular(tmp_path / "file") as file:
        assert file.read() == b"text"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path, tmp_path / "none"):
        with pytest.raises(OSError):
            files.open_regular(path)


def test_a_link_is_neither_replaced_nor_written_through(tmp_path):
    (tmp_path / "file").write_text("old")
    for name, target in (("link", "file"), ("nowhere", "none"), ("chain", "link")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(UserError, match=f"{name} is a symbolic link; name what it leads to, /"):
            files.write_text(tmp_path / name, "new")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UserError, match="symbolic link"):
        files.write_text(tmp_path / "circle", "new")
    assert (tmp_path / "file").read_text() == "old" and not (tmp_path / "none").exists()
    (tmp_path / "folder").symlink_to(tmp_path)  # a link among the folders above it is followed
    files.write_text(tmp_path / "folder" / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


@pytest.fixture
def usual_mask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_modes(tmp_path, usual_mask):
    """What is there keeps its mode; a new file is as usual, or its owner's alone."""

    def mode(path):
        return stat.S_IMODE(path.stat().st_mode)

    files.write_text(tmp_path / "plan.json", "{}")
    files.write_text(tmp_path / "page.html", "answer", private=True)
    files.make_folder(tmp_path / "a" / "b", private=True)
    files.make_folder(tmp_path / "c")
    made = [mode(tmp_path / name) for name in ("plan.json", "page.html", "a/b", "c")]
    assert made == [0o644, 0o600, 0o700, 0o755]
    for name in ("plan.json", "page.html"):
        for before in (0o600, 0o640, 0o444, 0o664):
            (tmp_path / name).chmod(before)
            files.write_text(tmp_path / name, "again", private=True)
            assert mode(tmp_path / name) == before
    files.make_folder(tmp_path / "c", private=True)
    assert mode(tmp_path / "c") == 0o755
    with pytest.raises(UserError, match="plan.json is no folder"):
        files.make_folder(tmp_path / "plan.json")


def test_another_group_is_not_let_in(tmp_path, monkeypatch):
    """Where the old file's group can't be given to the new one, no group may read it."""

    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    path = tmp_path / "page.html"
    path.write_text("old")
    path.chmod(0o664)
    monkeypatch.setattr(os, "fchown", refuse)
    files.write_text(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_names_as_long_as_a_file_system_takes(tmp_path):
    for name in ("a" * 255, os.fsdecode(b"caf\xe9\x1b[2J\n.json")):
        files.write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"
    with pytest.raises(OSError) as error:
        files.write_text(tmp_path / ("a" * 256), "text")
    assert error.value.errno == errno.ENAMETOOLONG


def test_outputs_are_refused_before_any_work(tmp_path):
    video, folder = tmp_path / "video.mp4", tmp_path / "pictures"
    video.write_text("pixels")
    folder.mkdir()
    os.link(video, tmp_path / "same.mp4")
    inputs = {"the video": video, "the pictures": folder}
    new = tmp_path / "new" / "page.html"

    def refused(**targets):
        with pytest.raises(UserError) as error:
            files.check_outputs({f"--{name}": path for name, path in targets.items()}, inputs)
        return str(error.value)

    assert "is the video already" in refused(html=video)
    assert "is the video already" in refused(html=tmp_path / "new" / ".." / "video.mp4")
    assert "is the video already" in refused(html=tmp_path / "same.mp4")
    assert "lies in the pictures" in refused(html=folder / "1.png")
    assert "is --html's already" in refused(html=new, json=new)
    assert "is a folder" in refused(json=folder)
    assert "is an address" in refused(json="gs://bucket/page.html")
    assert "can't be written" in refused(json=video / "below" / "page.html")
    assert "no regular file" in refused(html="/dev/null")
    files.check_outputs({"--html": new, "--json": None}, inputs)
    assert not new.parent.exists() and video.read_text() == "pixels"


def test_what_can_not_be_seen_is_not_taken_for_absent(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to("none")
    assert files.is_there(tmp_path) and files.is_there(tmp_path / "link")
    for name in ("none", "link/x", "x" * 300, "a\0b"):
        assert not files.is_there(tmp_path / name)

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "lstat", refuse)
    with pytest.raises(PermissionError):
        files.is_there(tmp_path / "none")
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(PermissionError):
        listed(tmp_path, "*.json")
    line = locator(tmp_path)(tmp_path, "a.mp4")
    assert line == "names a video in a folder that can't be read (Permission denied)"


def test_a_full_disk_is_named_where_a_library_does_not(tmp_path):
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("No space left on device"),
    ):
        match = "disk full while writing /data/run; free some space"
        with pytest.raises(UserError, match=match), files.writing("/data/run"):
            raise error
    for error in (UserError("mine"), KeyError("mine")):
        with pytest.raises(type(error), match="mine"), files.writing("/data/run"):
            raise error


def test_a_folder_that_threads_still_write_into_goes(tmp_path, monkeypatch):
    folder, made = tmp_path / "x.partial", []
    folder.mkdir()

    def late(_):
        if len(made) < 3:
            made.append(1)
            (folder / "chunk").mkdir(parents=True)

    monkeypatch.setattr(time, "sleep", late)
    files.remove_folder(folder)
    assert len(made) == 3 and not folder.exists()


AS_NOBODY = """
import os, sys
from medscope_jax import files
from medscope_jax.errors import run_main
os.setgroups([]), os.setgid(65534), os.setuid(65534)
run_main(lambda arguments: getattr(files, arguments[0])(*map(eval, arguments[1:])))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
def test_a_folder_of_somebody_else():
    """The system's own refusal, in a process without rights: one line and status 2."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        page = Path(name, "page.html")
        page.write_text("old")
        page.chmod(0o600)
        for call in (
            ["write_text", repr(f"{page}"), "'new'"],
            ["write_text", repr(f"{name}/new"), "'new'"],
            ["make_folder", repr(f"{name}/new/folder")],
            ["check_outputs", repr({"--html": f"{name}/new"}), "{}"],
        ):
            ran = subprocess.run(
                [sys.executable, "-c", AS_NOBODY, *call],
                capture_output=True,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            assert ran.returncode == 2 and ran.stderr.count("\n") == 1, ran.stderr
            assert ran.stderr.startswith("error: ") and name in ran.stderr
            assert "permissions" in ran.stderr
        assert page.read_text() == "old" and os.listdir(name) == ["page.html"]
