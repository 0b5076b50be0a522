"""Several processes as one run: the same numbers, checkpoints and stops; none waits for the dead.

Two processes meet over loopback; tolerances are those of test_meshes.
"""

import json
import os
import signal
import threading
import time

import numpy as np
import pytest

from medscope_jax.distributed.multihost import join_processes
from medscope_jax.errors import EXIT_STOPPED, UserError
from medscope_jax.training.metrics_log import read_metrics
from tests.distributed import bank_program, mesh_cases
from tests.distributed.process_cases import end_of, output_of, start_processes
from tests.distributed.test_mesh_invariance import TOLERANCE
from tests.rl.endpoint_server import Server, completion
from tests.training.metrics_cases import without_timing

MINI = "tests.training.mini_program"


def mini(count, folder, cache, pause=0.0, *options):
    """Starts the mini program, its workdir in FOLDER/run."""
    return start_processes(count, [MINI, folder / "run", pause, *options], folder, cache=cache)


def log_of(folder):
    return without_timing(read_metrics(folder / "run" / "metrics.jsonl"))


def wait_for(processes, folder, word, times):
    """Until each process has printed a word so often, or has ended."""
    for index, process in enumerate(processes):
        while output_of(folder, index).splitlines().count(word) < times:
            assert process.poll() is None, output_of(folder, index)
            time.sleep(0.02)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """(folder, digest) of a run of two processes that was never stopped."""
    folder = tmp_path_factory.mktemp("two")
    assert end_of(mini(2, folder, cache), folder) == [0, 0], output_of(folder, 1)
    digests = {output_of(folder, index).splitlines()[-1] for index in (0, 1)}
    assert len(digests) == 1  # both restore the same state
    return folder, digests.pop()


def test_two_processes_train_as_one(whole, tmp_path, cache):
    """The mini program's losses and final parameters, and the log is written once."""
    folder, _ = whole
    assert end_of(mini(1, tmp_path, cache), tmp_path) == [0], output_of(tmp_path)
    assert len(log_of(folder)) == len(log_of(tmp_path)) == 6
    for found, wanted in zip(log_of(folder), log_of(tmp_path), strict=True):
        assert found["step"] == wanted["step"]
        assert abs(found["loss"] - wanted["loss"]) < 2e-5
    found, wanted = (np.load(path / "run" / "final.npz") for path in (folder, tmp_path))
    for name in wanted:
        if name.endswith("k_proj/bias"):
            continue  # its true gradient is zero, and AdamW makes steps of the rounding noise
        np.testing.assert_allclose(found[name], wanted[name], atol=2e-4, err_msg=name)


@pytest.mark.invariant
def test_a_signal_to_one_stops_both_at_the_same_step(whole, tmp_path, cache):
    """Saved together, they go on together, bit for bit."""
    processes = mini(2, tmp_path, cache, pause=0.5)
    wait_for(processes, tmp_path, "step", 3)
    processes[1].send_signal(signal.SIGTERM)
    assert end_of(processes, tmp_path) == [EXIT_STOPPED] * 2, output_of(tmp_path, 1)
    saved = {output_of(tmp_path, index).splitlines()[-1] for index in (0, 1)}
    assert len(saved) == 1 and "warm_up is saved after step" in saved.pop()
    assert end_of(mini(2, tmp_path, cache), tmp_path) == [0, 0]
    assert output_of(tmp_path).splitlines()[-1] == whole[1]
    assert log_of(tmp_path) == log_of(whole[0])


@pytest.mark.invariant
def test_saves_by_time_are_of_one_step_on_both(whole, tmp_path, cache):
    """By process 0's clock, written while both train on; killed, they go on from there."""
    processes = mini(2, tmp_path, cache, 0.2, "--minutes", 0.005, "--delay", 0.3)
    wait_for(processes, tmp_path, "step", 6)
    assert [name for name in os.listdir(tmp_path / "run" / "checkpoints") if name.isdecimal()]
    for process in processes:
        process.kill()
    end_of(processes, tmp_path)
    steps = output_of(tmp_path).splitlines().count("step")
    assert end_of(mini(2, tmp_path, cache), tmp_path) == [0, 0], output_of(tmp_path, 1)
    assert {output_of(tmp_path, i).splitlines()[-1] for i in (0, 1)} == {whole[1]}
    assert log_of(tmp_path) == log_of(whole[0])
    assert output_of(tmp_path).splitlines().count("step") - steps < 12


@pytest.mark.slow
@pytest.mark.invariant
def test_the_other_does_not_wait_for_a_killed_one(whole, tmp_path, cache):
    """It ends with an error; started again, both go on bit for bit."""
    processes = mini(2, tmp_path, cache, pause=0.5)
    wait_for(processes, tmp_path, "step", 5)  # beyond the save of step 3
    processes[1].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    statuses = end_of(processes, tmp_path, timeout=300)
    assert statuses[1] == -signal.SIGKILL and statuses[0] not in (0, EXIT_STOPPED)
    assert time.monotonic() - begin < 120
    assert end_of(mini(2, tmp_path, cache), tmp_path) == [0, 0]
    assert output_of(tmp_path).splitlines()[-1] == whole[1]
    assert log_of(tmp_path) == log_of(whole[0])


