"""What a run takes of imported weights.

config.model.checkpoint names a weights folder (models/weights.py). Its shapes and its tokenizer
become the run's; how the model computes and trains (dtype, param_dtype, remat, lora) is the
config's business. Once the first stage has started, the run no longer needs the folder.
"""

import dataclasses
import json
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medscope_jax.config import from_json
from medscope_jax.copies import is_made, local_copy, new_target
from medscope_jax.distributed import abstract, param_shardings
from medscope_jax.manifest import read_manifest, write_manifest
from medscope_jax.models import ModelConfig, load_params, merge_lora, read_model
from medscope_jax.models.weights import copy_companions, weight_shapes
from medscope_jax.paths import is_remote, to_path
from medscope_jax.training.workdir import Workdir


def with_checkpoint_shapes(config: ConfigDict) -> ConfigDict:
    """The config with the shapes of the weights that it starts from, if it does, in place of its.

    Raises:
        UserError: config.model.checkpoint is no weights folder.
    """
    if not config.model.checkpoint:
        return config
    folder = to_path(config.model.checkpoint, "config.model.checkpoint")
    folder = folder if is_remote(folder) else folder.resolve()
    model = read_model(local_copy(folder))
    values = config.to_dict()
    values["model"] |= {
        "checkpoint": str(folder),
        "text": dataclasses.asdict(model.text),
        "vision": dataclasses.asdict(model.vision),
    }
    return from_json(json.dumps(values))


def keep_companions(folder: Path, workdir: Workdir) -> None:
    """Copies what lies beside the weights, such as tokenizer and licence, to where a run finds it.

    Does nothing where that was done.
    """
    if is_made(workdir.pretrained):
        return
    with new_target(workdir.pretrained) as partial:
        copy_companions(local_copy(folder), partial)
        write_manifest(partial)


def read_companions(workdir: Workdir) -> Path:
    """The folder on this machine of what keep_companions copied.

    Raises:
        UserError: a file is not what was copied.
    """
    again = "delete that folder and start the same training again, which copies it again"
    folder = local_copy(workdir.pretrained)
    read_manifest(folder, again)
    return folder


def imported_params(folder: Path, model: ModelConfig, mesh: Mesh) -> dict:
    """The parameters of a weights folder, sharded, with adapters merged if it has any.

    model: the run's. Without adapters all of it trains, so it is read in model.param_dtype; with
        them it is read as it is, and the stages freeze it as model.lora.base says.

    Raises:
        UserError: the folder is damaged.
    """
    folder = local_copy(folder)
    source = read_model(folder)
    if model.lora is None:
        source = dataclasses.replace(source, param_dtype=model.param_dtype)
    shapes = weight_shapes(source)
    params = load_params(folder, abstract(shapes, param_shardings(shapes, mesh)))
    if source.lora is None:
        return params
    return jax.jit(lambda tree: merge_lora(tree, source))(params)
