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

from ml_collections import ConfigDict

from medscope_jax.dialogue import protocol
from medscope_jax.distributed import USABLE_HBM_BYTES
from medscope_jax.models import ModelConfig
from medscope_jax.models.presets import PRESETS, preset

# The paper's stages 1 and 2, and the baseline beside: three epochs over the records that are there.
# Of each, how many conversations a packed row holds, by the mean lengths of the paper's sources
# (benchmarks/paper_lengths.py).
_SUPERVISED = {"warm_up": 4, "cold_start": 6, "passive": 6}
_EPOCHS = 3.0
_CONVERSATIONS = 128  # of their step
_LENGTH = 32_768
_QUESTIONS = 64  # of a batch of stage 3
_OTHER_BYTES = 80 * 10**9  # memory of what is no TPU: an H100


@dataclasses.dataclass(frozen=True)
class Target:
    """What a config file's argument asks for."""

    size: str = ""  # one of PRESETS; "": the file's own small model
    full: bool = False  # all weights train; else adapters on a frozen base
    topology: str = ""  # chips of a slice, such as 4x4; "" where the config has no slice
    slices: int = 1  # such slices, joined by the data centre's network

    @property
    def chips(self) -> int:
        """How many chips all slices have; 1 without one."""
        return self.slices * math.prod(map(int, self.topology.split("x"))) if self.topology else 1


def read_target(arg: str, topology: str = "") -> Target:
    """Reads a config file's argument: parts separated by commas, in any order, each at most once.

    Args:
        arg: what follows FILE.py and a colon; "" for the file's defaults.
        topology: the file's own slice in chips, such as 2x4; "": a file without slices.

    Raises:
        ValueError: one line that names the parts there are.
    """
    known = f"{', '.join(PRESETS)} (a size), full (beside a size)"
    known += f", topology={topology} (a slice's shape), slices=2" if topology else ""
    found: dict[str, str | int | bool] = {}
    for part in arg.split(",") if arg else ():
        name, _, value = part.partition("=")
        if part in PRESETS:
            name, value = "size", part
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
    config.video.update(
        {
            "height": 224,
            "width": 224,
            "max_frames": 1800,  # pairs: an hour at 1 frame a second
            "resample": "bicubic",
            "native_pairs": True,
            # A pair's tokens take 458,752 bytes at 7b: an hour of video 826 MB, on the disk.
            "stored_bank": "bfloat16",
        }
    )
    config.dialogue.update(
        {
            "vocab_size": model.text.vocab_size,
            "preview_frames": 256,  # pairs
            "window_frames": 64,
            "frame_format": protocol.QWEN_FRAME,
            "response_format": protocol.QWEN_RESPONSE,
            "length": _LENGTH,
            "clip_length": 6_144,  # a window and its words
            # GPUs have no kernel for such rows.
            "packed": config.device.platform == "tpu",
        }
    )
    for tower in ("vision", "text"):
        section = config.model[tower]
        section.update({key: getattr(getattr(model, tower), key) for key in section})
    config.model.update({"dtype": "bfloat16", "param_dtype": "float32", "remat": True})
    config.model.lora.update({"rank": 0 if target.full else 64, "alpha": 128.0})
    memory = USABLE_HBM_BYTES.get(config.device.kind, _OTHER_BYTES)
    # Heads are split as far as the key-value heads allow, weights over all other chips of a slice.
    tensor = math.gcd(model.text.num_key_value_heads, target.chips // target.slices, 4)
    context = _context(model, target.chips // tensor, tensor, memory)
    shards = target.chips // tensor // context
    axes = {"data": target.slices, "fsdp": -1, "context": context, "tensor": tensor}
    config.mesh.update(axes)
    rows = _rows(model, shards, tensor, context, memory)
    for stage, several in _SUPERVISED.items():
        each, batch = several if config.dialogue.packed else 1, _CONVERSATIONS
        while batch // 2 * each >= _CONVERSATIONS and batch > shards:
            batch //= 2
        section = {"steps": 0, "epochs": _EPOCHS, "learning_rate": 2e-5, "warmup": 0.03}
        micro_batch = rows if rows < batch else 0
        config[stage].update({"batch_size": batch, "micro_batch": micro_batch, **section})
    config.warm_up.lora = True  # adapters from the start, on the published weights
    config.ga_grpo.update({"learning_rate": 1e-6, "warmup": 0.03, "batch_size": _QUESTIONS})
    config.rl.kl_coefficient = 0.0  # the paper writes its objective without
    config.rl.micro_batch = config.rl.group_size * min(shards, config.ga_grpo.batch_size)
    config.rollout.update(
        {
            "turn_tokens": 512,
            "call_tokens": 96,
            "prefill_rows": 1,
            "prefill_tokens": 512,
            "slots": _slots(model, tensor, memory),
        }
    )
    config.evaluation.rollouts = max(config.evaluation.rollouts, config.evaluation.samples * shards)
    # Phantom procedures only stand in: such a model is for suite.data_dir.
    config.suite.update({"train_ophthalmic": 5, "train_endoscopic": 3})


def _kept(model: ModelConfig, tensor: int) -> float:
    """Bytes that training keeps of a full row for the backward pass: each layer's input."""
    return _LENGTH * model.text.hidden_size * 2 * model.text.num_hidden_layers / tensor


def _context(model: ModelConfig, chips: int, tensor: int, memory: int) -> int:
    """Parts that a row's slots are split into: a power of two that divides `chips`.

    As many as it takes for a packed group, about four rows long, to fill less than a quarter of
    a chip with what it keeps, and for a batch of questions to split over the other axes.
    """
    parts, kept = 1, 4 * _kept(model, tensor)
    while chips % (2 * parts) == 0 and (4 * kept / parts > memory or chips / parts > _QUESTIONS):
        parts *= 2
    return parts


def _rows(model: ModelConfig, shards: int, tensor: int, context: int, memory: int) -> int:
    """Rows of a supervised step that pass at once: 128, or a half, a quarter that a slice holds.

    They may fill a third of a chip with what is kept of them for the backward pass.
    """
    rows, kept = _CONVERSATIONS, _kept(model, tensor) / context
    while rows > shards and rows / shards * kept > 0.3 * memory:
        rows //= 2
    return rows


def _slots(model: ModelConfig, tensor: int, memory: int) -> int:
    """Rows that a chip rolls out at once: a power of two whose caches fill a quarter of it."""
    text = model.text
    row = 2 * 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * _LENGTH
    return 2 ** int(math.log2(memory / 4 / (row / tensor)))


def _is_shape(text: str) -> bool:
    sides = text.split("x")
    return len(sides) in (2, 3) and all(side.isdecimal() and int(side) > 0 for side in sides)
