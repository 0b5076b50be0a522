"""How long a stage is: a number of optimizer steps, or the epochs over the suite's records.

A config has one of the two, the other is 0. What epochs come to is found when the stage starts, and
noted in its checkpoints: a run that goes on keeps the number, and with it the learning rate.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from medscope_jax.distributed.multihost import is_first
from medscope_jax.errors import UserError
from medscope_jax.training.from_config import STAGES
from medscope_jax.training.metrics_log import clock_text, read_metrics


def check_durations(config: ConfigDict) -> None:
    """Refuses a config with a stage that has no length, or two."""
    for name in STAGES:
        steps, epochs = config[name].steps, config[name].epochs
        if steps and epochs:
            raise UserError(
                f"config.{name} has {steps} steps and {epochs:g} epochs: set one of them to 0, "
                f"as by --config.{name}.steps=0 to train for epochs"
            )
        if not steps and not epochs:
            raise UserError(f"config.{name}.steps is 0, and so is epochs: set one of them")


def with_duration(
    config: ConfigDict, name: str, rows: int, metas: Sequence[Mapping[str, Any]]
) -> ConfigDict:
    """A run's config with the number of steps of a stage in it.

    Args:
        rows: that its batches are drawn from, each once an epoch.
        metas: of the run's checkpoints, oldest first.

    Raises:
        UserError: it has done more steps than that already.
    """
    section, own = config[name], [meta for meta in metas if meta["stage"] == name]
    if section.epochs:
        kept = [meta["steps"] for meta in own if lasts(meta, section)]
        steps = kept[-1] if kept else math.ceil(section.epochs * rows / section.batch_size)
        config = config.copy_and_resolve_references()
        config[name].steps = max(1, steps)
    done = max((meta["step"] for meta in own), default=0)
    if done > config[name].steps:
        key = "epochs" if section.epochs else "steps"
        raise UserError(
            f"config.{name}.{key} is {section[key]:g}, so {name} has {config[name].steps} steps, "
            f"but {done} are done already: it can end after these, or be made longer"
        )
    return config


def lasts(meta: Mapping[str, Any], section: Mapping[str, Any]) -> bool:
    """Whether a stage was to be as long, when it was saved, as its config now says.

    Args:
        meta: of a checkpoint of the stage.
        section: the stage's, of the config as it was given.
    """
    if section["epochs"]:
        return meta.get("epochs") == section["epochs"]
    return meta.get("steps", section["steps"]) == section["steps"]  # older ones do not say


class Pace:
    """Tells people how long a stage is: when it starts, and once some of its steps are timed."""

    def __init__(
        self,
        name: str,
        section: Mapping[str, Any],
        rows: int | None,
        done: int,
        log: Path,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Says "warm_up: 1,200 records, 3 epochs, 113 steps", and "about 4:10" where that is known.

        Args:
            section: the stage's, with its steps.
            rows: that its batches are drawn from; None: nothing is told.
            done: steps that are done already.
            log: the run's metrics.jsonl, whose lines tell how long a step took.
        """
        self._name, self._steps, self._clock = name, section["steps"], clock
        self._before: tuple[int, float] | None = None
        self._told = not rows or not is_first()
        if not rows or self._told:
            return
        epochs, left = self._steps * section["batch_size"] / rows, self._steps - done
        words = [f"{rows:,} records", f"{epochs:.3g} epochs", f"{self._steps:,} steps"]
        words += [f"{left:,} of them left"] if done else []
        pace = seconds_a_step(read_metrics(log), name) if done else None
        if pace is not None:
            self._told = True
            words.append(f"about {clock_text(pace * left)}")
        print(f"{name}: {', '.join(words)}", flush=True)

    def __call__(self, step: int) -> None:
        """Hears that a step is done, on the device too; the first steps hold the compilation."""
        if self._told:
            return
        now = self._clock()
        if self._before is None:
            self._before = step, now
            return
        pace, left = (now - self._before[1]) / (step - self._before[0]), self._steps - step
        self._told = True
        if left:
            print(f"{self._name}: {left:,} steps left, about {clock_text(pace * left)}", flush=True)


def seconds_a_step(lines: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Seconds that a step of a stage took, by the times of its logged lines; None: too few.

    The middle of all spaces between two lines, so that pauses of the run count for nothing.
    """
    seen = [(line["step"], line["time"]) for line in lines if line["stage"] == name]
    paces = sorted(
        (after[1] - before[1]) / (after[0] - before[0])
        for before, after in zip(seen, seen[1:], strict=False)
        if after[0] > before[0]
    )
    return paces[len(paces) // 2] if paces else None
