"""Who has which images: lists of positions in a data set's pool, and their file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corolla.errors import Fault, RefusedError
from corolla.records.atomic import write_bytes
from corolla.records.seals import KEY, checksum, unsealed
from corolla.types import ClientId

FORMAT = 1
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class ClientIndices:
    """Positions of one client's images in the pool, each int64 (n,)."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]

    def all(self) -> NDArray[np.int64]:
        """Return train, validation and test one after the other."""
        return np.concatenate([self.train, self.validation, self.test])

    def sizes(self) -> tuple[int, int, int]:
        """Return the numbers of train, validation and test images."""
        return len(self.train), len(self.validation), len(self.test)


@dataclass(frozen=True, eq=False)
class Partition:
    """A data set divided among clients.

    Args:
        dataset: name of the data set.
        fingerprint: of the data set; positions mean nothing for another one.
        seed: that the partition was drawn with.
        partitioner: the rule's name and settings.
        class_names: name of each label.
        clients: client id -> positions, in the order of the ids.
        sites: client id -> name of its site folder, if the clients are sites.
        notes: what could not be met exactly, for people.
        held_out: positions of images that are the server's and no client's, int64 (n,), ascending.
        counts: client id -> split -> number of images per label; kept for readers of the file.
    """

    dataset: str
    fingerprint: str
    seed: int
    partitioner: Mapping[str, Any]
    class_names: tuple[str, ...]
    clients: Mapping[ClientId, ClientIndices]
    sites: Mapping[ClientId, str] | None = None
    notes: tuple[str, ...] = ()
    held_out: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    counts: Mapping[ClientId, Mapping[str, list[int]]] = field(default_factory=dict)

    def label_counts(
        self, labels: NDArray[np.int64], num_classes: int
    ) -> dict[ClientId, dict[str, NDArray[np.int64]]]:
        """Return client id -> split -> number of images of each label, (num_classes,).

        Args:
            labels: of the whole pool.
            num_classes: length of each count.
        """
        return {
            client: {
                split: np.bincount(labels[getattr(indices, split)], minlength=num_classes)
                for split in SPLITS
            }
            for client, indices in self.clients.items()
        }

    def save(self, path: Path) -> None:
        """Write ``partition.json`` atomically: one line per client, readable without Corolla.

        Its last entry is a checksum; whoever changes the file on purpose deletes that line.
        """
        head = {
            "format": FORMAT,
            "dataset": self.dataset,
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "partitioner": dict(self.partitioner),
            "class_names": list(self.class_names),
            "notes": list(self.notes),
        }
        if len(self.held_out):
            head["held_out"] = self.held_out.tolist()
        lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        clients = {client: self._row(client) for client in self.clients}
        rows = [f"  {json.dumps(client)}: {json.dumps(row)}" for client, row in clients.items()]
        seal = f' "{KEY}": "{checksum({**head, "clients": clients})}"'
        text = "\n".join(["{", *lines, ' "clients": {', ",\n".join(rows), " },", seal, "}", ""])
        write_bytes(path, text.encode())

    def _row(self, client: ClientId) -> dict[str, Any]:
        row: dict[str, Any] = {} if self.sites is None else {"site": self.sites[client]}
        row["label_counts"] = {
            split: list(counts) for split, counts in self.counts.get(client, {}).items()
        }
        indices = self.clients[client]
        return row | {split: getattr(indices, split).tolist() for split in SPLITS}

    @classmethod
    def load(cls, path: Path, *, key: str = "partition.path") -> Partition:
        """Read ``partition.json``.

        Args:
            path: the file.
            key: setting that ``path`` came from, for error messages.

        Raises:
            RefusedError: file missing or damaged, of another format, or an image given twice.
        """

        def refused(problem: str, remedy: str) -> RefusedError:
            return RefusedError(Fault(key, str(path), problem, remedy))

        try:
            content = json.loads(Path(path).read_text())
            version = content["format"]
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
            raise refused(reason, "Give the partition.json of a run directory") from error
        except (ValueError, TypeError, KeyError) as error:
            remedy = "Give the partition.json of a run directory"
            raise refused("is not a partition file", remedy) from error
        if version != FORMAT:
            raise refused(f"has format {version!r}, not {FORMAT}", "Draw the partition again")
        if unsealed(content) is None:
            remedy = f"Restore it; if you changed it on purpose, delete its entry {KEY!r}"
            raise refused("is damaged (its checksum does not match)", remedy)
        try:
            rows = content["clients"]
            clients = {
                str(client): ClientIndices(*(np.array(row[s], np.int64) for s in SPLITS))
                for client, row in rows.items()
            }
            sites = {str(c): str(row["site"]) for c, row in rows.items() if "site" in row}
            partition = cls(
                dataset=str(content["dataset"]),
                fingerprint=str(content["fingerprint"]),
                seed=int(content["seed"]),
                partitioner=dict(content["partitioner"]),
                class_names=tuple(content["class_names"]),
                clients=clients,
                sites=sites or None,
                notes=tuple(content["notes"]),
                held_out=np.array(content.get("held_out", []), np.int64),
                counts={str(c): row["label_counts"] for c, row in rows.items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise refused(f"is damaged ({error!r})", "Draw the partition again") from error
        shared = partition.shared_images()
        if shared:
            raise refused(shared, "Draw the partition again; splits must be disjoint")
        return partition

    def shared_images(self) -> str | None:
        """Return whose splits overlap, in words; None if every image is given at most once."""
        owners = dict.fromkeys(self.held_out.tolist(), "the server's images")
        for client, indices in self.clients.items():
            for split in SPLITS:
                for position in getattr(indices, split).tolist():
                    place = f"client {client} {split}"
                    if position in owners:
                        return f"image {position} is in {owners[position]} and in {place}"
                    owners[position] = place
        return None
