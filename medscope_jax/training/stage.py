"""Running one stage: from its first step or its last checkpoint to its end."""

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from medscope_jax.distributed import param_shardings
from medscope_jax.distributed.multihost import is_first
from medscope_jax.errors import UserError
from medscope_jax.files import is_there
from medscope_jax.models import init_params, rounding_error
from medscope_jax.models.initialization import (
    with_balanced_scales,
    with_copying_heads,
    with_local_heads,
    with_ticks,
)
from medscope_jax.paths import to_path
from medscope_jax.training.alarms import watching
from medscope_jax.training.cadence import Cadence
from medscope_jax.training.checkpoint import Checkpoints, Restored
from medscope_jax.training.duration import Pace
from medscope_jax.training.from_config import MODELS, check_start
from medscope_jax.training.guard import stop_if_not_finite
from medscope_jax.training.imported import imported_params
from medscope_jax.training.metrics_log import MetricsWriter, Progress, read_metrics
from medscope_jax.training.origin import origin_params
from medscope_jax.training.preemption import Stopped, StopSignals
from medscope_jax.training.profiling import StepTrace, steps_to_trace
from medscope_jax.training.run import Run, model_key
from medscope_jax.training.train_state import (
    KL_REFERENCES,
    TrainState,
    abstract_state,
    init_state,
    make_schedule,
    optimizer_of,
    shardings_of,
    stage_params,
    trained,
    updates_of,
    with_sampler,
)
from medscope_jax.training.validation import Validate, best_score
from medscope_jax.training.workdir import Workdir


class Batches(Protocol):
    """An endless iterator that knows its place (Grain's)."""

    def __next__(self) -> Any: ...

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...


# (state, batch) -> (state, metrics); compiled inside.
Update = Callable[[TrainState, Any], tuple[TrainState, dict]]


def state_of(run: Run, name: str) -> TrainState:
    """A stage's state as shapes with shardings, as it is saved; allocates nothing."""
    state = abstract_state(run.config, run.model, run.mesh, name)
    return with_sampler(state) if _lags(run, name) else state


def _lags(run: Run, name: str) -> bool:
    return name == "ga_grpo" and bool(run.config.rl.lag)


def initial_params(run: Run, stage: str = "warm_up") -> dict:
    """The parameters that a run starts from: another run's, imported ones, or else random ones.

    Args:
        stage: that they are for. No later one than warm_up can learn from random ones.

    Raises:
        UserError: there is nothing for it to start from.
    """
    config = run.config
    if config.start_from:
        return origin_params(config, run.model, run.mesh)
    if config.model.checkpoint:
        return imported_params(to_path(config.model.checkpoint), run.model, run.mesh)
    check_start(config, stage)
    return _random_params(run)


def _random_params(run: Run) -> dict:
    """Random parameters, born sharded, able to copy and with a sense of time (see start)."""
    ticks = jnp.arange(run.config.video.max_frames + 1)
    ids = jnp.asarray([run.tokenizer.tag(f"{tick}.0") for tick in ticks.tolist()])

    def create(key):
        key, tick_key, copy_key = jax.random.split(key, 3)
        params = with_balanced_scales(init_params(run.model, key))
        params = with_copying_heads(params, run.model, copy_key)
        params = with_local_heads(params, run.model)
        return with_ticks(params, ids, ticks.astype(jnp.float32), tick_key)

    key = model_key(run.config, "params")
    shapes = jax.eval_shape(create, key)
    return jax.jit(create, out_shardings=param_shardings(shapes, run.mesh))(key)


def finished_params(run: Run, checkpoints: Checkpoints, name: str) -> dict | None:
    """The parameters that a finished stage ended with; None if it has not finished."""
    restored = _finished(run, checkpoints, name)
    return None if restored is None else restored.state["params"]


def _finished(run: Run, checkpoints: Checkpoints, name: str) -> Restored | None:
    shapes = {"params": state_of(run, name).params}
    return checkpoints.restore(shapes, stage=name, partial=True)


def best_model(run: Run, workdir: Workdir) -> tuple[str, dict]:
    """Name and parameters of the model with the highest validation score: of rl, or else sft, at
    whatever step.

    Raises:
        UserError: neither was validated.
    """
    if workdir.checkpoints.is_dir():
        with Checkpoints(workdir.checkpoints, read_only=True) as checkpoints:
            for name in ("rl", "sft"):
                stage = MODELS[name]
                shapes = {"params": state_of(run, stage).params}
                found = checkpoints.restore(
                    shapes, stage=stage, partial=True, finished=False, best=True
                )
                if found is not None:
                    return f"{name}, step {found.meta['step']}", found.state["params"]
    raise UserError(
        f"{workdir.path} holds no checkpoint that was validated: train with "
        "--config.evaluation.every=N, or leave --best out"
    )


