"""Planning for hardware that is not there."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from medscope_jax import plan
from medscope_jax.config import load_config
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import UserError
from medscope_jax.planning import to_dict
from medscope_jax.planning.programs import Program
from tests.planning.loop_cases import agent_loop
from tests.planning.plan_cases import SMALL, V5E, needs_libtpu

FOLDER = Path(__file__).parent.parent / "tpu_configs"


def doubling(rows):
    """Stands for the real programs, which take longer to compile."""

    def make(config, mesh, stands_for=""):
        x = jax.ShapeDtypeStruct(
            (rows, 65_536), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp"))
        )
        return {"double": Program(lambda x: x * 2, {"rows": x})}

    return make


@needs_libtpu
def test_a_plan_that_fits(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(plan, "programs", doubling(64))
    monkeypatch.setattr(plan, "check", lambda config, mesh: None)  # it trains a tokenizer
    path = tmp_path / "new" / "plan.json"
    assert plan.main(["--config", f"{V5E}:topology=2x2", "--json", str(path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "v5e:2x2: 4 chips" in out and "15.75 GiB" in out and "yes" in out
    result = json.loads(path.read_text())
    assert result["fits"] and result["mesh"]["fsdp"] == 4 == result["chips"]
    program = result["programs"]["double"]
    assert program["arguments_bytes"] == {"rows": 16 * 65_536 * 4}
    assert program["flops"] == 0 and program["collectives"] == {}
    assert program["roofline"]["binds"] == "memory" and "text" not in program
    assert program["roofline"]["seconds"] == program["hbm_bytes_moved"] / 819e9


@needs_libtpu
def test_a_plan_that_does_not_fit_says_so_and_exits_1(monkeypatch, capsys):
    monkeypatch.setattr(plan, "programs", doubling(400_000))
    monkeypatch.setattr(plan, "check", lambda config, mesh: None)
    assert plan.main(["--config", f"{V5E}:topology=2x2"]) == 1
    captured = capsys.readouterr()
    assert "NO" in captured.out
    assert "double: the largest buffers of a chip" in captured.out
    assert "f32[100000,65536]" in captured.out
    refusal, advice = captured.err.strip().splitlines()[-2:]
    assert refusal.startswith("double does not fit: ")
    assert "% of a chip's 15.75: try" in advice and "a larger slice" in advice


def test_a_config_without_a_slice_is_planned_on_its_devices(monkeypatch, capsys):
    monkeypatch.setattr(plan, "programs", doubling(8))
    monkeypatch.setattr(plan, "check", lambda config, mesh: None)
    assert plan.main(["--config", str(FOLDER / "cpu.py")]) == 0
    assert "cpu: 1 chip," in capsys.readouterr().out


def test_progress_is_told_off_a_terminal(monkeypatch, capsys):
    """A line a program, before it is compiled: a log of minutes of silence looks like a hang."""

    def make(config, mesh, stands_for=""):
        (program,) = doubling(8)(config, mesh).values()
        return {"encode": program, "rollout": program}

    monkeypatch.setattr(plan, "programs", make)
    monkeypatch.setattr(plan, "check", lambda config, mesh: None)
    assert plan.main(["--config", str(FOLDER / "cpu.py")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["compiling encode (1 of 2)", "compiling rollout (2 of 2)"]


@needs_libtpu
def test_a_gpu_that_is_not_here_is_planned_by_its_memory(monkeypatch, capsys, tmp_path):
    """Of a stand-in only bytes are told, and that they are an estimate."""
    path = tmp_path / "plan.json"
    monkeypatch.setattr(plan, "programs", doubling(8))
    monkeypatch.setattr(plan, "check", lambda config, mesh: None)
    assert plan.main(["--config", str(FOLDER / "gpu.py"), "--json", str(path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "H100: 1 chip" in out and "No H100 is here" in out and "temporaries are an estimate" in out
    )
    assert "TFLOP" not in out and "a second" not in out
    result = json.loads(path.read_text())
    assert result["estimated"] and result["device_kind"] == "H100"
    assert result["hbm_bytes"] == 60 * 10**9  # three quarters of 80 GB, which JAX takes
    program = result["programs"]["double"]
    assert program["arguments_bytes"] == {"rows": 8 * 65_536 * 4} and program["roofline"] is None

    monkeypatch.setattr(plan, "programs", doubling(400_000))
    assert plan.main(["--config", str(FOLDER / "gpu.py")]) == 1
    assert "a GPU with more memory" in capsys.readouterr().err
    with pytest.raises(UserError, match="planned 1, 2, 4, 8 at a time, not 3"):
        plan.main(["--config", str(FOLDER / "gpu.py"), "--config.device.count=3"])


def test_a_config_without_a_slice_and_without_devices_names_those_with_one():
    with pytest.raises(UserError, match=r"names none.*v5e.py"):
        plan.main(["--config", str(FOLDER / "gpu.py"), "--config.device.kind=MI300X"])


@pytest.mark.parametrize(
    "steps, message",
    [
        (("decode_step",), "named decode_step, but"),  # one is gone
        (("look", "decode_step"), "named look, decode_step, but"),  # one has another name
        ((), "it holds no loop named agent_loop"),
    ],
)
def test_a_program_whose_loops_are_not_understood_is_not_planned(monkeypatch, steps, message):
    """A plan that counted such a loop once would be wrong without a word."""

    def make(config, mesh, stands_for=""):
        x = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
        kinds = dict.fromkeys(steps, lambda x: x + 1)
        program = lambda x: agent_loop(x, **kinds) if kinds else x + 1  # noqa: E731
        return {"rollout": Program(program, {"x": x}, agent_loop=True)}

    monkeypatch.setattr(plan, "programs", make)
    config = load_config(str(FOLDER / "cpu.py"))
    with pytest.raises(UserError, match=f"^rollout can't be planned: .*{message}"):
        plan.plan(config, make_mesh({}, jax.devices()[:1]))


@needs_libtpu
def test_an_impossible_mesh_is_a_user_error():
    with pytest.raises(UserError, match="tensor=8 does not divide the model's 4 key-value heads"):
        plan.main(["--config", V5E, "--config.mesh.fsdp=1", "--config.mesh.tensor=8"])


@needs_libtpu
@pytest.mark.invariant
@pytest.mark.parametrize("name", ["v5e.py:topology=2x4", "v5p.py:topology=2x2x1"])
def test_the_real_programs_compile_for_a_slice(name):
    config = load_config(str(FOLDER / name), SMALL)
    mesh = plan.plan_mesh(config)
    costs = plan.plan(config, mesh)
    assert set(costs) == {"encode", "rollout", "ga_grpo", "warm_up", "sft"}
    for cost in costs.values():
        check_cost(cost)
    for step in (costs[name].report for name in ("ga_grpo", "warm_up", "sft")):
        assert step.aliased_bytes > 0.9 * step.outputs_bytes  # the state is updated in place
    result = to_dict(name, config, mesh, costs)
    assert result["fits"] and set(result["programs"]) == set(costs)


@needs_libtpu
@pytest.mark.invariant
def test_the_real_programs_compile_for_two_slices():
    """Only a training step sends anything from one to the other: its gradients."""
    config = load_config(f"{V5E}:topology=2x2,slices=2", SMALL)
    mesh = plan.plan_mesh(config)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "context": 1, "tensor": 1}
    costs = plan.plan(config, mesh, ["rollout", "ga_grpo", "sft"])
    for cost in costs.values():
        check_cost(cost)
    sent = {name: cost.work.dcn_bytes for name, cost in costs.items()}
    assert min(sent["ga_grpo"], sent["sft"]) > 0 and sent["rollout"] < 1000
    assert to_dict("two", config, mesh, costs)["slices"] == 2


@needs_libtpu
@pytest.mark.invariant
def test_two_real_programs_compile_for_a_slice():
    config = load_config(f"{V5E}:topology=2x4", SMALL)
    costs = plan.plan(config, plan.plan_mesh(config), ["encode", "rollout"])
    for cost in costs.values():
        check_cost(cost)
    with pytest.raises(UserError, match="no program 'train'; there are encode, rollout"):
        plan.plan(config, plan.plan_mesh(config), ["train"])


def check_cost(cost):
    """A program that fits, moves at least its arguments' bytes, and was not free."""
    report = cost.report
    assert report.fits and 0 < report.total_bytes < report.hbm_bytes
    assert report.total_bytes >= sum(report.arguments_bytes.values())
    # Together, the chips do what the program asks for, and more where they repeat each other. The
    # compiler unrolls so short a stack of layers, and then computes the first one's projections
    # once for both passes and no gradient of its untrained input: some 3 % of two layers' work.
    assert 0 < cost.flops <= 1.05 * report.chips * cost.chip_flops
    assert cost.roofline.seconds > 0 and all(rate > 0 for rate in cost.rates.values())
    assert cost.work.hbm_bytes > 0 and (cost.work.ici_bytes > 0 or not cost.work.collectives)
    assert 0 < sum(buffer.size for buffer in cost.buffers) <= 1.01 * report.total_bytes


def test_a_published_size_is_planned_before_its_weights_are_here(capsys):
    config = load_config(f"{V5E}:3b,topology=4x4")
    mesh = make_mesh({"data": -1}, jax.devices()[:8])
    plan.check(config, mesh)
    line = capsys.readouterr().err
    assert "estimates" in line and "model.checkpoint" in line and line.count("\n") == 1


def test_what_training_would_refuse_is_not_planned():
    with pytest.raises(UserError, match=r"config.rollout.top_p is 2.0"):
        plan.main(["--config", str(FOLDER / "cpu.py"), "--config.rollout.top_p=2.0"])
