"""From DICOM sample values to RGB: rescaling, windows, tables, inversion, palettes, deep colour.

Samples of up to 16 bits go through a table of what each of them becomes, so a frame costs one
look-up and no copy in floating point.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from medscope_jax.video.dicom_decode import GREY, PALETTE, Geometry, luma_to_rgb
from medscope_jax.video.dicom_elements import Elements
from medscope_jax.video.dicom_palette import Table, read_palette, read_table
from medscope_jax.video.dicom_tags import (
    FRAME_GROUPS,
    FRAME_RESCALE,
    FRAME_WINDOW,
    INTEREST_TABLE,
    MODALITY_TABLE,
    RESCALE_INTERCEPT,
    RESCALE_SLOPE,
    SHARED_GROUPS,
    WINDOW_CENTER,
    WINDOW_FUNCTION,
    WINDOW_WIDTH,
)

_ROWS = 256  # of a frame that are mapped at a time
_IDENTITY = (1.0, 0.0)
_FAR = 1e15


@dataclasses.dataclass(frozen=True)
class _Grey:
    """How a frame's grey values are shown: what identifies a mapping.

    rescale: slope and intercept. window: centre, width and function, or None.
    """

    rescale: tuple[float, float]
    window: tuple[float, float, str] | None


class ToRGB:
    """Turns decoded frames of one recording into uint8 RGB.

    Greyscale: modality table or rescale, then the frame's window (its own functional group, the
    shared one, or the file's first; DICOM PS3.3 C.11.2.1.2) or VOI table; without either, 8-bit
    values stay as they are and deeper ones are stretched over the range that extend_range has seen,
    the same for all frames. MONOCHROME1 is inverted. Colour keeps its upper eight bits; palettes
    are looked up.
    """

    def __init__(self, elements: Elements, geometry: Geometry, count: int):
        """elements: the file's. count: its frames. Raises ValueError where they contradict it."""
        self.geometry = geometry
        self.palette = read_palette(elements, geometry.signed) if self._shows(PALETTE) else None
        self._tables: dict[tuple[_Grey, str], np.ndarray] = {}
        self.low, self.high = np.inf, -np.inf
        self.needs_range = False
        if not self._shows(*GREY):
            return
        self._modality = _first_table(elements, MODALITY_TABLE, geometry.signed)
        self._interest = _first_table(elements, INTEREST_TABLE, geometry.signed)
        own = elements.items.get(FRAME_GROUPS, [])
        if own and len(own) < count:
            raise ValueError
        shared = elements.first(SHARED_GROUPS)
        self._greys = [_grey(elements, shared, group) for group in own]
        self._greys = self._greys or [_grey(elements, shared, Elements())]
        self.needs_range = any(
            grey.window is None and not self._interest and not self._plain(grey)
            for grey in self._greys
        )

    def _shows(self, *models: str) -> bool:
        return self.geometry.model in models

    def _plain(self, grey: _Grey) -> bool:
        """Whether stored values are grey values of their own."""
        shape = self.geometry
        identity = grey.rescale == _IDENTITY and self._modality is None
        return identity and shape.stored <= 8 and not shape.signed

    def _grey_of(self, frame: int) -> _Grey:
        return self._greys[frame if len(self._greys) > 1 else 0]

    def extend_range(self, image: np.ndarray, frame: int) -> None:
        """Lets the grey range include this decoded frame [h, w]; only where needs_range."""
        ends = np.array([image.min(), image.max()])
        if self._modality is not None:
            ends = np.unique(image)
        values = self._rescaled(ends, self._grey_of(frame))
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def __call__(self, image: np.ndarray, model: str, frame: int) -> np.ndarray:
        """A decoded frame [h, w] or [h, w, 3] of a colour model as uint8 RGB [h, w, 3]."""
        if image.ndim == 3:
            full = 2.0**self.geometry.stored - 1
            if image.dtype != np.uint8 or self.geometry.stored != 8:
                image = _mapped(image, lambda values: _to_uint8(values, 0.0, full))
            if model == "RGB":
                return image
            if model == "YBR_RCT":
                raise ValueError
            return luma_to_rgb(image)
        if self.palette is not None:
            return _looked_up(self.palette(_all_values(image.dtype)), image)
        grey = self._shown(image, self._grey_of(frame))
        return np.repeat(grey[..., None], 3, axis=-1)

    def _shown(self, image: np.ndarray, grey: _Grey) -> np.ndarray:
        """Stored values [h, w] as uint8 grey."""
        if image.dtype.itemsize > 2:
            return _mapped(image, lambda values: self._map(values, grey))
        key = (grey, image.dtype.str)
        if key not in self._tables:
            if len(self._tables) >= 16:  # windows that change with every frame
                self._tables.clear()
            self._tables[key] = self._map(_all_values(image.dtype), grey)
        return _looked_up(self._tables[key], image)

    def _map(self, stored: np.ndarray, grey: _Grey) -> np.ndarray:
        values = self._rescaled(stored, grey)
        if grey.window is not None:
            shown = _windowed(values, *grey.window)
        elif self._interest is not None:
            entries = self._interest(np.clip(values, -(2.0**31), 2.0**31))
            shown = _to_uint8(entries, 0.0, 2.0**self._interest.bits - 1)
        elif self._plain(grey):
            shown = _to_uint8(values, 0.0, 2.0**self.geometry.stored - 1)
        else:
            shown = _to_uint8(values, self.low, self.high)
        return 255 - shown if self.geometry.model == "MONOCHROME1" else shown

    def _rescaled(self, stored: np.ndarray, grey: _Grey) -> np.ndarray:
        """Stored values as the modality's, float64."""
        if self._modality is not None:
            return self._modality(stored).astype(np.float64)
        slope, intercept = grey.rescale
        return stored * slope + intercept