def newest_model(run: Run, workdir: Workdir) -> tuple[str, dict]:
    """Name and parameters of the last trained model that is finished: rl, or else sft.

    Raises:
        UserError: neither is finished.
    """
    if workdir.checkpoints.is_dir():
        with Checkpoints(workdir.checkpoints, read_only=True) as checkpoints:
            for name in ("rl", "sft"):
                params = finished_params(run, checkpoints, MODELS[name])
                if params is not None:
                    return name, params
    raise UserError(
        f"{workdir.path} holds no finished sft or rl model yet; go on with "
        f"python -m medscope_jax.train --config FILE --workdir {workdir.path}"
    )


def entered(run: Run, name: str, params: dict) -> dict:
    """The parameters in the form that the stage trains; prints how many of them it does train."""
    section, lora, form = run.config[name], run.model.lora, ""
    if lora is not None:
        given, key = params, model_key(run.config, "lora")
        create = functools.partial(stage_params, model=run.model, stage=section)
        shardings = param_shardings(jax.eval_shape(create, given, key=key), run.mesh)
        params = jax.jit(lambda p, k: create(p, key=k), out_shardings=shardings)(given, key)
        if section.lora:
            form = f": adapters of rank {lora.rank}, base in {lora.base}"
            error = float(jax.jit(rounding_error)(given, params))
            form += f", its kernels rounded by {100 * error:.2f} %" if error else ""
    if jax.process_index() == 0:
        count, total = _size(trained(params, section.train_vision)), _size(params)
        print(f"{name} trains {count:,} of {total:,} parameters{form}")
    return params


def _size(tree: dict) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _check_reference(run: Run) -> None:
    """Before hours of training: a KL penalty to a base needs adapters that can be off."""
    section = run.config.rl
    if not section.get("kl_coefficient"):
        return
    if section.kl_reference not in KL_REFERENCES:
        raise UserError(
            f"rl.kl_reference is {section.kl_reference!r}; choose {' or '.join(KL_REFERENCES)}"
        )
    if section.kl_reference == "base" and not (run.model.lora and run.config.ga_grpo.lora):
        raise UserError(
            "rl.kl_reference=base needs adapters: set model.lora.rank and ga_grpo.lora, "
            "or take kl_reference=start"
        )


def run_stage(
    run: Run,
    name: str,
    start: Callable[[], dict],
    prepare: Callable[[dict], tuple[Batches, Update]],
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    stop: StopSignals | None = None,
    rows: int | None = None,
    validate: Validate | None = None,
) -> dict:
    """Runs a stage to its end and returns the parameters it ends with.

    A finished stage is not run again; a started one, or one that shall be longer now, goes on from
    its last checkpoint, with the very batches, keys and numbers of a run that was never killed.

    Args:
        start: gives the parameters that the stage starts from.
        prepare: given those parameters, makes the batches and the compiled update. Only called
            where there is something left to do.
        stop: asks the stage to save after the step under way and to raise Stopped.
        rows: that the batches are drawn from, to be told; None: nothing is.
        validate: every evaluation.every steps and at the end; what does better than all before is
            saved, and kept.
    """
    _check_reference(run)
    section, log = run.config[name], run.config.log
    steps = section.steps
    done = _finished(run, checkpoints, name)
    if done is not None and done.meta["step"] >= steps:
        return done.state["params"]
    del done
    stop = stop or StopSignals()
    first_params = entered(run, name, start())
    batches, update = prepare(first_params)
    state, first = _resume(run, name, checkpoints, batches, writer)
    if state is None:
        state = first_state(run, name, first_params)
    every = 1 if name == "ga_grpo" else log.every  # a step of stage 3 takes seconds
    progress = Progress(steps, name, done=first)
    pace = Pace(name, section, rows, first, Workdir(run.folder).metrics)
    cadence = Cadence(log)
    watch = watching(_logged(run, name, first))
    schedule = make_schedule(section, updates_of(run.config, name))
    place, placed = batches.get_state(), first  # of the data, when the host looked last
    metrics: dict = {}
    best = best_score(checkpoints.metas(), name)

    def save(step: int, score: float | None = None) -> None:
        writer.flush()  # a checkpoint knows no line that is not stored
        length = {"steps": steps, "epochs": section.epochs}
        logged = {"lines": writer.lines, "bytes": writer.bytes}
        meta = {"stage": name, "step": step} | length | logged
        if score is not None:
            meta["validation"] = score
        checkpoints.save(state, batches.get_state(), meta, stage_finished=step == steps)
        cadence.saved()

    if first == steps:  # it was to be longer, and shall end where it was saved
        save(steps)
    with StepTrace(run.folder, name, steps_to_trace(log.profile), steps) as trace:
        for step in range(first + 1, steps + 1):
            with trace.step(step):
                # Else the host would run ahead, and several batches lie on the devices at once.
                jax.block_until_ready(metrics)
                state, metrics = update(state, next(batches))
            trace.after(step, state)
            stop.hold()
            last = step == steps
            if last or step % every == 0:
                metrics = jax.device_get(metrics) | _optimizer_metrics(state, schedule)
                writer.write(name, step, metrics)
                for alarm in watch(metrics) if name == "ga_grpo" else ():
                    writer.write(name, step, {"note": alarm})
                    if is_first():
                        print(f"{name}, step {step}: {alarm}", flush=True)
                progress.update(step - first, **_shown(metrics))
                pace(step)
                first = step
            score = None
            if validate is not None and (last or step % run.config.evaluation.every == 0):
                found = validate(state.params)
                writer.write(name, step, found)
                score = found["validation_score"]
                if is_first():
                    print(f"{name}, step {step}: validation score {score:.3f}", flush=True)
            better = score is not None and score > best
            leaving = stop.agreed()
            saving = cadence.due(step) or last or leaving or better
            if saving or step % every == 0:
                again = functools.partial(_batch_again, batches, place, placed, state)
                stop_if_not_finite(state, name, run.folder, again)
                place, placed = batches.get_state(), step
            if saving:
                save(step, score)
                best = max(best, -math.inf if score is None else score)
            if leaving:
                checkpoints.wait()
                raise Stopped(f"{name} is saved after step {step} of {steps}")
    checkpoints.wait()
    stop.release()
    progress.close()
    return state.params


