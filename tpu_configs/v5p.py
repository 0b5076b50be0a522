"""TPU v5p: the phantom suite, ten times larger; a decoder of 12 layers: accelerator.py.

`v5p.py` is the 4-chip slice 2x2x1, `v5p.py:topology=2x2x2` a larger one. A chip offers
95.73 GiB; `python -m medscope_jax.plan --config tpu_configs/v5p.py` says what is used of it,
on any machine.

`v5p.py:7b,topology=2x4x4` trains Qwen2.5-VL's 7B by adapters, `3b,full` all weights of its 3B.
"""

from ml_collections import ConfigDict

from tpu_configs.accelerator import accelerator_config
from tpu_configs.published import read_target, slice_device


def get_config(arg: str = "") -> ConfigDict:
    """arg: parts such as "topology=SHAPE" (in chips), "slices=2", "7b,full"; see published.py."""
    target = read_target(arg, topology="2x2x1")
    device = slice_device("v5p", target)
    return accelerator_config(target, device, {"data": -1, "fsdp": 2, "tensor": 2})  # -1: the rest