def _first_table(elements: Elements, tag: int, signed: bool) -> Table | None:
    items = elements.items.get(tag)
    return read_table(items[0], signed) if items else None


def _grey(elements: Elements, shared: Elements, own: Elements) -> _Grey:
    """A frame's mapping: by its own functional groups, the shared ones, else the file's."""
    rescale, window = _IDENTITY, None
    for group in (elements, shared.first(FRAME_RESCALE), own.first(FRAME_RESCALE)):
        found = group.number(RESCALE_SLOPE, 1.0), group.number(RESCALE_INTERCEPT, 0.0)
        _check_sane(*found)
        if RESCALE_SLOPE in group.values or RESCALE_INTERCEPT in group.values:
            rescale = found
    for group in (elements, shared.first(FRAME_WINDOW), own.first(FRAME_WINDOW)):
        center, width = group.number(WINDOW_CENTER, np.nan), group.number(WINDOW_WIDTH, np.nan)
        function = group.text(WINDOW_FUNCTION) or "LINEAR"
        # A linear window of less than one value is none (PS3.3 C.11.2.1.2.1).
        least = 1.0 if function == "LINEAR" else 1e-9
        if np.isfinite([center, width]).all() and width >= least:
            _check_sane(center, width)
            window = center, width, function
    return _Grey(rescale, window)


def _check_sane(*numbers: float) -> None:
    """Raises ValueError at numbers that no grey value has, and that arithmetic overflows on."""
    if not (np.abs(numbers) < _FAR).all():
        raise ValueError


def _windowed(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    if function == "SIGMOID":
        exponent = np.clip(-4 * (values - center) / width, -700, 700)
        return _to_uint8(1 / (1 + np.exp(exponent)), 0.0, 1.0)
    if function == "LINEAR_EXACT":
        return _to_uint8(values, center - width / 2, center + width / 2)
    return _to_uint8(values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)


def _mapped(image: np.ndarray, mapping: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """mapping(values) of an image's values, uint8; memory is that of a few rows or of a table."""
    if image.dtype.itemsize <= 2:
        return _looked_up(mapping(_all_values(image.dtype)), image)
    out = np.empty(image.shape, np.uint8)
    for top in range(0, len(image), _ROWS):
        out[top : top + _ROWS] = mapping(image[top : top + _ROWS].astype(np.float64))
    return out


def _all_values(dtype: np.dtype) -> np.ndarray:
    """Every value of an integer type of at most 16 bits, float64, where _looked_up expects it."""
    kind = dtype.newbyteorder("=")
    return np.arange(1 << 8 * dtype.itemsize).astype(f"u{dtype.itemsize}").view(kind).astype(float)


def _looked_up(table: np.ndarray, image: np.ndarray) -> np.ndarray:
    """table [values, ...] at an image's values, as _all_values orders them."""
    out = np.empty((*image.shape, *table.shape[1:]), table.dtype)
    # A few rows at a time: NumPy makes eight bytes of each index.
    for top in range(0, len(image), _ROWS):
        rows = image[top : top + _ROWS]
        native = np.ascontiguousarray(rows, rows.dtype.newbyteorder("="))
        out[top : top + _ROWS] = table[native.view(f"u{rows.dtype.itemsize}")]
    return out


def _to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """low and below -> 0, high and above -> 255; a flat range is a threshold."""
    scaled = (values - low) / max(high - low, 1e-9)
    return np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
