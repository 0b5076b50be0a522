"""Whole runs: real recordings through a local endpoint, killed and continued."""

import collections
import json
import os
import pathlib
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tfds_builders.readers import plain
from tfds_builders.record import Annotation
from tfds_builders.synthesis.__main__ import main

KEY = "sk-not-to-be-seen-anywhere"
ROOT = pathlib.Path(__file__).resolve().parents[3]
CONCURRENCY = 3


def arguments(recordings, server, out):
    return [
        *("--manual_dir", str(recordings), "--url", server.url, "--model", "clinical-vl"),
        *("--out", str(out / "rows.jsonl"), "--key_variable", "SYNTHESIS_KEY"),
        *("--min_clip_s", "4", "--max_clip_s", "10", "--concurrency", str(CONCURRENCY)),
        *("--backoff_s", "0.01", "--timeout_s", "5", "--max_pixels", "3136"),
    ]


def read_rows(out):
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def read_stages(out):
    return json.loads((out / "stages.json").read_text())


@pytest.fixture
def undisturbed(serve, recordings, tmp_path):
    """The folder of a run that nothing disturbed, and its server."""
    server, out = serve(), tmp_path / "undisturbed"
    main(arguments(recordings, server, out))
    return out, server


def test_a_run_writes_rows_that_the_plain_reader_reads(undisturbed):
    out, server = undisturbed
    rows = read_rows(out)
    read = list(plain.read(out / "rows.jsonl"))
    assert all(isinstance(row, Annotation) for row in read)
    parts = collections.Counter(row.part for row in read)
    clips = parts["cap"]
    assert clips >= 6 and parts == dict.fromkeys(("cap", "qa", "vcot", "rl"), clips)
    assert {row.video for row in read} == {"a.mp4", "Doe^Jane/b.mp4"}
    for annotation, row in zip(read, rows, strict=True):
        assert annotation.answer == row["answer"]
        assert annotation.turns == tuple(row.get("turns", ()))
        if annotation.part != "cap":
            start = float(annotation.question.split()[3])
            assert annotation.spans == ((start, start + 2),)
    assert any("Käse" in row["answer"] for row in rows)


def test_costs_and_drops_add_up(undisturbed):
    out, server = undisturbed
    stages = read_stages(out)["stages"]
    clips = stages["caption"]["items"]
    expected = {"caption": clips, "merge": 2, "questions": clips, "blind": 3 * clips}
    expected |= {"verify": 2 * clips, "teach": 2 * clips, "segment": 0, "think": 0, "read": 0}
    assert {name: stage["requests"] for name, stage in stages.items()} == expected
    assert sum(expected.values()) == len(server.keys) == len(set(server.keys))
    for name, stage in stages.items():
        assert stage["prompt_tokens"] == 100 * expected[name]
        assert stage["completion_tokens"] == 7 * expected[name]
        assert not stage["drops"] and not stage["journal"] and not stage["retries"]
    assert (stages["read"]["items"], stages["read"]["kept"]) == (2, 2)
    assert 1 < server.most <= CONCURRENCY


def test_names_and_keys_stay_where_they_are(undisturbed, capfd):
    out, server = undisturbed
    assert "Doe^Jane" in (out / "rows.jsonl").read_text()
    seen = [(out / name).read_text() for name in ("stages.json", "journal.jsonl")]
    seen += [body.decode() for body in server.bodies]
    seen += [*capfd.readouterr()]
    assert not any("Jane" in text for text in seen)
    assert not any(KEY in text for text in [*seen, (out / "rows.jsonl").read_text()])


@pytest.mark.parametrize("count", [1, 29])
def test_a_killed_run_goes_on_and_asks_nothing_again(
    serve, recordings, undisturbed, tmp_path, count
):
    processes = []

    def kill(answered):
        if answered == count:
            os.kill(processes[0].pid, signal.SIGKILL)

    first, out = serve(delay_s=0.02, on_answer=kill), tmp_path / "killed"
    command = [sys.executable, "-m", "tfds_builders.synthesis", *arguments(recordings, first, out)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        processes.append(process)
        process.wait(300)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "rows.jsonl").exists()
    data = (out / "journal.jsonl").read_bytes()
    kept = {json.loads(line)["key"] for line in data.splitlines(keepends=True) if line[-1] == 10}
    assert kept <= set(first.keys) and len(kept) >= count - CONCURRENCY

    second = serve()
    main(arguments(recordings, second, out))
    assert not kept & set(second.keys)
    assert (out / "rows.jsonl").read_bytes() == (undisturbed[0] / "rows.jsonl").read_bytes()
    # Asked twice can only be what was under way when the kill came.
    assert len(set(first.keys) & set(second.keys)) <= CONCURRENCY
    assert kept | set(second.keys) == set(undisturbed[1].keys)


