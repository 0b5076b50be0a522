"""A run's newest model as a weights folder, which all else takes: ask, another run, convert export.

Adapters stay beside their kernels, so that an export can merge them or hand out them alone. int8
kernels are written as the float32 ones that they stand for: those the adapters were trained on.
"""

from pathlib import Path

import jax

from medscope_jax.distributed import make_mesh
from medscope_jax.models import plain_kernels
from medscope_jax.models.new_folder import check_new
from medscope_jax.models.weights import save_params
from medscope_jax.training.run import make_run
from medscope_jax.training.stage import newest_model
from medscope_jax.training.workdir import read_workdir


def save_run(source: Path, target: Path) -> tuple[str, int]:
    """Makes the weights folder `target` of a training run; returns (model, its parameters).

    The model is the last finished one, rl or else sft, and passes through memory as a whole. The
    tokenizer of imported weights goes along; a run from random weights has one of SentencePiece's,
    which stays in the run.

    Raises:
        UserError: `source` is no run or has no finished model, or `target` exists.
    """
    check_new(target)
    workdir, config = read_workdir(source)
    run = make_run(config, workdir, make_mesh({}, jax.devices()[:1]))
    name, params = newest_model(run, workdir)
    params = plain_kernels(params)
    like = workdir.pretrained if config.model.checkpoint else None
    save_params(target, params, run.model, like)
    return name, sum(leaf.size for leaf in jax.tree.leaves(params))
