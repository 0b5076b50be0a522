"""A few bytes that claim gigabytes: refused in a row that states the limit, in little memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.tfds_builders.readers.test_readers_questions import rl_rows
from tfds_builders import parquet_rows
from tfds_builders.readers import read_source
from tfds_builders.readers._parquet import table_rows

ROOT = Path(__file__).resolve().parents[3]


def dictionary(values, rows):
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(values))


# Name -> a function that gives a column which is small on the disk, the words of its refusal.
BOMBS = {
    "one_text_often": (lambda: dictionary(["x" * (42 << 20)], 64), "longer than 16 MiB"),
    "one_page": (lambda: pa.array(["z" * (100 << 20)]), "longer than 16 MiB"),
    "a_long_list": (lambda: pa.array([["a"] * 3_000_000]), "more than 1,048,576 values"),
    "no_texts": (lambda: pa.array([b"z" * 2**20] * 64, pa.binary(2**20)), "more than 64 bytes"),
}


@pytest.fixture(scope="module")
def bombs(tmp_path_factory):
    """The files, by name; written by a process of its own, which takes the memory."""
    folder = tmp_path_factory.mktemp("bombs")
    code = (
        "import sys, pyarrow as pa, pyarrow.parquet as parquet\n"
        "from tests.tfds_builders.readers.test_readers_bombs import BOMBS\n"
        "for name, (column, _) in BOMBS.items():\n"
        "    plain = {'use_dictionary': False} if name == 'one_page' else {}\n"
        "    table = pa.table({'prompt': column()})\n"
        "    path = f'{sys.argv[1]}/{name}.parquet'\n"
        "    parquet.write_table(table, path, compression='zstd', **plain)\n"
    )
    subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, check=True)
    (folder / "line.jsonl").write_bytes(b"[" + b"[]," * (11 << 20) + b"[]]\n")
    (folder / "element.json").write_bytes(b"[[" + b"[]," * (11 << 20) + b"[]]]\n")
    (folder / "deep.json").write_bytes(b"[" * 100_000)
    (folder / "digits.json").write_bytes(b'[{"prompt": ' + b"9" * 5_000 + b"}]")
    (folder / "blanks.json").write_bytes(b"[" + b" \n" * (20 << 20))
    (folder / "document.json").write_bytes(b"[" + b"{}," * (6 << 20) + b"{}]")
    return folder


MEASURE = """
import re, resource, sys
from pathlib import Path
from tfds_builders.readers import _files, _parquet

def own():  # getrusage's outlasts exec: it is that of whoever started this process
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

