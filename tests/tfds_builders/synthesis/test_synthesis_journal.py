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


def test_a_cut_anywhere_loses_at_most_what_was_being_written(journal):
    data = journal.read_bytes()
    for size in range(len(data) + 1):
        journal.write_bytes(data[:size])
        whole = data[:size].count(b"\n")
        with open_journal(journal) as opened:
            assert len(opened) == whole
            opened.add("late", "merge", Reply("after the cut"))
        with open_journal(journal) as opened:
            assert len(opened) == whole + 1 and opened.get("late").text == "after the cut"


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


@pytest.mark.parametrize("line", ["{}", "[1]", "nonsense", '{"key": "a", "text": 1}'])
def test_a_file_that_is_no_journal_is_left_as_it_is(journal, line):
    data = journal.read_bytes() + line.encode() + b"\n"
    journal.write_bytes(data)
    with pytest.raises(UserError, match="line 4"):
        read(journal)
    assert journal.read_bytes() == data


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
