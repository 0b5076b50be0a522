"""What a config changes for one of Qwen2.5-VL's published sizes, and how its file's argument reads.

    tpu_configs/v5e.py:7b,topology=16x16          LoRA of rank 64 on a frozen bfloat16 base
    tpu_configs/v5p.py:3b,full,topology=4x4x4     all weights train

The paper's context is 32,768, its preview 512 frames of at most 224x224 pixels: 64 tokens a frame,
so that single frames would fill the context alone. Two frames a temporal patch, as in Qwen's own
video mode, hold the same 512 frames of the same size in half of it: 256 blocks of 64 tokens and
some ten more for the time of each leave a third of the context for two looks of 128 frames and
the words. So frames come in pairs here (video.native_pairs), and preview_frames, window_frames and
max_frames count pairs. The other way, single frames of 112x196, would have shown less of each.
"""

import dataclasses
import math
from collections.abc import Mapping

from ml_collections import ConfigDict

from medscope_jax.dialogue import protocol
from medscope_jax.models.presets import PRESETS, preset

# Records of the paper's stages 1 and 2, of which three epochs are run, 128 rows a step.
_STAGE_RECORDS = {"warm_up": 634_800 + 253_800, "cold_start": 34_000 + 84_000}
_EPOCHS = 3


@dataclasses.dataclass(frozen=True)
class Target:
    """What a config file's argument asks for."""

    size: str = ""  # one of PRESETS; "": the file's own small model
    full: bool = False  # all weights train; else adapters on a frozen base
    topology: str = ""  # chips of the slice, such as 4x4; "" where the config has no slice

    @property
    def chips(self) -> int:
        """How many chips the slice has; 1 without one."""
        return math.prod(map(int, self.topology.split("x"))) if self.topology else 1


def read_target(arg: str, topology: str = "") -> Target:
    """Reads a config file's argument: parts separated by commas, in any order, each at most once.

    Args:
        arg: what follows FILE.py and a colon; "" for the file's defaults.
        topology: the file's own slice in chips, such as 2x4; "": a file without slices.

    Raises:
        ValueError: one line that names the parts there are.
    """
    known = f"{', '.join(PRESETS)} (a size), full (beside a size)"
    known += f", topology={topology} (the slice's shape)" if topology else ""
    found = {}
    for part in arg.split(",") if arg else ():
        name, _, value = part.partition("=")
        if part in PRESETS:
            name, value = "size", part
        elif part == "full":
            value = True
        elif not (topology and name == "topology" and _is_shape(value)):
            raise ValueError(f"unknown argument {part!r}; known: {known}")
        if name in found:
            raise ValueError(f"argument {arg!r} has two of {name}; known: {known}")
        found[name] = value
    if "full" in found and "size" not in found:
        raise ValueError(f"argument {arg!r} needs a size: {', '.join(PRESETS)}, as in 3b,full")
    return Target(**{"topology": topology, **found})


def published_size(section: Mapping) -> str:
    """Which of PRESETS has the shapes of a config's model section; "" if none has."""
    for size in PRESETS:
        model = preset(size)
        if all(
            value == getattr(getattr(model, tower), key)
            for tower in ("vision", "text")
            for key, value in section[tower].items()
            if key != "initializer_range"
        ):
            return size
    return ""


def use_published_size(config: ConfigDict, target: Target) -> None:
    """Changes a target's config, in place, to train the published size that its argument names.

    Shapes are the published ones, the rates, batches, epochs and adapters the paper's; the weights
    come with model.checkpoint. Does nothing where no size is named.
    """
    if not target.size:
        return
    model = preset(target.size)
    config.video.update(
        {
            "height": 224,
            "width": 224,
            "max_frames": 1800,  # pairs: an hour at 1 frame a second
            "resample": "bicubic",
            "native_pairs": True,
        }
    )
    config.dialogue.update(
        {
            "vocab_size": model.text.vocab_size,
            "preview_frames": 256,  # pairs
            "window_frames": 64,
            "frame_format": protocol.QWEN_FRAME,
            "response_format": protocol.QWEN_RESPONSE,
            "length": 32_768,
            "clip_length": 6_144,  # a window and its words
        }
    )
    for tower in ("vision", "text"):
        section = config.model[tower]
        section.update({key: getattr(getattr(model, tower), key) for key in section})
    config.model.update({"dtype": "bfloat16", "param_dtype": "float32", "remat": True})
    config.model.lora.update({"rank": 0 if target.full else 64, "alpha": 128.0})
    for stage in ("warm_up", "cold_start", "passive", "ga_grpo"):
        config[stage].update({"learning_rate": 2e-5, "warmup": 0.03, "batch_size": 128})
    for stage, records in _STAGE_RECORDS.items():
        config[stage].steps = _EPOCHS * records // 128
    config.passive.steps = config.cold_start.steps
    config.warm_up.lora = True  # adapters from the start, on the published weights
    config.ga_grpo.update({"learning_rate": 1e-6, "batch_size": 64})
    # Heads are split as far as the key-value heads allow, weights over all the other chips.
    tensor = math.gcd(model.text.num_key_value_heads, target.chips, 4)
    shards = target.chips // tensor
    config.mesh.update({"data": 1, "fsdp": -1, "tensor": tensor})
    config.rl.kl_coefficient = 0.0  # the paper writes its objective without
    config.rl.micro_batch = config.rl.group_size * min(shards, config.ga_grpo.batch_size)
    config.rollout.update({"turn_tokens": 512, "call_tokens": 96, "prefill_rows": 1})
    config.evaluation.rollouts = max(config.evaluation.rollouts, config.evaluation.samples * shards)
    # Phantom procedures only stand in: such a model is for suite.data_dir.
    config.suite.update({"train_ophthalmic": 40, "train_endoscopic": 24})


def _is_shape(text: str) -> bool:
    sides = text.split("x")
    return len(sides) in (2, 3) and all(side.isdecimal() and int(side) > 0 for side in sides)
