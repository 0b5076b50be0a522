"""Settings of PEFT's adapter_config.json: rank, scale, and which modules are adapted.

Settings are known by name, with the values that this project computes; any other is refused. Those
of initialization and training, such as dropout, are ignored. Initializations that change the base's
kernels (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) are refused: such an adapter belongs to kernels that
are no longer the base's.
"""

import json
import math
import re
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from medscope_jax.errors import UserError

FILE = "adapter_config.json"
_REMEDY = (
    "merge the adapter by PEFT (merge_and_unload, then save_pretrained) and import the folder that "
    "comes of it"
)
_UNUSED = (  # without an effect on what a finished adapter computes
    *("auto_mapping", "base_model_name_or_path", "revision", "peft_version", "task_type"),
    *("inference_mode", "lora_dropout", "megatron_core", "ensure_weight_tying", "layers_pattern"),
    *("qalora_group_size", "runtime_config", "loftq_config", "eva_config", "corda_config"),
    "lora_ga_config",
)
_READ = (  # by read_settings itself
    *("peft_type", "r", "lora_alpha", "use_rslora", "bias", "init_lora_weights"),
    *("target_modules", "exclude_modules"),
)
# Of these PEFT asks whether they are null: false or an empty one switches something on.
_NULL_ALONE = (
    *("layers_to_transform", "alora_invocation_tokens", "trainable_token_indices", "use_bdlora"),
    *("arrow_config", "kasa_config", "velora_config", "monteclora_config"),
)
# Initializations that leave the base's kernels as they are, and the beginnings of those that don't.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
_KERNEL_STARTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
_LONGEST = 10_000  # characters of a pattern
_PATIENCE = 5  # seconds that a pattern may take
_MATCH = """
import json, re, resource, sys, warnings
resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))
warnings.simplefilter("ignore")
pattern, names = json.load(sys.stdin)
json.dump([name for name in names if re.fullmatch(pattern, name)], sys.stdout)
"""


class Settings(NamedTuple):
    """The settings of a plain adapter."""

    rank: int
    alpha: float  # the factor of an adapter's product is alpha / rank, a rank-stabilized one's too
    targets: str | list[str]  # a pattern of whole names, or names and ends of names
    excluded: str | list[str]  # the same, of modules that are left out of the targets


def read_settings(values: Mapping[str, Any]) -> Settings:
    """The settings of an adapter_config.json's values.

    Raises:
        UserError: a setting is missing, broken or unknown.
    """
    if values.get("peft_type") != "LORA":
        kind = repr(values.get("peft_type"))[:60]
        raise UserError(f"{FILE} has peft_type={kind}; only LORA is known: {_REMEDY}")
    start = values.get("init_lora_weights", True)
    if not any(start is plain or (plain and start == plain) for plain in _PLAIN_STARTS):
        changed = str(start).lower().startswith(_KERNEL_STARTS)
        why = "for which PEFT changed the base's kernels" if changed else "which is not known"
        raise UserError(
            f"{FILE} has init_lora_weights={repr(start)[:60]}, {why}: make it plain LoRA by PEFT "
            f"(save_pretrained with path_initial_model_for_weight_conversion), or {_REMEDY}"
        )
    for name, value in values.items():
        nothing = value is None or name in _UNUSED + _READ
        nothing |= name not in _NULL_ALONE and (value is False or value in ([], {}))
        nothing |= name == "layers_to_transform" and value == []
        if not nothing or (name == "bias" and value not in (None, "none")):
            shown = name if name.isidentifier() else repr(name)
            raise UserError(
                f"{FILE} has {shown[:60]}={repr(value)[:60]}, which is not known: {_REMEDY}"
            )
    rank: Any = values.get("r")
    alpha: Any = values.get("lora_alpha")
    stabilized = values.get("use_rslora")
    right = type(rank) is int and 0 < rank < 2**20 and type(alpha) in (int, float)
    if not right or not 0 < alpha < 2**64 or stabilized not in (None, True, False):
        raise UserError(
            f"{FILE} has r={repr(rank)[:60]}, lora_alpha={repr(alpha)[:60]} and "
            f"use_rslora={repr(stabilized)[:60]}; a rank, a number above 0 and a switch are needed"
        )
    if stabilized:
        alpha *= math.sqrt(rank)  # its scale is alpha / sqrt(rank)
    targets = _names(values, "target_modules")
    if not targets:
        raise UserError(f"{FILE} does not say target_modules, which the adapter is for")
    return Settings(rank, float(alpha), targets, _names(values, "exclude_modules"))


def adapted(settings: Settings, names: Sequence[str], heads: Collection[str]) -> list[str]:
    """The modules among `names` (whole paths) that the settings adapt, in the order of `names`.

    heads: the modules that "all-linear" leaves out.

    Raises:
        UserError: a pattern is no regular expression, or takes too long.
    """
    if settings.targets == "all-linear":
        found = set(names) - set(heads)
    else:
        found = _matching(settings.targets, names)
    found -= _matching(settings.excluded, names)
    return [name for name in names if name in found]


def _names(values: Mapping[str, Any], key: str) -> str | list[str]:
    value = values.get(key) or []
    if isinstance(value, str) and len(value) <= _LONGEST:
        return value
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return value
    raise UserError(
        f"{FILE} has {key}={repr(value)[:60]}: a pattern or a list of names is expected"
    )


def _matching(wanted: str | list[str], names: Sequence[str]) -> set[str]:
    """The names that PEFT would find: by a pattern as a whole, or by their last parts."""
    if isinstance(wanted, list):
        ends = set(wanted)
        return {name for name in names if ends.intersection(_ends(name))}
    if re.fullmatch(r"[\w.]*", wanted):  # no pattern but a name, in which a dot is any character
        return {name for name in names if re.fullmatch(wanted, name)}
    # A pattern can take any time and memory, so it is matched in a process that can be stopped.
    command = [sys.executable, "-I", "-S", "-c", _MATCH]
    given = json.dumps([wanted, list(names)])
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=_PATIENCE, check=True
        )
    except (subprocess.SubprocessError, OSError) as error:
        late = isinstance(error, subprocess.TimeoutExpired)
        why = f"takes over {_PATIENCE} s" if late else "is no regular expression that can be used"
        raise UserError(f"{FILE}: the pattern {wanted[:60]!r} of modules {why}") from error
    return set(json.loads(done.stdout))


def _ends(name: str) -> list[str]:
    """a.b.c -> a.b.c, b.c, c."""
    parts = name.split(".")
    return [".".join(parts[place:]) for place in range(len(parts))]
