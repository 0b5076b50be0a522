"""The programs that are planned are those that a run compiles, with the shapes that it gives."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from medscope_jax import models
from medscope_jax.config import load_config
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import UserError
from medscope_jax.models import for_mesh
from medscope_jax.planning import assume, count_flops
from medscope_jax.planning import programs as planned
from medscope_jax.planning.programs import programs
from medscope_jax.training import ga_grpo, sft
from medscope_jax.training import run as run_room
from medscope_jax.training.from_config import make_layout, with_vocabulary
from tests.planning.plan_cases import SMALL, V5E


def test_a_gpu_that_is_not_here_rolls_out_without_a_kernel(monkeypatch):
    """As GPUs do. In its training the kernel of the TPU that stands in has cuDNN's place."""
    seen, rollout = [], planned.rollout_program

    def recording(mesh, model, *others):
        seen.append(model.attention)
        return rollout(mesh, model, *others)

    def with_kernel(model, mesh):
        return dataclasses.replace(model, attention="splash")

    monkeypatch.setattr(planned, "for_mesh", with_kernel)
    monkeypatch.setattr(planned, "rollout_program", recording)
    config = load_config(f"{V5E}:topology=2x4", SMALL)
    mesh = make_mesh(config.mesh, jax.devices()[:8], kv_heads=4)
    for stands_for in ("", "H100"):
        programs(config, mesh, stands_for)
    assert seen == ["splash", "xla"]


def test_the_programs_trace_with_the_planned_shapes():
    config = load_config(f"{V5E}:topology=2x4", SMALL)
    mesh = make_mesh(config.mesh, jax.devices()[:8], kv_heads=4)
    for name, program in programs(config, mesh).items():
        function = functools.partial(program.function, **program.static)
        result = jax.eval_shape(function, *program.arguments.values())
        if name == "encode":
            assert result.shape[1:] == (2, 128)
        if name == "rollout":
            assert result[0].tokens.shape == (16, 192)
        if name == "sft":
            assert result[1]["loss"].shape == ()
            assert program.arguments["episodes"]["tokens"].shape == (128, 192)
            # Each row brings what it shows: at most frames of 2 tokens in all of its slots.
            assert program.arguments["episodes"]["visual"].shape == (128, 192, 128)
        if name == "warm_up":
            assert result[1]["loss"].shape == ()
            assert program.arguments["episodes"]["tokens"].shape == (128, 384)
            assert program.arguments["episodes"]["frames"].shape == (128, 2, 28, 56, 3)
            # The tower trains with the decoder: both have moments.
            assert {"vision", "text"} <= program.parts["optimizer"][1][0].mu.keys()
        if name == "ga_grpo":
            state, metrics = result
            assert jax.tree.map(jnp.shape, state.params) == jax.tree.map(
                jnp.shape, program.parts["parameters"]
            )
            assert metrics["policy_loss"].shape == ()
            # Only adapters (of rank 64) have moments, and they are float32 on a bfloat16 base.
            state = program.parts["parameters"], program.parts["optimizer"]
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


def test_packed_rows_are_planned_with_their_conversations():
    """Stage 1's rows bring as many frames as fit their positions, not one clip's."""
    config = load_config(f"{V5E}:topology=2x4", [*SMALL, "dialogue.packed=True"])
    mesh = make_mesh(config.mesh, jax.devices()[:8], kv_heads=4)
    planned = programs(config, mesh)
    for name, length in (("warm_up", 384), ("sft", 192)):
        program = planned[name]
        assert program.arguments["episodes"]["segment"].shape == (128, length)
        metrics = jax.eval_shape(program.function, *program.arguments.values())[1]
        assert metrics["conversations"].shape == ()
    frames = planned["warm_up"].arguments["episodes"]["frames"].shape[1]
    assert 384 // 6 < frames <= 384 // 3 and frames % 8 == 0


def test_questions_that_do_not_split_are_a_user_error():
    config = load_config(f"{V5E}:topology=2x4", [*SMALL, "ga_grpo.batch_size=6"])
    with pytest.raises(UserError, match="rl.parts 6 does not split over data x fsdp = 8"):
        programs(config, make_mesh(config.mesh, jax.devices()[:8]))


def test_a_published_size_s_prompt_is_counted_as_its_tokenizer_would():
    """512 frames in 256 blocks of 64 tokens, with their times and tags, system text and tools."""
    config = load_config(f"{V5E}:3b,topology=4x4")
    prompts = programs(config, make_mesh({"data": -1}, jax.devices()[:8]))["rollout"].arguments
    width = prompts["prompts"].tokens.shape[1]
    assert 256 * (64 + 9) < width < 256 * (64 + 13) + 1024


