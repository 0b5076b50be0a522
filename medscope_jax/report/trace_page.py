"""What web pages are made of: the templates, and pieces of a trace as they show them."""

import base64
import functools
import re
from collections.abc import Sequence
from typing import Any

import cv2
import jinja2
import numpy as np

from medscope_jax.report.timeline import clock
from medscope_jax.visible import visible

DISCLAIMER = "Research software, not a medical device."

_JPEG_QUALITY = 85
_ELEMENT = re.compile(r"<(think|tool_call|answer)>(.*?)(?:</\1>|\Z)", re.DOTALL)


def elements(text: str) -> list[tuple[str, str]]:
    """A turn's text as (kind, words) pieces; kind is think, tool_call, answer or other.

    "<think>a</think>b<answer>c" -> [("think", "a"), ("other", "b"), ("answer", "c")]
    """
    pieces, position = [], 0
    for match in _ELEMENT.finditer(text):
        pieces += [("other", text[position : match.start()]), (match[1], match[2])]
        position = match.end()
    pieces.append(("other", text[position:]))
    return [(kind, words.strip()) for kind, words in pieces if words.strip()]


def data_uri(image: np.ndarray) -> str:
    """An RGB frame uint8 [H, W, 3] as a JPEG data URI."""
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"frame is {image.dtype} {image.shape}; it must be uint8 [H, W, 3]")
    _, jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


def frames_view(times: Sequence[float], images: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Frames for a template: time in seconds, image as data URI ("" without pixels), its shape."""
    if len(images) and len(images) != len(times):
        raise ValueError(f"{len(times)} frame times but {len(images)} images")
    views = []
    for index, time in enumerate(times):
        view = {"time": float(time), "source": "", "small": False}
        if len(images):
            height, width = np.shape(images[index])[:2]
            view |= {"source": data_uri(images[index]), "small": height < 100}
            view["ratio"] = f"{width} / {height}"
        views.append(view)
    return views


@functools.cache
def environment() -> jinja2.Environment:
    """Templates of this room; everything that they print is escaped, whatever it is."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("medscope_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Text of others reaches the page through this only.
        finalize=lambda value: visible(value, keep="\n\t") if type(value) is str else value,
    )
    env.filters["clock"] = clock
    env.globals["disclaimer"] = DISCLAIMER
    return env
