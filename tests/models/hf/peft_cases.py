"""Adapters in memory: PEFT's tensors as ours."""

import jax.numpy as jnp
import numpy as np

from medscope_jax.models.hf.peft import plan_peft


def import_peft(tensors, values, model):
    """(the adapters, float32, the LoraConfig) of PEFT's tensors and adapter_config.json."""
    lora, places = plan_peft({name: t.shape for name, t in tensors.items()}, values, model)
    adapters: dict = {}
    for path, names in places.items():
        branch = adapters
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        stack = [np.asarray(tensors[name], np.float32).T for name in names]
        branch[path[-1]] = jnp.asarray(np.stack(stack))
    return adapters, lora
