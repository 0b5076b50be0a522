"""Batches of a suite that is read as it is shown: shared over processes, and exact to resume."""

import json
import shutil
import signal
import time

import pytest

from tests.data import suite_cases
from tests.distributed.process_cases import end_of, output_of, start_processes
from tfds_builders.build import build

PROGRAM = "tests.training.stream_program"
STEPS = 24
# Of a stage: (its part, options, rows of a batch).
PLAIN = ("warm_up", "warm_up.batch_size=4")
BUCKETS = ("warm_up", "warm_up.batch_size=16", "warm_up.steps=60")
PACKED = ("warm_up", "warm_up.batch_size=4", "dialogue.packed=True", "dialogue.clip_length=256")
DIALOGUES = ("cold_start", "cold_start.batch_size=4", "cold_start.steps=60")
DIALOGUES += ("dialogue.packed=True", "video.stored_bank=float32")
AHEAD = 8  # batches that are made ahead
RECORDS = 36  # of each part


def rows():
    """Those of suite_cases, and more that are longer: two of them much longer."""
    yield from suite_cases.rows()
    for number in range(RECORDS - 8):
        start, end = number % 6 + 0.2, number % 6 + 1.5
        question = f"When does event {number} take place" + " once more" * (number % 5)
        question += " and then all over again" * (40 * (number % 14 == 3)) + "?"
        known = {"video": f"{'ab'[number % 2]}.mp4", "split": "train", "question": question}
        known |= {"task": "grounding", "answer": f"[{start}, {end}]"}
        turns = [suite_cases.CALL % (start, end), suite_cases.END % (start, end)]
        yield known | {"part": "qa", "window": [start, end]}
        yield known | {"part": "vcot", "turns": turns, "spans": [[start, end]]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("streaming")
    suite_cases.write_manual(root / "manual")
    lines = [json.dumps(row) for row in rows()]
    (root / "manual" / "rows.jsonl").write_text("\n".join(lines) + "\n")
    build("clinvideo_suite", root / "manual", root / "data", quiet=True)
    return root / "data"


def start(count, data, folder, case, pause=0.0):
    arguments = [PROGRAM, data, folder, STEPS, pause, *case]
    return start_processes(count, arguments, folder, devices=2 // count)


def lines_of(folder, index, word):
    lines = [line.split() for line in output_of(folder, index).splitlines()]
    return [line[1:] for line in lines if line[:1] == [word]]


def by_step(folder, index, word):
    """What lines say of each step; a step that was done twice was the same."""
    found: dict[int, list[str]] = {}
    for number, *told in lines_of(folder, index, word):
        assert found.setdefault(int(number), told) == told
    return found


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """case -> folder of a program that read all batches in one process, of two devices."""
    done = {}

    def of(case):
        if case not in done:
            folder = tmp_path_factory.mktemp("one")
            assert end_of(start(1, data, folder, case), folder, 200) == [0], output_of(folder)
            done[case] = folder
        return done[case]

    return of


def check_halves(folder, one):
    """Side by side the rows of two processes are one process's; together they do its steps."""
    wanted = by_step(one, 0, "batch")
    assert sorted(wanted) == list(range(STEPS))
    found = [by_step(folder, index, "batch") for index in (0, 1)]
    for step, rows in wanted.items():
        halves = [each[step] for each in found]
        assert [len(half) for half in halves] == [len(rows) // 2] * 2
        assert sum(halves, []) == rows
    sums = {step: total for step, (_, total) in by_step(one, 0, "step").items()}
    for index in (0, 1):
        steps = by_step(folder, index, "step")
        assert {step: total for step, (_, total) in steps.items()} == sums
    assert lines_of(folder, 1, "epoch") == lines_of(folder, 0, "epoch")
    assert {*map(str, lines_of(folder, 0, "epoch"))} == {*map(str, lines_of(one, 0, "epoch"))}


@pytest.mark.invariant
def test_two_processes_read_half_each(data, whole, tmp_path):
    """Neither reads what the other shows."""
    one = whole(PLAIN)
    rows = by_step(one, 0, "batch")
    assert {len(row) for row in rows.values()} == {4}
    assert len({digest for row in rows.values() for digest in row}) == RECORDS  # and no others
    assert end_of(start(2, data, tmp_path, PLAIN), tmp_path, 200) == [0, 0], output_of(tmp_path)
    check_halves(tmp_path, one)
    half = STEPS * 4 // 2
    for index in (0, 1):
        ((count,),) = lines_of(tmp_path, index, "read")
        assert half <= int(count) <= half + AHEAD * 2 < 2 * half


def kill_after(processes, folder, steps):
    """SIGKILL to all of them when each has read so many batches."""
    for index, process in enumerate(processes):
        while len(by_step(folder, index, "batch")) < steps:
            assert process.poll() is None, output_of(folder, index)[-3000:]
            time.sleep(0.05)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for index, process in enumerate(processes):
        process.wait()
        assert steps <= len(by_step(folder, index, "batch")) < STEPS


@pytest.mark.invariant
def test_a_kill_in_the_middle_of_an_epoch(data, whole, tmp_path):
    """Started again it goes on with the very batches that would have followed."""
    kill_after(start(1, data, tmp_path, PLAIN, 0.2), tmp_path, 5)
    assert end_of(start(1, data, tmp_path, PLAIN), tmp_path, 200) == [0], output_of(tmp_path)
    assert by_step(tmp_path, 0, "batch") == by_step(whole(PLAIN), 0, "batch")
    begun = [step for step, *_ in lines_of(tmp_path, 0, "batch")].count("0")
    assert begun == 1  # it did not begin anew


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(BUCKETS, id="buckets"),
        pytest.param(PACKED, id="packed", marks=pytest.mark.invariant),
        pytest.param(DIALOGUES, id="stored"),
    ],
)
def test_two_killed_processes_go_on_with_the_same_batches(data, whole, tmp_path, case):
    """Of one table of lengths, which process 0 measures: cut or packed as one process does."""
    one, tables = whole(case), data / "lengths"
    kept = {path.name: path.read_bytes() for path in tables.iterdir()}
    shutil.rmtree(tables)
    kill_after(start(2, data, tmp_path, case, 0.1), tmp_path, 5)
    assert end_of(start(2, data, tmp_path, case), tmp_path, 200) == [0, 0], output_of(tmp_path)
    check_halves(tmp_path, one)
    assert [step for step, *_ in lines_of(tmp_path, 1, "batch")].count("0") == 1
    assert len(lines_of(tmp_path, 0, "measured")) == 1 and not lines_of(tmp_path, 1, "measured")
    for path in tables.iterdir():
        assert path.read_bytes() == kept[path.name]
    assert not {"leaves", "packs"} & {*output_of(tmp_path, 1).split()}  # process 0 says so
    cut = {rows for rows, _ in by_step(tmp_path, 1, "step").values()}
    if case is BUCKETS:
        assert min(map(int, cut)) < 16
    else:
        ((rows,), *_) = lines_of(one, 0, "epoch")
        left_out = 2 if case is PACKED else 0  # too long for a row
        assert f"packs {RECORDS - left_out} conversations into {rows} rows" in output_of(one)
        assert int(rows) < RECORDS / 2
        # Joined rows of both halves, of which neither process reads all.
        reads = [
            int(lines_of(folder, index, "read")[-1][0])
            for folder, index in ((one, 0), (tmp_path, 0), (tmp_path, 1))
        ]
        assert max(reads[1:]) < 0.8 * reads[0]
