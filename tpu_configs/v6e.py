"""TPU v6e (Trillium): the phantom suite, ten times larger; a decoder of 12 layers: accelerator.py.

`v6e.py` is the 8-chip slice 2x4, `v6e.py:topology=4x4` a larger one. A chip offers
31.24 GiB; `python -m medscope_jax.plan --config tpu_configs/v6e.py` says what is used of it,
on any machine.

`v6e.py:7b,topology=8x8` trains Qwen2.5-VL's 7B by adapters, `3b,full` all weights of its 3B.
"""

from ml_collections import ConfigDict

from tpu_configs.accelerator import accelerator_config
from tpu_configs.published import read_target, slice_device


def get_config(arg: str = "") -> ConfigDict:
    """arg: parts such as "topology=SHAPE" (in chips), "slices=2", "7b,full"; see published.py."""
    target = read_target(arg, topology="2x4")
    device = slice_device("v6e", target)
    return accelerator_config(target, device, {"data": -1, "fsdp": 4, "tensor": 1})  # -1: the rest
