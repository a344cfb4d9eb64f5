"""Write scikit-learn's digits as PNG class folders, one share per site, to try nodes with.

    python scripts/digit_sites.py sites site-a site-b site-c

makes sites/site-a/data/0/0000.png and so on: 8x8 gray, ten classes, no image at two sites.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def write_sites(folder: Path, sites: Sequence[str], *, images_per_site: int, seed: int) -> None:
    """Write ``images_per_site`` images for each site; FileExistsError where a site has data.

    Raises:
        FileExistsError: a site has a data folder already.
        ValueError: more images asked for than there are.

    """
    digits = load_digits()
    pixels = (digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), 0..16 before
    wanted = len(sites) * images_per_site
    if wanted > len(pixels):
        raise ValueError(f"{wanted} images asked for, there are {len(pixels)}")
    order = np.random.default_rng(seed).permutation(len(pixels))
    for number, site in enumerate(sites):
        data = folder / site / "data"
        data.mkdir(parents=True)
        for index in order[number * images_per_site : (number + 1) * images_per_site]:
            images = data / str(digits.target[index])
            images.mkdir(exist_ok=True)
            Image.fromarray(pixels[index]).save(images / f"{index:04d}.png")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("sites", nargs="+", metavar="SITE")
    parser.add_argument("--images", type=int, default=300, help="per site (default 300)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        write_sites(
            options.folder, options.sites, images_per_site=options.images, seed=options.seed
        )
    except (FileExistsError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
