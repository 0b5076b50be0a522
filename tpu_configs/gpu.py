"""One H100 (80 GB): the phantom suite, ten times larger; a decoder of 12 layers: accelerator.py.

Needs JAX's CUDA wheels: `python -m pip install "jax[cuda12]"`, or `"jax[cuda13]"`.

`gpu.py:3b` trains Qwen2.5-VL's 3B by adapters.
"""

from ml_collections import ConfigDict

from tpu_configs.accelerator import accelerator_config
from tpu_configs.published import read_target


def get_config(arg: str = "") -> ConfigDict:
    """arg: nothing, a size such as "3b", or "3b,full"; see tpu_configs.published."""
    target = read_target(arg)
    device = {"platform": "gpu", "kind": "H100", "count": 1}
    return accelerator_config(target, device, {"data": 1, "fsdp": 1, "tensor": 1})
