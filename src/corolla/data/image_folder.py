"""Any folder of class folders as a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from corolla.data.block_cache import BlockCache, cache_folder
from corolla.data.byte_lru import ByteLru
from corolla.data.dataset import positions
from corolla.data.folder_listing import FOLDERS, KNOWN_PARTS, Listing, list_images
from corolla.data.image_decoding import (
    DECODING,
    LISTED,
    REPLACE,
    UnreadableImagesError,
    decode_files,
    decoding_threads,
)
from corolla.data.images import Images, Indices
from corolla.data.official_parts import named_parts, part_faults
from corolla.data.table_listing import list_table
from corolla.errors import Fault, RefusedError, gathered
from corolla.kinds import MOST
from corolla.records.json_files import read_json, write_json
from corolla.records.phases import phase, step

_PIECE = 256  # images decoded at once, to see whether they can be
Capacity = Annotated[float, Field(ge=0, le=MOST)]
"""Of a cache; 0 keeps nothing."""


class Archive(TypedDict):
    """Settings of every data set of a layout of its own; constructors pass them on as ``**archive``."""

    root: str | Path | None
    parts: str | Sequence[str]
    cache_dir: str | None
    cache_gib: Capacity
    memory_mib: Capacity


class ImageFolder:
    """Images in class folders; layouts as in ``folder_listing``.

    Args:
        root: the folder; None is reported by ``check``.
        resolution: height and width that images are scaled to, in pixels.
        channels: 1 (gray) or 3 (RGB).
        classes: class folders in label order; None takes their alphabetical order.
        sites: whether ``root`` holds one folder per site.
        mean: of pixels / 255, one for all channels or one for each.
        std: of pixels / 255, one for all channels or one for each.
        cache_dir: folder for decoded images, as in ``block_cache.cache_folder``.
        cache_gib: most that ``cache_dir`` may hold.
        memory_mib: most decoded images that are kept in this process.
        parts: of a divided folder (``root/train/`` and others) those that make the pool; None: all.
        table: file that lists the images instead of class folders (`table_listing`); needs no ``root``.
        on_error: what to do with images that cannot be decoded: refuse them all, or skip each.
        root_key: setting that ``root`` came from, for error messages; None: this data set's own.
    """

    name = "imagefolder"
    settings_key = "dataset"
    # What a data set of a layout of its own says otherwise
    known_parts: ClassVar[tuple[str, ...]] = KNOWN_PARTS
    fixed_classes: ClassVar[bool] = False
    layout: ClassVar[str] = FOLDERS

    def __init__(
        self,
        *,
        root: str | Path | None,
        resolution: int,
        channels: int,
        classes: Sequence[str] | None,
        sites: bool,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        cache_dir: str | None,
        cache_gib: Capacity,
        memory_mib: Capacity,
        # Runs that were started before there was this key can be resumed
        parts: str | Sequence[str] | None = None,
        table: str | Path | None = None,
        on_error: Literal["refuse", "skip"] = "refuse",
        root_key: str | None = None,
    ) -> None:
        self._table = None if table is None else Path(table).expanduser().absolute()
        if root is None and self._table is not None:
            root = self._table.parent
        self.root = None if root is None else Path(root).expanduser().absolute()
        self.on_error = on_error
        self.resolution = resolution
        self.channels = channels
        self.classes = None if classes is None else tuple(str(name) for name in classes)
        self.mean = _per_channel(mean, channels)
        self.std = _per_channel(std, channels)
        self.parts = None if parts is None else named_parts(parts)
        self._by_site = sites
        self._given_root_key = root_key
        self._cache_folder = cache_folder(cache_dir)
        self._disk = BlockCache(self._cache_folder, limit_gib=cache_gib)
        self._memory: ByteLru[Images] = ByteLru(limit_mib=memory_mib)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label; the folder is read only if ``classes`` was not given."""
        return self._listing.class_names if self.classes is None else self.classes

    @property
    def title(self) -> str:
        """Name and the folder's own: "imagefolder (pets)"; with its parent's where it says nothing."""
        if self.root is None:
            return self.name
        says = self.root.name.lower() not in ("data", "images", "root", "train")
        return f"{self.name} ({'/'.join(self.root.parts[-1 if says else -2 :])})"

    def labels(self) -> NDArray[np.int64]:
        """Return the label of every image, from the names of the folders."""
        return self._listing.labels

    def sites(self) -> list[str] | None:
        """Return the site folder of every image, if the folder is read by sites."""
        return self._listing.sites

    def notes(self) -> tuple[str, ...]:
        """Return what lies there and is not in the pool, in sentences; each skipped image by name."""
        skipped = self._readable[1]
        said = [f"{path} is skipped: it cannot be decoded ({reason})." for path, reason in skipped]
        return (*self._listing.notes, *said)

    def train_size(self) -> int | None:
        """Return how many images came from ``train/``, if the folder is divided."""
        return self._listing.train_size

    def fingerprint(self) -> str:
        """Return a fingerprint of the files' names and sizes."""
        return self._listing.fingerprint()

    def files(self) -> list[str]:
        """Return the path of every image's file, symbolic links to the folder followed."""
        listing = self._listing
        root = listing.root.resolve()
        return [f"{root}/{path}" for path in listing.paths]

    def images(self, indices: Indices) -> Images:
        """Return the images at ``indices``, uint8 (n, channels, resolution, resolution).

        The first time they are decoded, in one go; asked again for the same ones in the same order,
        they come from memory or disk.

        Raises:
            RefusedError: images that cannot be decoded, each named.
            IndexError: a position outside the pool.
        """
        listing = self._listing
        at = positions(indices, len(listing.paths))
        key = self._key_of(listing, at)
        kept = self._memory.get(key)
        if kept is not None:
            return kept
        pixels = self._disk.load(key, (len(at), self.channels, self.resolution, self.resolution))
        if pixels is None:
            pixels = self._decode(at)
            self._disk.store(key, pixels)
        labels = torch.from_numpy(listing.labels[at])
        images = Images(torch.from_numpy(pixels), labels, tuple(self.mean), tuple(self.std))
        return self._memory.put(key, images)

    def check(self, indices: Indices | None = None) -> list[Fault]:
        """Return wrong settings, a wrong folder, those of ``indices`` that cannot be decoded."""
        faults = self._setting_faults()
        if self.root is None or self._part_faults() or (faults and self.on_error == "skip"):
            return faults  # nothing could be decoded, to see what must be skipped
        try:
            present = np.unique(self.labels())
        except RefusedError as error:
            return faults + error.faults
        if not len(present):
            problem, remedy = (
                "no image can be decoded",
                "Use dataset.on_error=refuse, which says why",
            )
            faults.append(Fault(self._key("root"), str(self.root), problem, remedy))
        elif len(present) < 2:
            only = f"only one class, {self.class_names[int(present[0])]!r}"
            remedy = "A classifier needs at least two class folders with images"
            faults.append(Fault(self._key("root"), str(self.root), only, remedy))
        if indices is not None and len(indices) and not faults:
            with gathered(faults):
                self.images(indices)
        return faults

    def _key(self, setting: str) -> str:
        return f"{self.settings_key}.{setting}"

    @property
    def _root_key(self) -> str:
        return self._given_root_key or self._key("root")

    def _setting_faults(self) -> list[Fault]:
        faults = []
        if self.root is None:
            key = self._key("root")
            remedy = f"Set {key}=PATH, {self.layout}"
            faults.append(Fault(key, None, "no folder given", remedy))
        faults += self._part_faults()
        if self.channels not in (1, 3):
            remedy = "Use 1 for gray images, 3 for RGB"
            faults.append(Fault(self._key("channels"), self.channels, "must be 1 or 3", remedy))
        if self.resolution < 1:
            remedy = "Give the height and width in pixels, as in 32"
            faults.append(Fault(self._key("resolution"), self.resolution, "not positive", remedy))
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                remedy = f"Give one number, or {self.channels}"
                problem = f"{len(values)} values for {self.channels} channels"
                faults.append(Fault(self._key(key), list(values), problem, remedy))
        if min(self.std, default=1) <= 0:
            remedy = "Use standard deviations of pixels in 0..1; 0.25 is usual"
            faults.append(Fault(self._key("std"), list(self.std), "must be above 0", remedy))
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            remedy = "Name each class once"
            faults.append(Fault(self._key("classes"), list(self.classes), "names repeat", remedy))
        return faults

    def _part_faults(self) -> list[Fault]:
        return (
            []
            if self.parts is None
            else part_faults(self.parts, self.known_parts, key=self._key("parts"))
        )

    @property
    def _listing(self) -> Listing:
        return self._readable[0]

    @cached_property
    def _readable(self) -> tuple[Listing, list[tuple[str, str]]]:
        """Return the images of the pool, and which were left out because they cannot be decoded."""
        listing = self._listed()
        if self.on_error == "refuse":
            return listing, []
        # Looked for once: positions in the pool must mean the same images in every process.
        at = np.arange(len(listing.paths))
        found = (
            None
            if self._cache_folder is None
            else self._cache_folder / f"bad-{self._key_of(listing, at)}.json"
        )
        if found is not None and found.is_file():
            bad = {int(i): str(reason) for i, reason in read_json(found).items()}
        else:
            bad = self._undecodable(listing)
            if found is not None:
                with suppress(OSError):
                    found.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                    write_json(found, {str(i): reason for i, reason in bad.items()})
        return listing.without(list(bad)), [(listing.paths[i], reason) for i, reason in bad.items()]

    def _undecodable(self, listing: Listing) -> dict[int, str]:
        bad: dict[int, str] = {}
        with phase("looking for images that cannot be decoded", len(listing.paths)):
            for start in range(0, len(listing.paths), _PIECE):
                at = np.arange(start, min(start + _PIECE, len(listing.paths)))
                unreadable = self._decoded(listing, at)[1]
                bad |= {start + i: reason for i, reason in unreadable.items()}
                step(len(at))
        return bad

    def _decoded(
        self, listing: Listing, at: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], dict[int, str]]:
        return decode_files(
            [f"{listing.root}/{listing.paths[i]}" for i in at],
            resolution=self.resolution,
            channels=self.channels,
            threads=decoding_threads(float(listing.bytes_[at].mean()) if len(at) else 0.0),
        )

    def _listed(self) -> Listing:
        if self.root is None or self._part_faults():
            raise RefusedError(self._setting_faults())
        if self._table is not None:
            sites, key = self._by_site, self.settings_key
            return list_table(
                self._table, self.root, classes=self.classes, sites=sites, settings_key=key
            )
        return self._in_folders(self.root, self.classes, self.parts)

    def _in_folders(
        self, root: Path, classes: Sequence[str] | None, parts: Sequence[str] | None
    ) -> Listing:
        return list_images(
            root,
            classes=classes,
            sites=self._by_site,
            key=self._root_key,
            settings_key=self.settings_key,
            fixed_classes=self.fixed_classes,
            parts=parts,
            layout=self.layout,
        )

    def _refuse(self, problem: str, names: Collection[str]) -> None:
        """Raise RefusedError that lists ``names``, where there are any."""
        if names:
            more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
            raise self._refused(f"{problem} {', '.join(sorted(names)[:LISTED])}{more}")

    def _refused(self, problem: str) -> RefusedError:
        return RefusedError(Fault(self._root_key, str(self.root), problem, f"Give {self.layout}"))

    def _decode(self, at: NDArray[np.int64]) -> NDArray[np.uint8]:
        listing = self._listing
        pixels, unreadable = self._decoded(listing, at)
        if unreadable:
            named = [(listing.paths[at[i]], reason) for i, reason in unreadable.items()]
            own = type(self) is ImageFolder and self._root_key == "dataset.root"
            remedy = f"{REPLACE}, or set dataset.on_error=skip" if own else REPLACE
            raise UnreadableImagesError(self._root_key, named, remedy)
        return pixels

    def _key_of(self, listing: Listing, at: NDArray[np.int64]) -> str:
        rows = (f"{listing.paths[i]}\t{listing.bytes_[i]}\t{listing.mtimes_ns[i]}" for i in at)
        head = f"{DECODING} {self.resolution} {self.channels} {listing.root}"
        text = "\n".join([head, *rows])
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def _per_channel(value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    if isinstance(value, int | float):
        return (float(value),) * channels
    return tuple(float(each) for each in value)
