"""A real site's own data: a folder of class folders on the site's disk.

Only ``data_dir`` is read and only ``state_dir`` is written; the submitted configuration says what
the classes are and how large the images, never where they lie. Errors name files: log them at the
site, and send the server no more than that the data was refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from corolla.data.client_data import ClientData
from corolla.data.dataset import Dataset
from corolla.data.federation import client_data
from corolla.data.image_folder import ImageFolder
from corolla.data.partition.partitioner import SPLIT_STREAM
from corolla.data.partition.stratified import split_sizes, stratified_split
from corolla.errors import Fault, RefusedError
from corolla.types import ClientId, client_seed, generator

KEY = "data-dir"


def node_data(
    data_dir: str | Path,
    dataset: Dataset,
    *,
    client: ClientId,
    seed: int,
    validation: float,
    test: float,
    state_dir: str | Path | None,
    class_names: Sequence[str] | None = None,
    cache_gib: float = 20.0,
) -> ClientData:
    """Return the site's images, split at random by label; the same for the same files and seed.

    A file that is added or removed changes the split: keep the folder as it is during a run, or
    images move from train to test.

    Args:
        data_dir: folder of class folders; the folders' names give the labels, some may be missing.
        dataset: says classes, resolution, channels, mean and std; its own files are not touched.
        client: the site's name.
        seed: of the run.
        validation: fraction of the images.
        test: fraction of the images.
        state_dir: the node's own folder; decoded images are kept in its ``decoded``. None: nowhere.
        class_names: names in label order, where ``dataset`` would have to read files to tell them.
        cache_gib: most that ``decoded`` may hold.

    Raises:
        RefusedError: folder missing or empty, class folders the federation does not know, images
            that cannot be decoded, too few images for three splits.
    """
    own = ImageFolder(
        root=data_dir,
        resolution=dataset.resolution,
        channels=dataset.channels,
        classes=tuple(class_names) if class_names is not None else _class_names(dataset),
        sites=False,
        mean=dataset.mean,
        std=dataset.std,
        cache_dir="none" if state_dir is None else str(Path(state_dir) / "decoded"),
        cache_gib=cache_gib,
        memory_mib=0,
        root_key=KEY,
        on_error=dataset.on_error if isinstance(dataset, ImageFolder) else "refuse",
    )
    labels = own.labels()
    sizes = split_sizes(len(labels), validation=validation, test=test)
    if min(sizes) < 1:
        parts = "{} train, {} validation, {} test".format(*sizes)
        problem = f"{len(labels)} images are too few ({parts})"
        raise RefusedError(
            Fault(KEY, str(data_dir), problem, "Put more images there: each split needs 1 or more")
        )
    indices = stratified_split(
        np.arange(len(labels), dtype=np.int64),
        labels,
        validation=validation,
        test=test,
        rng=generator(seed, SPLIT_STREAM, client_seed(client)),
    )
    return client_data(client, own.images(indices.all()), indices.sizes(), own)


def _class_names(dataset: Dataset) -> tuple[str, ...]:
    if isinstance(dataset, ImageFolder) and dataset.classes is None:
        problem = "real sites label their images by this list, and it is not given"
        raise RefusedError(Fault("dataset.classes", None, problem, "Set dataset.classes=[...]"))
    return tuple(dataset.class_names)