def _batch_again(batches: Batches, place: Any, placed: int, state: TrainState) -> dict:
    """The batch of the last step that the state has tried; at `place` it had tried `placed`.

    Drawing it again spares the memory that keeping every batch until the host looks would take.
    """
    batches.set_state(place)
    for _ in range(int(state.step) - placed):
        batch = next(batches)
    return batch


def _optimizer_metrics(state: TrainState, schedule: optax.Schedule) -> dict:
    """Steps skipped in the stage so far, and the learning rate of the last one taken."""
    skipped = int(state.skipped)
    taken = max(int(state.step) - skipped - 1, 0)
    return {"learning_rate": float(schedule(taken)), "skipped": skipped}


def _logged(run: Run, name: str, first: int) -> list[dict]:
    """The metrics of a stage's steps so far, as logged; of stage 3 alone."""
    if name != "ga_grpo" or not first:
        return []
    log = Workdir(run.folder).metrics
    rows = read_metrics(log) if is_there(log) else []
    return [
        row for row in rows if row["stage"] == name and row["step"] <= first and "reward" in row
    ]


def _shown(metrics: dict) -> dict:
    """The few figures that a progress bar has room for."""
    names: tuple[str, ...] = ("loss", "reward", "iou", "accuracy", "tool_rate")
    names += ("skipped",) if metrics["skipped"] else ()
    return {name: metrics[name] for name in names if name in metrics}


def _resume(
    run: Run, name: str, checkpoints: Checkpoints, batches: Batches, writer: MetricsWriter
) -> tuple[TrainState | None, int]:
    """(state, steps done) of the stage's last checkpoint, batches moved there; or (None, 0)."""
    restored = checkpoints.restore(state_of(run, name), stage=name, finished=False)
    # What was logged after the newest checkpoint is logged again.
    logged = max(checkpoints.metas(), key=lambda meta: meta["lines"], default={"lines": 0})
    writer.cut(logged["lines"], logged.get("bytes"))
    if restored is None:
        return None, 0
    meta, steps = restored.meta, run.config[name].steps
    if meta.get("steps", steps) != steps:
        note = f"{meta['steps']} steps were planned, and are {steps} from here on"
        writer.write(name, meta["step"], {"note": f"{note}: so is the learning rate's schedule"})
    batches.set_state(restored.data)
    return restored.state, meta["step"]


def first_state(run: Run, name: str, params: dict) -> TrainState:
    """The state of a stage that begins from these parameters, which stay as they are."""
    # Copied, because updates donate their state and others still need these parameters.
    params = jax.tree.map(jnp.copy, params)
    create = functools.partial(
        init_state,
        optimizer=optimizer_of(run.config, name),
        train_vision=run.config[name].train_vision,
    )
    key = model_key(run.config, name)
    place = shardings_of(run.config, run.model, run.mesh, name)
    state = jax.jit(lambda p, k: create(p, key=k), out_shardings=place)(params, key)
    return jax.tree.map(jnp.copy, with_sampler(state)) if _lags(run, name) else state
