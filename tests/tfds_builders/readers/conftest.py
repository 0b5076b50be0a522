"""Files in a source's original layout, written by the tests, and what a reader makes of them."""

import json

import pytest

from tfds_builders.readers import read_source
from tfds_builders.record import Annotation, BadRow


@pytest.fixture
def write_rows(tmp_path):
    """(name, rows) -> a file of JSON Lines; texts are written as they are."""

    def write(name, rows):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path = tmp_path / name
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def collect():
    """(reader, path, options) -> (annotations, bad rows)."""

    def run(reader, path, **options):
        found = list(read_source(reader, path, options))
        assert all(isinstance(row, (Annotation, BadRow)) for row in found)
        good = [row for row in found if isinstance(row, Annotation)]
        return good, [row for row in found if isinstance(row, BadRow)]

    return run
