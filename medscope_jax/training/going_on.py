"""What may be otherwise when a run goes on in its workdir, and what that asks of its stages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from medscope_jax.errors import UserError
from medscope_jax.training.duration import lasts
from medscope_jax.training.from_config import STAGES, before

# Keys, and sections with all of their keys ("log."), that nothing which is learned already depends
# on. All others of a workdir's config stay as they are.
MAY_CHANGE = (
    # What is written and who judges, from now on.
    *("log.", "judge."),
    # Where the run goes on, and how it shares its work out there: sums are taken in another order.
    *("device.", "mesh.", "model.remat", "model.remat_policy"),
    *("warm_up.micro_batch", "cold_start.micro_batch", "passive.micro_batch", "rl.micro_batch"),
    *("rl.parts", "rollout.slots", "rollout.prefill_rows", "rollout.prefill_tokens"),
    *("evaluation.rollouts", "evaluation.every", "evaluation.questions"),
    # What the run does in all, see check_lengths.
    "stages",
    *(f"{stage}.{key}" for stage in STAGES for key in ("steps", "epochs")),
)


def may_change(key: str) -> bool:
    """Whether a dotted key of the config may be otherwise when a run goes on."""
    return key in MAY_CHANGE or key.startswith(tuple(n for n in MAY_CHANGE if n.endswith(".")))


def check_lengths(config: ConfigDict, metas: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Refuses another length of a stage that a later one has learned from.

    Args:
        config: the run's, as it now is.
        metas: of its checkpoints.
        folder: the workdir.

    Raises:
        UserError: one line that names the key.
    """
    started = {meta["stage"]: meta for meta in metas}
    for name, meta in started.items():
        later = [stage for stage in STAGES if stage in started and name in before(stage)]
        if lasts(meta, config[name]) or not later:
            continue
        key, was = ("epochs", meta["epochs"]) if meta.get("epochs") else ("steps", meta["steps"])
        raise UserError(
            f"config.{name}.{key} was {was:g} and can't change any more: {later[0]} has started "
            f"from what {name} learned. Put it back, or train in another --workdir, which "
            f"--config.start_from={folder}:{name} lets go on from here"
        )


def is_finished(config: ConfigDict, name: str, metas: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a stage has ended, and is as long as the config says.

    metas: of the run's checkpoints.
    """
    own = [meta for meta in metas if meta["stage"] == name and lasts(meta, config[name])]
    return any(meta["step"] == meta.get("steps", config[name].steps) for meta in own)
