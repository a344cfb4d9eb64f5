"""Image files to square uint8 arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from corolla.errors import Fault, RefusedError

FORMATS = "jpg jpeg jpe jfif png bmp webp gif tif tiff ppm pgm pbm"
SUFFIXES = frozenset(f".{name}" for name in FORMATS.split())
"""Files that count as images; others in a class folder are ignored."""

DECODING = 1  # raise when the pixels change for the same file: cached blocks are named by it
LISTED = 20  # unreadable images named one by one; the rest is counted

REPLACE = "Replace the file or move it out of the folder"


class UnreadableImagesError(RefusedError):
    """Some images could not be decoded.

    Args:
        key: setting that led to the files.
        unreadable: path (as listed) and reason of each.
        remedy: what to do.
    """

    def __init__(
        self, key: str, unreadable: Sequence[tuple[str, str]], remedy: str = REPLACE
    ) -> None:
        self.key, self.remedy = key, remedy
        self.unreadable = tuple(unreadable)
        faults = [
            Fault(key, path, f"image cannot be decoded ({reason})", remedy)
            for path, reason in self.unreadable[:LISTED]
        ]
        more = len(self.unreadable) - LISTED
        if more > 0:
            faults.append(Fault(key, more, "as many more images cannot be decoded", remedy))
        super().__init__(faults)


def decode_files(
    paths: Sequence[str], *, resolution: int, channels: int, threads: int = 1
) -> tuple[NDArray[np.uint8], dict[int, str]]:
    """Decode image files: turn upright, cut the central square, scale it to ``resolution``.

    Returns:
        Pixels (n, channels, resolution, resolution), and for each image that could not be decoded
        its position and the reason (its pixels are then 0).
    """
    mode = "L" if channels == 1 else "RGB"
    pixels = np.zeros((len(paths), resolution, resolution, channels), np.uint8)
    unreadable: dict[int, str] = {}

    def decode(position: int) -> None:
        try:
            with Image.open(paths[position]) as image:
                square = np.asarray(_square(image, mode, resolution))
            pixels[position] = square.reshape(resolution, resolution, channels)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            reason = str(error).replace(paths[position], Path(paths[position]).name)
            unreadable[position] = reason or type(error).__name__

    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(decode, range(len(paths))))
    else:
        for position in range(len(paths)):
            decode(position)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), dict(sorted(unreadable.items()))


def decoding_threads(mean_file_bytes: float) -> int:
    """Return how many threads to decode with: small files gain nothing, as Python's lock rules."""
    return 1 if mean_file_bytes < 32_768 else min(16, os.cpu_count() or 1)


def _square(image: Image.Image, mode: str, resolution: int) -> Image.Image:
    if image.size == (resolution, resolution) and image.mode == mode:
        return image if image.getexif().get(0x0112, 1) == 1 else ImageOps.exif_transpose(image)
    shrink = 2 * resolution / min(image.size)
    if shrink < 1:  # large JPEGs are decoded at half, a quarter, an eighth: much faster
        image.draft(mode, (int(image.width * shrink) + 1, int(image.height * shrink) + 1))
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit gray (radiographs) at 255
        gray = np.asarray(image) >> 8
        image = Image.fromarray(gray.astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no known range; save as 8 or 16 bits")
    image = ImageOps.exif_transpose(image).convert(mode)
    if image.size == (resolution, resolution):
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Cut first: with resize(box=...) the filter would reach beyond the square
    square = image.crop((left, top, left + side, top + side))
    return square.resize((resolution, resolution), Image.Resampling.BILINEAR)
