"""The preprocessing of frames that a Hugging Face folder states: any but ours is refused.

transformers reads processor_config.json's image_processor and video_processor first, then
preprocessor_config.json, for videos video_preprocessor_config.json before it.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medscope_jax.errors import UserError
from medscope_jax.models.model_config import VisionConfig
from medscope_jax.models.vision import IMAGE_MEAN, IMAGE_STD
from medscope_jax.strict_json import read_json_object

_NESTED, _IMAGES = "processor_config.json", "preprocessor_config.json"
_VIDEOS = "video_preprocessor_config.json"
_BICUBIC = 3  # Pillow's number
_CLOSE = 1e-6
_MOST_PIXELS = 2**31


def check_preprocessor(folder: Path, vision: VisionConfig) -> None:
    """Refuses a folder whose frames are normalized, rescaled or cut otherwise than here.

    Raises:
        UserError: one line that names the file and the key; or a file is broken.
    """
    expected = {
        "image_mean": [round(mean, 8) for mean in IMAGE_MEAN.tolist()],
        "image_std": [round(deviation, 8) for deviation in IMAGE_STD.tolist()],
        "rescale_factor": 1 / 255,
        **dict.fromkeys(("do_resize", "do_rescale", "do_normalize"), True),
        "resample": _BICUBIC,
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
    }
    for name in ("image_processor", "video_processor"):
        file, values = _processor(folder, name)
        kind = values.get(f"{name}_type")
        if kind is not None and not re.match("Qwen2(_5_|_)?VL", str(kind)):
            raise UserError(
                f"{file} has {name}_type {str(kind)[:80]}, and frames are only prepared as "
                "Qwen2.5-VL's are here: take a model that was trained with it"
            )
        for key, wanted in expected.items():
            found = values.get(key, wanted)  # null is not left out: it switches a step off
            if not _equal(found, wanted):
                raise UserError(
                    f"{file} has {key} {str(found)[:80]}, and frames are only prepared with "
                    f"{wanted} here: take a model that was trained with it"
                )
    pixel_limits(folder)


def pixel_limits(folder: Path) -> tuple[int, int]:
    """The least and the most pixels of an image as the folder's processor resizes it.

    Raises:
        UserError: they are no counts of pixels, or a file is broken.
    """
    file, values = _processor(folder, "image_processor")
    size = values.get("size")
    if size is not None and not isinstance(size, Mapping):
        raise UserError(f"{file} has size {str(size)[:80]}; it must be an object")
    edges = size or {}
    limits = []
    for key, edge, default in (
        ("min_pixels", "shortest_edge", 56 * 56),
        ("max_pixels", "longest_edge", 28 * 28 * 1280),
    ):
        given = (values.get(key), edges.get(edge))
        found = next((value for value in given if value is not None), default)
        if type(found) is not int or not 0 < found <= _MOST_PIXELS:
            raise UserError(f"{file} has {key} {str(found)[:80]}; it must be a count of pixels")
        limits.append(found)
    if limits[0] > limits[1]:
        raise UserError(f"{file} has min_pixels {limits[0]} above max_pixels {limits[1]}")
    return limits[0], limits[1]


def _processor(folder: Path, name: str) -> tuple[Path, Mapping[str, Any]]:
    """The file that transformers takes a processor's values from, and the values; {} if none."""
    nested, *others = (folder / file for file in (_NESTED, _VIDEOS, _IMAGES))
    if nested.exists():
        values = read_json_object(nested).get(name)
        if values is not None:
            if not isinstance(values, Mapping):
                raise UserError(f"{nested} has {name} {str(values)[:80]}; it must be an object")
            return nested, values
    for file in others if name == "video_processor" else others[1:]:
        if file.exists():
            return file, read_json_object(file)
    return others[-1], {}


def _equal(found: Any, wanted: Any) -> bool:
    """Whether a value is the wanted one; one number stands for all channels."""
    if isinstance(wanted, list):
        found = found if isinstance(found, list) else [found] * len(wanted)
        return len(found) == len(wanted) and all(map(_equal, found, wanted))
    if isinstance(wanted, bool) or not isinstance(wanted, float):
        return type(found) is type(wanted) and found == wanted
    number = type(found) in (int, float)
    return number and math.isclose(found, wanted, rel_tol=_CLOSE, abs_tol=0)
