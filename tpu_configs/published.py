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
from collections.abc import Collection

from ml_collections import ConfigDict

from medscope_jax.dialogue import protocol
from medscope_jax.distributed import usable_bytes
from medscope_jax.models.presets import PRESETS, preset
from tpu_configs import sizing

_EPOCHS = 3.0  # of the paper's stages 1 and 2, over the records that are there
_H100_BYTES = 60 * 10**9  # what is planned for where a device's memory is not known


@dataclasses.dataclass(frozen=True)
class Target:
    """What a config file's argument asks for."""

    size: str = ""  # one of PRESETS; "": the file's own small model
    full: bool = False  # all weights train; else adapters on a frozen base
    topology: str = ""  # chips of a slice, such as 4x4; "" where the config has no slice
    slices: int = 1  # such slices, joined by the data centre's network
    kind: str = ""  # of GPU, such as a100; "" for the file's own

    @property
    def chips(self) -> int:
        """How many chips all slices have; 1 without one."""
        return self.slices * math.prod(map(int, self.topology.split("x"))) if self.topology else 1


def read_target(arg: str, topology: str = "", kinds: Collection[str] = ()) -> Target:
    """Reads a config file's argument: parts separated by commas, in any order, each at most once.

    Args:
        arg: what follows FILE.py and a colon; "" for the file's defaults.
        topology: the file's own slice in chips, such as 2x4; "": a file without slices.
        kinds: of GPU that the file has configs for, such as a100.

    Raises:
        ValueError: one line that names the parts there are.
    """
    known = f"{', '.join(PRESETS)} (a size), full (beside a size)"
    known += f", topology={topology} (a slice's shape), slices=2" if topology else ""
    known += f", {', '.join(kinds)} (a GPU)" if kinds else ""
    found: dict[str, str | int | bool] = {}
    for part in arg.split(",") if arg else ():
        name, _, value = part.partition("=")
        if part in PRESETS:
            name, value = "size", part
        elif part in kinds:
            name, value = "kind", part
        elif part == "full":
            value = True
        elif topology and name == "slices" and value.isdecimal() and int(value) > 0:
            value = int(value)
        elif not (topology and name == "topology" and _is_shape(value)):
            raise ValueError(f"unknown argument {part!r}; known: {known}")
        if name in found:
            raise ValueError(f"argument {arg!r} has two of {name}; known: {known}")
        found[name] = value
    if "full" in found and "size" not in found:
        raise ValueError(f"argument {arg!r} needs a size: {', '.join(PRESETS)}, as in 3b,full")
    return Target(**{"topology": topology, **found})


def slice_device(kind: str, target: Target) -> dict[str, str | int]:
    """The device section of a config for a generation's slices."""
    return {
        "platform": "tpu",
        "kind": kind,
        "count": target.chips,
        "topology": f"{kind}:{target.topology}",
        "slices": target.slices,
    }


def use_published_size(config: ConfigDict, target: Target) -> None:
    """Changes a target's config, in place, to train the published size that its argument names.

    Shapes are the published ones, the rates, batches, epochs and adapters the paper's; the weights
    come with model.checkpoint. Does nothing where no size is named.
    """
    if not target.size:
        return
    model = preset(target.size)
    memory = usable_bytes(config.device.kind) or _H100_BYTES
    packed = config.device.platform == "tpu"  # GPUs have no kernel for such rows
    sizes = sizing.cut(model, memory, target.full, packed, target.chips, target.slices)
    shards = target.chips // sizes.tensor // sizes.context
    config.mesh.update(
        {"data": target.slices, "fsdp": -1, "context": sizes.context, "tensor": sizes.tensor}
    )
    config.video.update(
        {
            "height": 224,
            "width": 224,
            "max_frames": sizing.MAX_FRAMES,
            "resample": "bicubic",
            "native_pairs": True,
            # A pair's tokens take 458,752 bytes at 7b: an hour of video 826 MB, on the disk.
            "stored_bank": "bfloat16",
        }
    )
    config.dialogue.update(
        {
            "vocab_size": model.text.vocab_size,
            "preview_frames": sizes.view.preview,
            "window_frames": sizes.view.window,
            "frame_format": protocol.QWEN_FRAME,
            "response_format": protocol.QWEN_RESPONSE,
            "length": sizes.view.length,
            "clip_length": sizing.CLIP_LENGTH,
            "packed": packed,
        }
    )
    for tower in ("vision", "text"):
        section = config.model[tower]
        section.update({key: getattr(getattr(model, tower), key) for key in section})
    config.model.update({"dtype": "bfloat16", "param_dtype": "float32", "remat": True})
    config.model.lora.update({"rank": 0 if target.full else 64, "alpha": 128.0})
    for stage, batch in sizes.batch.items():
        section = {"steps": 0, "epochs": _EPOCHS, "learning_rate": 2e-5, "warmup": 0.03}
        micro_batch = sizes.rows[stage] if sizes.rows[stage] < batch else 0
        config[stage].update({"batch_size": batch, "micro_batch": micro_batch, **section})
    config.warm_up.lora = True  # adapters from the start, on the published weights
    config.ga_grpo.update({"learning_rate": 1e-6, "warmup": 0.03, "batch_size": sizes.questions})
    config.rl.update({"group_size": sizing.GROUP, "micro_batch": sizing.GROUP * shards})
    config.rl.kl_coefficient = 0.0  # the paper writes its objective without
    config.rollout.update(
        {
            "turn_tokens": 512,
            "call_tokens": 96,
            "prefill_rows": 1,
            "prefill_tokens": sizes.view.piece,
            "tensor": sizes.rollout_tensor,
            # Without a TPU's kernel, attention has a copy of what it reads of the caches.
            "slots": sizes.slots if packed else max(1, sizes.slots // 2),
        }
    )
    config.evaluation.rollouts = max(config.evaluation.rollouts, config.evaluation.samples * shards)
    # Phantom procedures only stand in: such a model is for suite.data_dir.
    config.suite.update({"train_ophthalmic": 5, "train_endoscopic": 3})


def _is_shape(text: str) -> bool:
    sides = text.split("x")
    return len(sides) in (2, 3) and all(side.isdecimal() and int(side) > 0 for side in sides)
