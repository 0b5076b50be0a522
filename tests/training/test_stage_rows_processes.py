"""Batches of a suite that is read as it is shown: shared over processes, and exact to resume."""

import signal
import time

import pytest

from tests.data import suite_cases
from tests.distributed.process_cases import end_of, output_of, start_processes
from tests.training.stream_program import BATCH
from tfds_builders.build import build

PROGRAM = "tests.training.stream_program"
STEPS = 24  # of 4 rows, over and over the 8 records


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("streaming")
    suite_cases.write_manual(root / "manual")
    build("clinvideo_suite", root / "manual", root / "data", quiet=True)
    return root / "data"


def read_by(count, data, folder, devices):
    """(rows of each batch by step, records read) of each of `count` processes."""
    processes = start_processes(count, [PROGRAM, data, folder, STEPS, 0], folder, devices)
    assert end_of(processes, folder, 200) == [0] * count, output_of(folder)[-3000:]
    return [told(folder, index) for index in range(count)]


def told(folder, index=0):
    lines = [line.split() for line in output_of(folder, index).splitlines()]
    rows = {int(line[1]): line[2:] for line in lines if line[:1] == ["batch"]}
    return rows, [int(line[1]) for line in lines if line[:1] == ["read"]]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """What one process reads: four rows of each batch."""
    folder = tmp_path_factory.mktemp("one")
    ((rows, _),) = read_by(1, data, folder, 2)
    assert sorted(rows) == list(range(STEPS)) and {len(row) for row in rows.values()} == {BATCH}
    assert len({digest for row in rows.values() for digest in row}) == 8  # all records, no others
    assert len({tuple(row) for row in rows.values()}) > STEPS // 2  # shuffled anew
    return rows


@pytest.mark.invariant
def test_two_processes_read_half_each(data, whole, tmp_path):
    """Side by side their rows are one process's, and neither reads what the other shows."""
    found = read_by(2, data, tmp_path, 1)
    for step, wanted in whole.items():
        halves = [rows[step] for rows, _ in found]
        assert [len(half) for half in halves] == [BATCH // 2] * 2
        assert sum(halves, []) == wanted
    ahead = 8 * BATCH // 2  # batches that are made ahead
    for _, (count,) in found:
        assert STEPS * BATCH // 2 <= count <= STEPS * BATCH // 2 + ahead < STEPS * BATCH


@pytest.mark.invariant
def test_a_kill_in_the_middle_of_an_epoch(data, whole, tmp_path):
    """Started again it goes on with the very batches that would have followed."""
    (process,) = start_processes(1, [PROGRAM, data, tmp_path, STEPS, 0.2], tmp_path, 2)
    while len(told(tmp_path)[0]) < 5:
        assert process.poll() is None, output_of(tmp_path)[-3000:]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = told(tmp_path)[0]
    assert 5 <= len(before) < STEPS
    (process,) = start_processes(1, [PROGRAM, data, tmp_path, STEPS, 0], tmp_path, 2)
    assert end_of([process], tmp_path, 200) == [0], output_of(tmp_path)[-3000:]
    assert told(tmp_path)[0] == whole
    again = output_of(tmp_path).count("batch 0 ")
    assert again == 1  # it did not begin anew
