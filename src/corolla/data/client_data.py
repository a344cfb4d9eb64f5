"""What one client has to learn from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from corolla.data.images import Images
from corolla.types import ClientId


@dataclass(frozen=True, eq=False)
class ClientData:
    """One client's three disjoint splits.

    Args:
        client: partition id or site name.
        train: images to learn weights from.
        validation: images for rewards and for every choice.
        test: images for reporting only.
        class_names: name of each label.
    """

    client: ClientId
    train: Images
    validation: Images
    test: Images
    class_names: tuple[str, ...]

    def train_on_validation(self) -> ClientData:
        """Return the same data with the validation images in the training split as well.

        For what chooses nothing on them (any more). Their accuracy then says nothing of other images.
        """
        pixels = torch.cat((self.train.pixels, self.validation.pixels))
        labels = torch.cat((self.train.labels, self.validation.labels))
        return replace(self, train=replace(self.train, pixels=pixels, labels=labels))

    @property
    def bytes_(self) -> int:
        """Memory that the three splits take, in bytes."""
        return self.train.bytes_ + self.validation.bytes_ + self.test.bytes_