def test_an_interrupted_run_ends_at_once(serve, recordings, tmp_path):
    """It waits for no answer, and says what it had cost by then."""
    processes, out = [], tmp_path / "out"

    def interrupt(handler):
        processes[0].send_signal(signal.SIGINT)
        handler.server.over.wait(60)

    server = serve(faults=[None, interrupt])
    command = [sys.executable, "-m", "tfds_builders.synthesis", *arguments(recordings, server, out)]
    command += ["--timeout_s", "300", "--concurrency", "1"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        processes.append(process)
        assert process.communicate(timeout=300)[1] == b"interrupted\n"
    assert process.returncode == 130
    assert read_stages(out)["stages"]["caption"]["requests"] == 1


def test_a_journal_cut_anywhere_is_enough(serve, recordings, undisturbed):
    out, whole = undisturbed
    rows, data = (out / "rows.jsonl").read_bytes(), (out / "journal.jsonl").read_bytes()
    for size in (0, 40, len(data) // 3, len(data) - 1):
        (out / "journal.jsonl").write_bytes(data[:size])
        (out / "rows.jsonl").unlink()
        lines = data[:size].splitlines(keepends=True)
        kept = {json.loads(line)["key"] for line in lines if line.endswith(b"\n")}
        server = serve()
        main(arguments(recordings, server, out))
        assert sorted(server.keys) == sorted(set(whole.keys) - kept)
        assert (out / "rows.jsonl").read_bytes() == rows
        stages = read_stages(out)["stages"].values()
        assert sum(stage["journal"] for stage in stages) == len(kept)
        assert sum(stage["prompt_tokens"] for stage in stages) == 100 * len(whole.keys)


def test_a_damaged_line_of_the_journal_is_asked_for_again(serve, recordings, undisturbed, capfd):
    out, whole = undisturbed
    rows, data = (out / "rows.jsonl").read_bytes(), (out / "journal.jsonl").read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    (out / "journal.jsonl").write_bytes(flipped)
    server = serve()
    main(arguments(recordings, server, out))
    assert len(server.keys) == 1 and (out / "rows.jsonl").read_bytes() == rows
    assert read_stages(out)["damaged_journal_lines"] == 1
    assert "1 damaged lines of the journal were skipped" in capfd.readouterr().out


def test_a_finished_run_asks_nothing(recordings, undisturbed):
    out, server = undisturbed
    rows = (out / "rows.jsonl").read_bytes()
    server.shutdown()
    server.server_close()
    main(arguments(recordings, server, out))
    assert (out / "rows.jsonl").read_bytes() == rows


def test_a_bumpy_run_gives_the_same_rows(serve, recordings, undisturbed, tmp_path):
    bumps = [(500, ""), None, (429, "", {"Retry-After": "0.01"}), (200, "{"), None, (200, "{}")]
    server, out = serve(faults=bumps * 4), tmp_path / "bumpy"
    main([*arguments(recordings, server, out), "--attempts", "30"])
    assert (out / "rows.jsonl").read_bytes() == (undisturbed[0] / "rows.jsonl").read_bytes()
    stages = read_stages(out)["stages"].values()
    assert sum(stage["retries"] for stage in stages) == 16


def test_a_recording_that_cannot_be_read_is_counted(serve, recordings, tmp_path, capfd):
    folder, out = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    (folder / "whole.mp4").write_bytes((recordings / "a.mp4").read_bytes())
    (folder / "Roe^Richard.mp4").write_bytes(b"\x00" * 2000)
    main(arguments(folder, serve(), out))
    read = read_stages(out)["stages"]["read"]
    assert (read["items"], read["kept"], sum(read["drops"].values())) == (2, 1, 1)
    (reason,) = read["drops"]
    assert reason.startswith("video: ") and "Roe" not in reason + "".join(capfd.readouterr())
    assert {row["video"] for row in read_rows(out)} == {"whole.mp4"}


def test_a_folder_of_pictures_is_a_recording(serve, tmp_path):
    folder, out = tmp_path / "videos", tmp_path / "out"
    (folder / "scan").mkdir(parents=True)
    for number in range(48):
        picture = np.full((48, 64, 3), 5 * number, np.uint8)
        cv2.imwrite(str(folder / "scan" / f"frame{number}.png"), picture)
    main([*arguments(folder, serve(), out), "--frame_rate", "2"])
    assert {row["video"] for row in read_rows(out)} == {"scan"}
    windows = [row["window"] for row in read_rows(out) if row["part"] == "cap"]
    assert windows[0][0] == 0 and windows[-1][1] == 24


def test_costs_are_told_even_if_the_endpoint_is_lost(serve, recordings, tmp_path, refusal):
    server, out = serve(faults=[None] * 4 + [(401, "no")] * 99), tmp_path / "out"
    message = refusal(main, [*arguments(recordings, server, out), "--failures", "2"])
    assert message.startswith("2 requests in a row failed, the last with: HTTP status 401: no;")
    stages = read_stages(out)
    assert not stages["finished"] and stages["stages"]["caption"]["requests"] >= 1
    assert not (out / "rows.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--phantom", "2"], "leave them out"),
        (["--min_iuo", "0.5"], "min_iou"),
        (["--min_iou", "2"], "min_iou must be at most 1"),
        (["--max_clip_s", "1"], "max_clip_s 1.0 is below min_clip_s"),
        (["--url", "localhost"], "must start with http"),
        (["--manual_dir", "nowhere"], "nowhere is no folder of recordings"),
        (["--out", "somewhere/stages.json"], "name the file of rows"),
    ],
)
def test_mistakes_are_one_line(serve, recordings, tmp_path, refusal, change, message):
    server = serve()
    assert message in refusal(main, [*arguments(recordings, server, tmp_path / "out"), *change])
    assert not server.keys
