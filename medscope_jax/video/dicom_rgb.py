"""From DICOM sample values to RGB: inversion, windowing, palettes, deep colour."""

import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

PIXEL_TAGS = [
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
]
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")


class ToRGB:
    """Turns stored frames of one recording into uint8 RGB, all frames by the same mapping.

    Greyscale: modality rescale, then the file's first window (DICOM PS3.3 C.11.2.1.2) or VOI table;
    without either, 8-bit values stay as they are and deeper ones are stretched over the range that
    extend_range has seen. MONOCHROME1 is inverted. Colour arrives as RGB; palettes are looked up.
    """

    def __init__(self, header: pydicom.Dataset):
        """header: the PIXEL_TAGS of the file. Raises ValueError on a colour model it cannot map."""
        self.header = header
        self.model = str(header.PhotometricInterpretation)
        if self.model not in (*_GREY, *_COLOUR, "PALETTE COLOR"):
            raise ValueError("unknown photometric interpretation")
        self.bits = int(header.BitsStored)
        self.window = self._window()
        has_table = bool(header.get("VOILUTSequence"))
        self.table = has_table and self.window is None
        signed = bool(header.get("PixelRepresentation", 0))
        plain = self.bits <= 8 and not signed and "RescaleSlope" not in header
        self.needs_range = (
            self.model in _GREY and self.window is None and not self.table and not plain
        )
        self.low, self.high = (np.inf, -np.inf) if self.needs_range else (0.0, 2.0**self.bits - 1)

    def _window(self) -> tuple[float, float] | None:
        """The first window's centre and width, or None."""
        center, width = self.header.get("WindowCenter"), self.header.get("WindowWidth")
        if center is None or width is None:
            return None
        center, width = (float(np.atleast_1d(np.asarray(x, float))[0]) for x in (center, width))
        return (center, width) if np.isfinite(center) and width >= 1 else None

    def extend_range(self, image: np.ndarray) -> None:
        """Lets the grey range include this stored frame [h, w]; only where needs_range."""
        values = apply_modality_lut(image, self.header)
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """A stored frame [h, w] or [h, w, 3] as uint8 RGB [h, w, 3]."""
        if self.model in _COLOUR:
            if image.dtype == np.uint8 and self.bits == 8:
                return image
            return _to_uint8(image.astype(np.float64), 0.0, 2.0**self.bits - 1)
        if self.model == "PALETTE COLOR":
            rgb = apply_color_lut(image, self.header)
            return rgb if rgb.dtype == np.uint8 else (rgb >> 8).astype(np.uint8)
        grey = self._grey(image)
        if self.model == "MONOCHROME1":
            grey = 255 - grey
        return np.repeat(grey[..., None], 3, axis=-1)

    def _grey(self, image: np.ndarray) -> np.ndarray:
        values = apply_modality_lut(image, self.header).astype(np.float64)
        if self.table:
            table = self.header.VOILUTSequence[0]
            values = apply_voi_lut(values.astype(np.int64), self.header)
            return _to_uint8(values, 0.0, 2.0 ** int(table.LUTDescriptor[2]) - 1)
        if self.window is None:
            return _to_uint8(values, self.low, self.high)
        center, width = self.window
        function = str(self.header.get("VOILUTFunction") or "LINEAR")
        if function == "SIGMOID":
            return _to_uint8(1 / (1 + np.exp(-4 * (values - center) / width)), 0.0, 1.0)
        if function == "LINEAR_EXACT":
            return _to_uint8(values, center - width / 2, center + width / 2)
        return _to_uint8(values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)


def _to_uint8(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """low and below -> 0, high and above -> 255; a flat range is a threshold."""
    scaled = (values - low) / max(high - low, 1e-9)
    return np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
