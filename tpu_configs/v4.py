"""TPU v4: the phantom suite, ten times larger; a decoder of 12 layers: accelerator.py.

`v4.py` is the 4-chip slice 2x2x1, `v4.py:topology=2x2x2` a larger one. A chip offers
30.75 GiB; `python -m medscope_jax.plan --config tpu_configs/v4.py` says what is used of it,
on any machine.

`v4.py:7b,topology=4x4x4` trains Qwen2.5-VL's 7B by adapters, `3b,full` all weights of its 3B.
"""

from ml_collections import ConfigDict

from tpu_configs.accelerator import accelerator_config
from tpu_configs.published import read_target, slice_device


def get_config(arg: str = "") -> ConfigDict:
    """arg: parts such as "topology=SHAPE" (in chips), "slices=2", "7b,full"; see published.py."""
    target = read_target(arg, topology="2x2x1")
    device = slice_device("v4", target)
    return accelerator_config(target, device, {"data": -1, "fsdp": 2, "tensor": 2})  # -1: the rest
