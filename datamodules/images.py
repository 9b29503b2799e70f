# SPDX-License-Identifier: MIT
"""Decoding of pictures to 8-bit RGB pixels, or a reason why not.

Pictures are untrusted: sizes are checked before decoding, and only formats that Pillow decodes by itself are tried
(PostScript would start another program).
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, JpegImagePlugin

from datamodules.errors import one_line

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP", "JPEG2000", "AVIF")
# HEIC is not decoded, but listed, so that it is rejected with a reason.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .ppm .pgm .pbm .pnm .bmp .gif .tif .tiff .webp .jp2 .avif .heic .heif".split()
)
MAX_FILE_BYTES = 512 * 2**20
MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs, 0.5 GB of RGB
MAX_JPEG_PIXELS = 400_000_000  # 20,000 x 20,000; a baseline JPEG is decoded at 1/2, 1/4 or 1/8 of its size, row by row


class RejectedImage(Exception):
    """An image that cannot be used; `reason` is one line for `rejected.csv`. A run continues without it."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class DecodedImage:
    """An upright image."""

    pixels_HWC: np.ndarray  # (H, W, 3) uint8 RGB
    scale: float  # pixels per pixel of the original (upright) image, at most 1


def read_bytes(path: Path | str) -> bytes:
    """Reads an image file; raises `RejectedImage` if it is no file, cannot be read, or is too large."""
    path = Path(path)
    try:
        if not path.is_file():  # reading a pipe or a device would block
            raise RejectedImage("no such file")
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise RejectedImage(f"file of {size:,} bytes, over the limit of {MAX_FILE_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise RejectedImage(f"unreadable file: {error.strerror}") from None


def decode(content: bytes, max_side: int = 2048) -> DecodedImage:
    """Decodes the bytes of a file: upright by its EXIF orientation, 8 bits, RGB, transparent parts white, first frame.

    Args:
        max_side: longer side in pixels; larger pictures are shrunk to it by area averaging.

    Raises:
        RejectedImage: empty, truncated, no picture, too many pixels, or a value range that is not defined.
    """
    if not content:
        raise RejectedImage("empty file (0 bytes)")
    if content[4:8] == b"ftyp" and content[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        raise RejectedImage("HEIC image: convert it to JPEG or PNG")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF data, and of the size, which is checked here
            image = _open(content)
            long_side = max(image.size)
            # JPEG decodes at 1/2, 1/4 or 1/8 for a fraction of the time and memory; others ignore this.
            image.draft(None, _each(image.size, lambda side: side * max_side // long_side))
            _check_size(image.size, MAX_PIXELS)
            image.load()
            image = ImageOps.exif_transpose(image)
            image = _to_rgb(image)
            if (factor := max(image.size) / max_side) > 1:
                image = image.resize(_each(image.size, lambda side: round(side / factor)), Image.Resampling.BOX)
            return DecodedImage(np.asarray(image), max(image.size) / long_side)
    except RejectedImage:
        raise
    except Image.UnidentifiedImageError:
        raise RejectedImage("not an image of a known format") from None
    except Exception as error:  # decoders raise nearly every exception for damaged files
        raise RejectedImage(f"damaged image: {one_line(error, 120)}") from None


def _open(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError:
        if not content.startswith(b"\xff\xd8"):
            raise RejectedImage(f"over the limit of {MAX_PIXELS:,} pixels") from None
    # Image.open refuses a JPEG by its full size, but it is decoded at a fraction of it.
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(content))
    # A progressive one cannot be: its coefficients are kept for all pixels.
    _check_size(image.size, MAX_PIXELS if image.info.get("progressive") else MAX_JPEG_PIXELS)
    return image


def _check_size(size: tuple[int, int], limit: int) -> None:
    if size[0] * size[1] > limit:
        raise RejectedImage(f"{size[0]} x {size[1]} pixels, over the limit of {limit:,}")


def _each(size: tuple[int, int], side: Callable[[int], int]) -> tuple[int, int]:
    return max(1, side(size[0])), max(1, side(size[1]))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values_HW: np.ndarray) -> np.ndarray:
    low, high = values_HW.min(), values_HW.max()
    if np.issubdtype(values_HW.dtype, np.integer) and 0 <= low and high <= 65_535:
        return ((values_HW.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if np.issubdtype(values_HW.dtype, np.floating) and 0 <= low and high <= 255:
        return np.round(values_HW * (255 if high <= 1 else 1)).astype(np.uint8)
    raise RejectedImage(f"grey values from {low:g} to {high:g}; known are 0 to 65535, and 0 to 1 or 255 for floats")
