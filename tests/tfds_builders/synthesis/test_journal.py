"""The journal: on disk before it is used, whole again after any cut, one run's at a time."""

import json
import os
import subprocess
import sys

import pytest

from medscope_jax.errors import UserError
from tfds_builders.synthesis.items import Reply
from tfds_builders.synthesis.journal import open_journal

REPLIES = {f"key{n}": Reply(f"Käse {n}\n", n == 1, 10 * n, n, n, n / 8) for n in range(3)}


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / "journal.jsonl"
    with open_journal(path) as opened:
        for key, reply in REPLIES.items():
            opened.add(key, "caption", reply)
    return path


def read(path):
    with open_journal(path) as opened:
        return {key: opened.get(key) for key in REPLIES if opened.get(key)}


def test_answers_come_back(journal):
    found = read(journal)
    assert list(found) == list(REPLIES)
    for key, reply in REPLIES.items():
        assert found[key].origin == "journal"
        assert {**vars(found[key]), "origin": "asked"} == vars(reply)


def test_a_cut_anywhere_loses_at_most_what_was_being_written(journal, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    data = journal.read_bytes()
    for size in range(0, len(data) + 1, 3):
        journal.write_bytes(data[:size])
        whole = data[:size].count(b"\n")
        with open_journal(journal) as opened:
            assert len(opened) == whole and not opened.damaged
            opened.add("late", "merge", Reply("after the cut"))
        with open_journal(journal) as opened:
            assert len(opened) == whole + 1 and opened.get("late").text == "after the cut"


def test_a_flipped_bit_costs_one_answer(journal, caplog):
    """Each byte of the second line: it is skipped and named, the others are read as they were."""
    data = journal.read_bytes()
    start = data.index(b"\n") + 1
    whole = read(journal)
    for place in range(start, data.index(b"\n", start)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        journal.write_bytes(flipped)
        caplog.clear()
        # A bit may make a line's end: of one line, two.
        lines = (2, 3) if flipped[place] == ord("\n") else (2,)
        with open_journal(journal) as opened:
            assert opened.damaged == lines and len(opened) == 2
            for key in ("key0", "key2"):
                assert opened.get(key) == whole[key]
        assert f"{len(lines)} damaged line(s) skipped (2" in caplog.text
        assert journal.read_bytes() == flipped


def test_a_flipped_end_of_a_line_costs_two(journal):
    data = journal.read_bytes()
    end = data.index(b"\n")
    journal.write_bytes(data[:end] + b"\x0b" + data[end + 1 :])
    with open_journal(journal) as opened:
        assert opened.damaged == (1,) and opened.get("key2") and len(opened) == 1


def test_journals_of_before_they_had_checksums_are_read(journal):
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for values in lines:
        del values["sha256"]
    old = "".join(json.dumps(values) + "\n" for values in lines)
    journal.write_text(old)
    assert read(journal).keys() == REPLIES.keys()
    journal.write_text(old.replace('"retries": 1', '"retries": "1"'))
    with open_journal(journal) as opened:
        assert opened.damaged == (2,)


@pytest.mark.parametrize(
    "line", ["{}", "[1]", "nonsense", '{"key": "a", "text": 1}', "[" * 99_999, "\0", "\xe9", ""]
)
def test_a_line_that_is_none_is_skipped(journal, line):
    data = journal.read_bytes() + line.encode("latin-1") + b"\n"
    journal.write_bytes(data)
    with open_journal(journal) as opened:
        assert opened.damaged == (4,) and len(opened) == 3
    assert journal.read_bytes() == data


def test_a_line_without_end_is_not_held(journal, monkeypatch):
    monkeypatch.setattr("tfds_builders.synthesis.journal._LONGEST_LINE", 1000)
    data = journal.read_bytes()
    journal.write_bytes(b"x" * 2500 + b"\n" + data + b"x" * 2500)
    with open_journal(journal) as opened:
        assert opened.damaged == (1,) and len(opened) == 3
    assert journal.read_bytes() == b"x" * 2500 + b"\n" + data  # what a kill left is cut off


@pytest.mark.parametrize("text", ["{}\n", "nonsense\n" * 3, "a", '{"kind": "x"}\n', "\n"])
def test_a_file_that_is_no_journal_is_left_as_it_is(journal, text):
    journal.write_text(text)
    with pytest.raises(UserError, match="no journal"):
        read(journal)
    assert journal.read_text() == text


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none" / "journal.jsonl"):
        with pytest.raises(UserError, match="can't be"), open_journal(path):
            pass


def test_a_full_disk_leaves_whole_lines(journal, monkeypatch):
    write, data = os.write, journal.read_bytes()

    def full(descriptor, line):
        write(descriptor, line[:20])
        raise OSError(28, "No space left on device")

    with open_journal(journal) as opened:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            opened.add("late", "merge", Reply("words"))
        monkeypatch.undo()
        assert journal.read_bytes() == data and not opened.get("late")


def test_an_answer_is_synced_before_it_is_known(tmp_path, monkeypatch):
    known = []
    with open_journal(tmp_path / "journal.jsonl") as opened:
        sync = os.fsync

        def fsync(descriptor):
            text = (tmp_path / "journal.jsonl").read_text()
            known.append((opened.get("a"), json.loads(text)["text"]))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        opened.add("a", "caption", Reply("words"))
        assert known == [(None, "words")] and opened.get("a").text == "words"


def test_two_runs_cannot_share_it(journal):
    program = (
        "import fcntl, sys\n"
        f"file = open({str(journal)!r})\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('mine', flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"mine\n"
        with pytest.raises(UserError, match="in use by another run"):
            read(journal)
        other.stdin.close()
    assert len(read(journal)) == 3


def test_it_is_for_its_owner_alone(journal):
    assert journal.stat().st_mode & 0o077 == 0
