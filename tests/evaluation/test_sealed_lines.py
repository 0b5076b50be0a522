"""Files that only grow: a kill leaves whole lines, what is damaged is left out and counted."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medscope_jax.errors import UserError
from medscope_jax.evaluation.sealed_lines import SealedFile, read_sealed, sealed
from tests.evaluation.append_program import SCHEMA, lines

ROOT = Path(__file__).resolve().parents[2]
WHOLE = b"".join(map(sealed, lines()))


def values_of(path):
    reading = read_sealed(path, SCHEMA, SCHEMA)
    return [values for _, values in reading], reading.faults


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.55, 0.999])
def test_killed_and_started_again(tmp_path, share):
    """kill -9 within a write; the next start is killed too, the third one ends."""
    path = tmp_path / "file"
    command = [sys.executable, "-m", "tests.evaluation.append_program", str(path)]
    for allowed in (1 + int(share * len(WHOLE)), 50):
        before = path.stat().st_size if path.exists() else 0
        ended = subprocess.run([*command, str(allowed)], cwd=ROOT, check=False).returncode
        assert ended == -signal.SIGKILL or path.read_bytes() == WHOLE
        assert before == 0 or path.stat().st_size <= before + 50
        found, faults = values_of(path)
        assert found == lines()[: len(found)] and not faults.damaged
        kept = b"".join(map(sealed, found))
        assert faults.torn == path.stat().st_size - len(kept)
    subprocess.run([*command, str(2 * len(WHOLE))], cwd=ROOT, check=True)
    assert path.read_bytes() == WHOLE


def test_a_cut_at_any_byte(tmp_path):
    path = tmp_path / "file"
    for size in range(0, len(WHOLE), 7):
        path.write_bytes(WHOLE[:size])
        found, faults = values_of(path)
        whole = WHOLE[:size].count(b"\n")
        assert found == lines()[:whole] and not faults.damaged
        assert bool(faults.torn) == bool(size and not WHOLE[:size].endswith(b"\n"))
        assert ("cut off" in faults.told()) == bool(faults.torn)


def test_damage_is_left_out_and_counted(tmp_path):
    path = tmp_path / "file"
    rows = WHOLE.splitlines(keepends=True)
    changed = rows[3].replace(b'"number": 3', b'"number": 4')  # JSON still, of another content
    other = sealed({"number": "4", "text": ""})  # sealed, but not what is expected there
    foreign = [changed, b"\x00" * 40 + b"\n", b"{}\n", b"\n", other, rows[2][:-1] + b" \n"]
    for bad in foreign:
        path.write_bytes(b"".join([*rows[:3], bad, *rows[4:]]))
        found, faults = values_of(path)
        assert found == lines()[:3] + lines()[4:] and faults.damaged == [4] and not faults.torn
        assert "1 damaged line(s) left out (4)" in faults.told()


def test_it_is_its_owners_alone_and_follows_no_link(tmp_path):
    path = tmp_path / "file"
    with SealedFile(path) as file:
        file.append(lines())
    assert path.read_bytes() == WHOLE and path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(UserError, match=f"{name} (can't be opened|is no regular file)"):
            SealedFile(tmp_path / name)


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    path, write = tmp_path / "file", os.write

    def full(descriptor, data):
        if len(data) > 20:
            return write(descriptor, data[:20])
        raise OSError(28, "No space left on device")

    with SealedFile(path) as file:
        file.append(lines()[:2])
        before = path.read_bytes()
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(UserError, match="disk full while writing .*file; its lines so far"):
            file.append(lines()[2:])
        assert path.read_bytes() == before
        monkeypatch.undo()
        file.append(lines()[2:])
    assert path.read_bytes() == WHOLE