@pytest.mark.slow
@pytest.mark.invariant
def test_steps_and_trajectories_are_one_devices(tmp_path):
    """Two processes of two devices: data over the processes, fsdp within."""
    target = tmp_path / "found.npz"
    axes = '{"data": 2, "fsdp": 2}'
    processes = start_processes(2, ["tests.distributed.mesh_cases", target, axes], tmp_path, 2)
    assert end_of(processes, tmp_path) == [0, 0], output_of(tmp_path)
    found = np.load(target)
    for kind, make in mesh_cases.KINDS.items():
        wanted = make(mesh_cases.one_device())
        got = {name: found[f"{kind}/{name}"] for name in wanted}
        assert mesh_cases.largest_difference(kind, got, wanted) <= TOLERANCE[kind]


@pytest.mark.parametrize(
    "variables, line",
    [
        ({"JAX_NUM_PROCESSES": "2"}, "must be numbers; they are '2' and ''"),
        ({"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}, "must be numbers"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "of 2 processes it must be below"),
    ],
)
def test_half_a_description_of_the_processes_is_refused(variables, line):
    with pytest.raises(UserError, match=line):
        join_processes(False, {"JAX_COORDINATOR_ADDRESS": "localhost:1", **variables})
    join_processes(False, {})  # alone


def test_one_asks_the_judge_for_all(tmp_path):
    """Each answer is sent once, and both processes hear the same scores."""

    def likes(handler):  # every second length of what it is told
        score = len(handler.body["messages"][-1]["content"]) % 2
        handler.reply(200, completion(json.dumps({"score": score})))

    with Server([likes]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        program = ["tests.distributed.judge_program", f"http://127.0.0.1:{server.server_port}/v1"]
        processes = start_processes(2, program, tmp_path)
        assert end_of(processes, tmp_path) == [0, 0], output_of(tmp_path) + output_of(tmp_path, 1)
        server.shutdown()
    scores = [json.loads(output_of(tmp_path, i).splitlines()[-1]) for i in (0, 1)]
    told = [body["messages"][-1]["content"] for _, _, body in server.requests]
    assert len(told) == len(set(told)) == 4  # nothing need be asked of an empty answer
    assert scores[0] == scores[1] and sorted(scores[0]) == sorted([*(len(t) % 2 for t in told), 0])
    assert len(set(scores[0])) == 2


def test_a_stored_bank_is_made_by_both_and_read_in_parts(tmp_path, cache):
    """The very files of one process; each encodes about half, waits, and reads its own rows."""
    found, files = {}, {}
    for count, devices, delay in ((1, 2, 0), (2, 1, 3)):
        folder = tmp_path / str(count)
        folder.mkdir()
        program = ["tests.distributed.bank_program", folder / "run", delay]
        processes = start_processes(count, program, folder, devices, cache=cache)
        assert end_of(processes, folder) == [0] * count, output_of(folder, count - 1)[-3000:]
        lines = [output_of(folder, index).splitlines()[-1] for index in range(count)]
        found[count] = [json.loads(line) for line in lines]
        banks = folder / "run" / "banks" / "float32"
        files[count] = {path.name: path.read_bytes() for path in banks.iterdir()}
    assert files[1] == files[2] and len(files[1]) == len(bank_program.LENGTHS) + 2
    (one,), (first, second) = found[1], found[2]
    assert not {*first["encoded"]} & {*second["encoded"]}
    assert sorted(first["encoded"] + second["encoded"]) == one["encoded"]
    sizes = [sum(bank_program.LENGTHS[int(n[1:])] for n in each["encoded"]) for each in found[2]]
    assert max(sizes) < 0.65 * sum(sizes)
    assert (first["read"], second["read"], one["read"]) == ([2, 5], [0, 7], [0, 2, 5, 7])
    assert first["sums"] + second["sums"] == one["sums"] and len(one["sums"]) == 2


@pytest.mark.slow
@pytest.mark.invariant
def test_the_whole_run_on_two_processes(tmp_path, micro_arguments):
    """From the suite to the table: one process's steps within tolerance, files written once.

    Frame banks are stored on disk.
    """
    changes = {"device.count": 2, "mesh.data": 2, "log.checkpoint_every": 1}
    changes |= {"video.stored_bank": "float32"}
    logs, tables = [], []
    for count, devices in ((2, 1), (1, 2)):
        folder = tmp_path / str(count)
        folder.mkdir()
        program = ["medscope_jax.train", *micro_arguments, "--workdir", folder / "run"]
        program += [f"--config.{key}={value}" for key, value in changes.items()]
        processes = start_processes(count, program, folder, devices, cache=tmp_path / "compiled")
        assert end_of(processes, folder, 1200) == [0] * count, output_of(folder)[-3000:]
        assert (folder / "run" / "results.json").exists()
        program = ["medscope_jax.evaluate", "--workdir", folder / "run", "--split", "validation"]
        processes = start_processes(count, program, folder, devices, cache=tmp_path / "compiled")
        assert end_of(processes, folder, 600) == [0] * count, output_of(folder)[-3000:]
        tables.append(json.loads((folder / "run" / "evaluation_validation.json").read_text()))
        logs.append(log_of(folder))
    assert len(tables[0]) == len(tables[1]) > 0
    assert "written to" not in output_of(tmp_path / "2", 1)
    assert "done in" in output_of(tmp_path / "2") and "done in" not in output_of(tmp_path / "2", 1)
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
    for found, wanted in zip(*logs, strict=True):
        name = "policy_loss" if "policy_loss" in wanted else "loss"
        assert abs(found[name] - wanted[name]) < 1e-3, (found, wanted)
