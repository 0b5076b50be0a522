"""Planning for hardware that is not there."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from medscope_jax import models, plan
from medscope_jax.config import load_config
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import UserError
from medscope_jax.planning import to_dict
from medscope_jax.planning.programs import Program, programs

FOLDER = Path(__file__).parent.parent / "tpu_configs"
V5E = str(FOLDER / "v5e.py")
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)
# The v5e config, made small enough to compile in seconds.
SMALL = (
    "model.text.num_hidden_layers=2",
    "model.text.hidden_size=128",
    "model.text.mrope_section=(4, 2, 2)",
    "model.vision.depth=1",
    "model.vision.fullatt_block_indexes=(0,)",
    "video.height=28",
    "video.width=56",
    "video.max_frames=8",
    "dialogue.preview_frames=2",
    "dialogue.window_frames=2",
    "dialogue.length=192",
    "rollout.call_tokens=8",
    "rollout.turn_tokens=8",
    "rollout.prefill_rows=2",
    "rl.group_size=2",
    "rl.micro_batch=8",
    "ga_grpo.batch_size=8",
)


def doubling(rows):
    """Stands for the real programs, which take longer to compile."""

    def make(config, mesh):
        x = jax.ShapeDtypeStruct(
            (rows, 65_536), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("fsdp"))
        )
        return {"double": Program(lambda x: x * 2, {"rows": x})}

    return make


def test_the_programs_trace_with_the_planned_shapes():
    config = load_config(f"{V5E}:topology=2x4", SMALL)
    mesh = make_mesh(config.mesh, jax.devices()[:8], kv_heads=4)
    for name, program in programs(config, mesh).items():
        result = jax.eval_shape(program.function, *program.arguments.values())
        if name == "encode":
            assert result.shape[1:] == (2, 128)
        if name == "rollout":
            assert result[0].tokens.shape == (16, 192)
        if name == "sft":
            assert result[1]["loss"].shape == ()
            assert program.arguments["episodes"]["tokens"].shape == (128, 192)
            # Each row brings what it shows: at most frames of 2 tokens in all of its slots.
            assert program.arguments["episodes"]["visual"].shape == (128, 192, 128)
        if name == "ga_grpo":
            state, metrics = result
            assert jax.tree.map(jnp.shape, state.params) == jax.tree.map(
                jnp.shape, program.arguments["parameters"]
            )
            assert metrics["policy_loss"].shape == ()
            # Only adapters (of rank 64) have moments, and they are float32 on a bfloat16 base.
            state = program.arguments["parameters"], program.arguments["optimizer"]
            projection = state[0]["text"]["layers"]["mlp"]["up_proj"]
            assert projection["kernel"].dtype == jnp.bfloat16
            assert projection["lora_a"].shape == (2, 128, 64)
            assert {leaf.dtype for leaf in jax.tree.leaves(state[1])} <= {
                jnp.dtype("float32"),
                jnp.dtype("int32"),
            }
            sizes = [leaf.size for leaf in jax.tree.leaves(state[1])]
            adapters = models.split_lora(state[0])[1]
            assert sum(sizes) - 2 * sum(leaf.size for leaf in jax.tree.leaves(adapters)) < 8


def test_questions_that_do_not_split_are_a_user_error():
    config = load_config(f"{V5E}:topology=2x4", [*SMALL, "ga_grpo.batch_size=6"])
    with pytest.raises(UserError, match="rl.parts 6 does not split over data x fsdp = 8"):
        programs(config, make_mesh(config.mesh, jax.devices()[:8]))


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
    assert captured.err.strip().splitlines()[-1].startswith("double does not fit: ")


def test_a_config_without_a_slice_is_planned_on_its_devices(monkeypatch, capsys):
    monkeypatch.setattr(plan, "programs", doubling(8))
    monkeypatch.setattr(plan, "check", lambda config, mesh: None)
    assert plan.main(["--config", str(FOLDER / "cpu.py")]) == 0
    assert "cpu: 1 chip," in capsys.readouterr().out


def test_progress_is_told_off_a_terminal(monkeypatch, capsys):
    """A line a program, before it is compiled: a log of minutes of silence looks like a hang."""

    def make(config, mesh):
        (program,) = doubling(8)(config, mesh).values()
        return {"encode": program, "rollout": program}

    monkeypatch.setattr(plan, "programs", make)
    monkeypatch.setattr(plan, "check", lambda config, mesh: None)
    assert plan.main(["--config", str(FOLDER / "cpu.py")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["compiling encode (1 of 2)", "compiling rollout (2 of 2)"]


def test_a_config_without_a_slice_and_without_devices_names_those_with_one():
    with pytest.raises(UserError, match=r"names none.*v5e.py"):
        plan.main(["--config", str(FOLDER / "gpu.py")])


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
    assert set(costs) == {"encode", "rollout", "ga_grpo", "sft"}
    for cost in costs.values():
        check_cost(cost)
    for step in (costs["ga_grpo"].report, costs["sft"].report):
        assert step.aliased_bytes > 0.9 * step.outputs_bytes  # the state is updated in place
    result = to_dict(name, config, mesh, costs)
    assert result["fits"] and set(result["programs"]) == set(costs)


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


def test_a_published_size_s_prompt_is_counted_as_its_tokenizer_would():
    """512 frames in 256 blocks of 64 tokens, with their times and tags, system text and tools."""
    config = load_config(f"{V5E}:3b,topology=4x4")
    prompts = programs(config, make_mesh({"data": -1}, jax.devices()[:8]))["rollout"].arguments
    width = prompts["prompts"].tokens.shape[1]
    assert 256 * (64 + 9) < width < 256 * (64 + 13) + 1024