for path in map(Path, sys.argv[1:]):
    if path.stem == "document":
        rows = [(1, _files.json_document(path))]
    else:
        rows = list(_parquet.table_rows(path, ["prompt"]))
    faults = {str(value) for _, value in rows if isinstance(value, _files.Unusable)}
    assert len(faults) == 1 and len(rows) in (1, 64), (path.stem, len(rows), faults)
    most = max(own(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    print(path.stem, most // 1024, *faults)
"""


def test_memory_stays_small(bombs):
    """Under a gigabyte for all of them, read one after the other by one process and its own."""
    paths = sorted(bombs.iterdir())
    assert sum(path.stat().st_size for path in paths if path.suffix == ".parquet") < 200_000
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    said = {line.split()[0]: line.split(maxsplit=2)[1:] for line in ran.stdout.splitlines()}
    assert len(said) == len(paths)
    assert all(int(size) < 1000 for size, _ in said.values()), said
    words = {name: words for name, (_, words) in BOMBS.items()}
    words |= {"line": "longer than 16 MiB", "element": "longer than 16 MiB"}
    words |= {"deep": "broken here", "digits": "broken here", "blanks": "broken here"}
    words |= {"document": "larger than 16 MiB"}
    assert {name for name, text in words.items() if text not in said[name][1]} == set()


def read(path, columns=("prompt",)):
    with open(path, "rb") as file:
        return list(parquet_rows.rows(file, columns))


@pytest.mark.parametrize(
    ("limit", "value", "row", "words"),
    [
        ("MAX_GROUP", 5000, "x" * 200, "the row group takes more than 0 MiB"),
        ("_MAX_NESTED", 99, ["x"], "more than 99 values in the row group"),
        ("MAX_ROWS", 99, "x", "more than 99 rows"),
    ],
)
def test_what_a_file_claims_is_believed_against_it(tmp_path, monkeypatch, limit, value, row, words):
    """Row groups before the one that is too large are read."""
    rows = [{"prompt": row}] * 40 + [{"prompt": row[:1]}] * 60
    table = pa.Table.from_pylist(rows)
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(table, path, use_dictionary=False)
    assert len(read(path)) == 100
    monkeypatch.setattr(parquet_rows, limit, value)
    ((row, fault),) = read(path)
    assert row is None and words in fault
    pyarrow.parquet.write_table(table, path, use_dictionary=False, row_group_size=20)
    found = read(path)
    assert len(found) == (1 if limit == "MAX_ROWS" else 100)


def test_a_row_that_is_too_long_costs_no_other(tmp_path, monkeypatch):
    """The limit is of what a row becomes, and is met to the byte."""
    monkeypatch.setattr(parquet_rows, "MAX_ROW", 1000)
    rows = [
        {"prompt": "a" * n, "note": ["b" * 10] * m} for n, m in ((1000, 0), (1001, 0), (900, 9))
    ]
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pa.Table.from_pylist([*rows, {"prompt": "c", "note": None}]), path)
    good = [{"prompt": rows[0]["prompt"]}, {"prompt": rows[2]["prompt"]}, {"prompt": "c"}]
    assert [row for row, fault in read(path) if not fault] == good
    both = ["prompt", "note"]
    assert [bool(fault) for _, fault in read(path, both)] == [False, True, False, False]
    monkeypatch.setattr(parquet_rows, "MAX_ROW", 989)
    assert [bool(fault) for _, fault in read(path, both)] == [True, True, True, False]


def test_parquet_says_what_json_lines_say(tmp_path):
    """Nested values, absent ones and repeated texts, whatever they are kept as."""
    rows = json.loads(json.dumps(rl_rows()[:2] * 20))
    for number, row in enumerate(rows):
        row["data_source"] = None if number % 3 else f"{number}"
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = outcome(read_source("verl", lines))
    for options in ({}, {"use_dictionary": False}, {"row_group_size": 7}, {"compression": "gzip"}):
        path = tmp_path / "rows.parquet"
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, **options)
        assert outcome(read_source("verl", path)) == plain and len(plain) == len(rows)


def outcome(found):
    """All that a row became but its file's name."""
    return [repr(row).replace("rows.parquet", "rows.jsonl") for row in found]


def test_a_file_that_ends_arrow_ends_no_reader(tmp_path):
    """Whatever bytes are changed: rows, then at most one that says so; and the process lives."""
    rng = np.random.default_rng(0)
    whole = tmp_path / "whole.parquet"
    rows = [{"prompt": [{"role": "user", "content": f"What is {i}?"}]} for i in range(50)]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), whole)
    data = np.frombuffer(whole.read_bytes(), np.uint8)
    path = tmp_path / "rows.parquet"
    for _ in range(8):
        flipped = data.copy()
        flipped[rng.integers(0, len(data), 2)] = rng.integers(0, 256, 2)
        path.write_bytes(flipped)
        found = [value for _, value in table_rows(path, ["prompt"])]
        assert sum(str(value) == parquet_rows.BROKEN for value in found) <= 1


def test_a_reader_that_is_ended_midway(tmp_path, monkeypatch):
    """As by Arrow's abort or the limit of its memory: what came before stands, a row says so."""
    program = tmp_path / "python"
    said = """'[{"prompt": 1}, ""]\\n[{"prompt"'"""
    program.write_text(f"#!/bin/sh\nprintf {said}\nkill -ABRT $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1" * 3)
    (first, row), (second, fault) = table_rows(path, ["prompt"])
    assert (first, row, second, str(fault)) == (1, {"prompt": 1}, 2, parquet_rows.BROKEN)
