"""What a run takes of another run that it starts from: config.start_from, WORKDIR:STAGE.

The model that a finished stage of that run ended with, with its shapes and its tokenizer; all else
is the config's business. Once the first stage has saved, the other run's checkpoints are no longer
needed; its config is read at each start.
"""

import json
from collections.abc import Mapping

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.config import from_json
from medscope_jax.dialogue import Tokenizer, load_qwen_tokenizer, load_tokenizer, save_tokenizer
from medscope_jax.distributed import param_shardings
from medscope_jax.errors import UserError
from medscope_jax.models import ModelConfig, cast_params, for_mesh, merge_lora, plain_kernels
from medscope_jax.paths import is_remote
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.from_config import read_start, with_vocabulary
from medscope_jax.training.imported import (
    keep_companions,
    read_companions,
    with_checkpoint_shapes,
)
from medscope_jax.training.train_state import abstract_state
from medscope_jax.training.workdir import Workdir, read_workdir


def with_start_shapes(config: ConfigDict) -> ConfigDict:
    """The config with the shapes of the weights that it starts from, if it does, in place of its.

    Raises:
        UserError: config.model.checkpoint is no weights folder, config.start_from no run, or both
            are given.
    """
    if not config.start_from:
        return with_checkpoint_shapes(config)
    if config.model.checkpoint:
        raise UserError(
            "config.model.checkpoint and config.start_from both name weights to start from: "
            "give one of them"
        )
    folder, stage = read_start(config.start_from)
    other = read_workdir(folder)[1].to_dict()
    values = config.to_dict()
    place = folder if is_remote(folder) else folder.resolve()
    values["start_from"] = f"{place}:{stage}"
    values["model"] |= {key: other["model"][key] for key in ("checkpoint", "text", "vision")}
    values["dialogue"]["vocab_size"] = other["dialogue"]["vocab_size"]
    return from_json(json.dumps(values))


def check_origin(config: ConfigDict) -> None:
    """Refuses a start_from whose stage has not finished, before a run claims its folder."""
    if not config.start_from:
        return
    workdir, stage = _origin(config)
    if not workdir.checkpoints.is_dir():
        raise _not_finished(config)
    with Checkpoints(workdir.checkpoints, read_only=True) as checkpoints:
        if stage not in checkpoints.finished():
            raise _not_finished(config)


def origin_tokenizer(config: ConfigDict) -> Tokenizer:
    """The tokenizer of the run that config.start_from names."""
    workdir = _origin(config)[0]
    if config.model.checkpoint:
        return load_qwen_tokenizer(read_companions(workdir), config.model.text.vocab_size)
    return load_tokenizer(workdir.tokenizer)


def keep_origin_tokenizer(config: ConfigDict, workdir: Workdir) -> None:
    """Copies the other run's tokenizer to where a run finds its own; does nothing where it is."""
    other = _origin(config)[0]
    if config.model.checkpoint:
        keep_companions(read_companions(other), workdir)
    elif not workdir.tokenizer.exists():
        save_tokenizer(load_tokenizer(other.tokenizer), workdir.tokenizer)


def origin_params(config: ConfigDict, model: ModelConfig, mesh: Mesh) -> dict:
    """The parameters that the stage of config.start_from ended with, sharded.

    model: the run's. Adapters that are as the run's stay, others are merged.

    Raises:
        UserError: the stage has not finished, or its checkpoint is damaged.
    """
    workdir, stage = _origin(config)
    other = read_workdir(workdir.path)[1]
    source = for_mesh(with_vocabulary(other.model, model.text.vocab_size), mesh)
    shapes = {"params": abstract_state(other, source, mesh, stage).params}
    with Checkpoints(workdir.checkpoints, read_only=True) as checkpoints:
        restored = checkpoints.restore(shapes, stage=stage, partial=True)
    if restored is None:
        raise _not_finished(config)
    params = restored.state["params"]
    if source.lora == model.lora and source.param_dtype == model.param_dtype:
        return params

    def plain(params: Mapping) -> dict:
        return cast_params(plain_kernels(merge_lora(params, source)), model.param_dtype)

    place = param_shardings(jax.eval_shape(plain, params), mesh)
    return jax.jit(plain, out_shardings=place)(params)


def _origin(config: ConfigDict) -> tuple[Workdir, str]:
    folder, stage = read_start(config.start_from)
    return Workdir(folder), stage


def _not_finished(config: ConfigDict) -> UserError:
    workdir, stage = _origin(config)
    return UserError(
        f"config.start_from {config.start_from}: that run has not finished {stage}; go on with it "
        f"(python -m medscope_jax.train --config FILE --workdir {workdir.path}), or name a stage "
        "that it has finished"
    )
