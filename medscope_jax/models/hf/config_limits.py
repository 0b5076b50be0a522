"""Types and ranges of the fields of a model's configs, for every file that describes a model."""

import dataclasses
from typing import Any

from medscope_jax.errors import UserError

# Least and most of every number of a model's shape, so that a damaged or foreign file is refused
# before anything of its size is allocated. The largest model of the family (72B) is far inside.
_LIMITS = {
    **dict.fromkeys(("depth", "num_hidden_layers"), (1, 1024)),
    **dict.fromkeys(("num_heads", "num_attention_heads", "num_key_value_heads"), (1, 1024)),
    **dict.fromkeys(("hidden_size", "out_hidden_size"), (1, 2**17)),
    "intermediate_size": (1, 2**20),
    "vocab_size": (1, 2**24),
    "in_channels": (3, 3),
    "patch_size": (1, 1024),
    "spatial_merge_size": (1, 16),
    "temporal_patch_size": (1, 16),
    "window_size": (1, 2**20),
    "fullatt_block_indexes": (0, 2**16),
    "tokens_per_second": (1, 1000),
    "mrope_section": (0, 2**16),
    "rms_norm_eps": (0, 1),
    "rope_theta": (1, 1e12),
    "initializer_range": (0, 100),
    "rank": (1, 2**16),
    "alpha": (0, 1e6),
}
_MOST_ITEMS = 1024  # of a list


def check_fields(section: Any, prefix: str) -> None:
    """UserError where a field of a dataclass is of another type than its default or out of range.

    A field whose default is None or a dataclass may be either; whole numbers pass for floats.
    """
    for field in dataclasses.fields(section):
        value, default = getattr(section, field.name), field.default
        if default is None or dataclasses.is_dataclass(default):
            fits = value is None or dataclasses.is_dataclass(value)
            expected = "a section of values"
        elif isinstance(default, tuple):
            expected = f"a list such as {list(default)}"
            fits = isinstance(value, tuple) and len(value) <= _MOST_ITEMS
            fits = fits and all(type(item) is type(default[0]) for item in value)
        else:
            expected = f"a value such as {default!r}"
            fits = type(value) is type(default) or (type(default) is float and type(value) is int)
        if fits and field.name in _LIMITS:
            least, most = _LIMITS[field.name]
            expected = f"from {least:,} to {most:,}"
            numbers = value if isinstance(value, tuple) else (value,)
            fits = all(least <= number <= most for number in numbers)
        if not fits:
            shown = repr(value)[:60]
            raise UserError(f"{prefix}{field.name} is {shown}; it must be {expected}")