def planned_run(*changes):
    """(what a stage sees of a run of the small config, the programs planned for it, by name)."""
    config = load_config(f"{V5E}:topology=2x4", [*SMALL, *changes])
    mesh = make_mesh(config.mesh, jax.devices()[:8], kv_heads=4)
    model = for_mesh(with_vocabulary(config.model, config.dialogue.vocab_size), mesh)
    layout = make_layout(config, model)
    run = SimpleNamespace(config=config, mesh=mesh, model=model, layout=layout)
    run.folder = run.tokenizer = run.special_tokens = None
    return run, programs(config, mesh)


@pytest.fixture(scope="module")
def small():
    """planned_run of the config as it is."""
    return planned_run()


def lowered(function, program, mesh):
    """The text of a function that a run has jitted, of the planned program's arguments."""
    with jax.set_mesh(mesh):
        return function.lower(*program.arguments.values(), **program.static).as_text()


@pytest.mark.parametrize(
    "name, stage, turns", [("sft", "cold_start", 6), ("warm_up", "warm_up", 1)]
)
def test_a_supervised_stage_runs_the_planned_step(small, monkeypatch, name, stage, turns):
    run, planned = small
    program, kept = planned[name], []
    monkeypatch.setattr(sft, "on_mesh", lambda mesh, function: kept.append(function))
    assert turns in (1, run.config.dialogue.max_tool_turns + 1)
    sft._update(run, stage, turns * run.config.rollout.turn_tokens, None)
    text = lowered(kept[0], program, run.mesh)
    assert text == lowered(program.function, program, run.mesh)
    assert "tf.aliasing_output" in text or "jax.buffer_donor" in text  # the state's memory


def test_micro_batches_are_planned_as_they_run(small, monkeypatch):
    """The same text as a run's; as much work as all rows at once, in parts that each fit."""
    run, planned = planned_run("cold_start.micro_batch=16")
    program, kept = planned["sft"], []
    monkeypatch.setattr(sft, "on_mesh", lambda mesh, function: kept.append(function))
    sft._update(run, "cold_start", 6 * run.config.rollout.turn_tokens, None)
    assert lowered(kept[0], program, run.mesh) == lowered(program.function, program, run.mesh)
    work = []
    for each, mesh in ((program, run.mesh), (small[1]["sft"], small[0].mesh)):
        with jax.set_mesh(mesh):
            trace = each.function.trace(*each.arguments.values()).jaxpr
        work.append(count_flops(trace, assume(run.config, mesh, each)).total)
    assert work[0] == pytest.approx(work[1], rel=0.01)
    assert lowered(small[1]["sft"].function, program, run.mesh) != lowered(
        kept[0], program, run.mesh
    )


def test_stage_3_runs_the_planned_step(small, monkeypatch):
    run, planned = small
    program, kept = planned["ga_grpo"], []
    monkeypatch.setattr(ga_grpo, "on_mesh", lambda mesh, function: kept.append(function))
    monkeypatch.setattr(ga_grpo, "load_records", lambda *_: [{}] * 8)
    monkeypatch.setattr(ga_grpo, "split_bank", lambda *_: None)
    monkeypatch.setattr(ga_grpo, "make_roller", lambda *_: SimpleNamespace(width=0))
    ga_grpo.prepare_ga_grpo(run, None, None, {"text": {}})
    text = lowered(kept[0], program, run.mesh)
    assert text == lowered(program.function, program, run.mesh)
    assert "tf.aliasing_output" in text or "jax.buffer_donor" in text


def test_rollouts_run_the_planned_program(small):
    run, planned = small
    engine = run_room.rollout_engine(run, run.config.rl.group_size, greedy=False)
    program = engine.program
    assert program is planned["rollout"].function


def test_a_bank_is_made_by_the_planned_program(small, monkeypatch):
    run, planned = small
    kept = []
    monkeypatch.setattr(run_room, "on_mesh", lambda mesh, function: kept.append(function))
    monkeypatch.setattr(run_room, "make_bank", lambda *_, **__: None)
    run_room.make_split_bank(run, {}, SimpleNamespace(videos=[]))
    assert kept == [planned["encode"].function]


@pytest.mark.parametrize("slots", [0, 1])
def test_the_real_loop_is_the_one_that_is_assumed(slots):
    """Also where requests wait for slots, which adds two kinds of steps."""
    config = load_config(f"{V5E}:topology=2x4", [*SMALL, f"rollout.slots={slots}"])
    mesh = make_mesh(config.mesh, jax.devices()[:8], kv_heads=4)
    program = programs(config, mesh)["rollout"]
    with jax.set_mesh(mesh):
        trace = program.function.trace(*program.arguments.values()).jaxpr
    assumed = assume(config, mesh, program)
    assert len(assumed.steps) == (4 if slots else 2)
    # Two calls and three turns of half of 8 tokens, of two rollouts, in two slots or one; the
    # slowest of 8 devices takes longer.
    assert assumed.mean.steps["decode_step"] == (24 if slots else 12)
    assert assumed.mean.steps["decode_step"] < assumed.steps["decode_step"]
    assert count_flops(trace, assumed).total > 0
