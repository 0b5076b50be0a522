"""One GPU: the phantom suite, ten times larger; a decoder of 12 layers: accelerator.py.

Needs JAX's CUDA wheels: `python -m pip install "jax[cuda12]"`, or `"jax[cuda13]"`.

`gpu.py` is for an H100 of 80 GB; `gpu.py:a100`, `l4` and `t4` are for these. `gpu.py:3b` trains
Qwen2.5-VL's 3B by adapters, `gpu.py:3b,a100` on an A100 (of 40 GB, or more): such a GPU holds
shorter conversations than the paper's, see tpu_configs/sizing.py.
"""

from ml_collections import ConfigDict

from tpu_configs.accelerator import accelerator_config
from tpu_configs.published import read_target

KINDS = {"h100": "H100", "a100": "A100", "l4": "L4", "t4": "T4"}
# Conversations of the small model at once, where memory does not hold a step's: those that are
# rolled out, and rows of a pass. T4 has twice the bytes for each, and no kernel of attention.
SLOTS = {"L4": 128, "T4": 64}
ROWS = {"T4": 64}


def get_config(arg: str = "") -> ConfigDict:
    """arg: parts such as "a100" (a GPU) or "3b,full", see tpu_configs.published."""
    target = read_target(arg, kinds=KINDS)
    kind = KINDS[target.kind or "h100"]
    device = {"platform": "gpu", "kind": kind, "count": 1}
    config = accelerator_config(target, device, {"data": 1, "fsdp": 1, "tensor": 1})
    if kind == "T4":
        config.model.dtype = "float32"  # older than bfloat16
    if target.size:
        return config
    config.rollout.slots = SLOTS.get(kind, 0)
    for stage in ("warm_up", "cold_start", "passive", "rl"):
        config[stage].micro_batch = ROWS.get(kind, config[stage].micro_batch)
    return config
