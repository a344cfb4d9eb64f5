"""What searches learn from while a client trains: the loss on its validation images, never of test."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional

from clients.site import Site
from corolla.search.decisions import LossOf
from corolla.tasks import Task
from corolla.training.batch_loader import Batch


def validation_loss_of(site: Site, task: Task, purpose: int, *, shared: bool) -> LossOf:
    """Return the cross-entropy of a network on the next batch; an endless, seeded walk over the images.

    Args:
        site: the client's.
        task: of the round.
        purpose: keeps the batches' order apart from others of the round.
        shared: as in `corolla.training.scoring`: the network came from the server.

    """
    walk: list[tuple[Tensor, Iterator[Batch]]] = []  # labels; made when first asked for
    offset = site.scoring.offset(shared=shared)
    if offset is not None:
        offset = offset.to(site.trainer.device)

    def loss(network: nn.Module) -> Tensor:
        if not walk:
            size, seed = site.config.batch_size, site.seed(task, purpose)
            plain, images = site.trainer.replaced(augment="none"), site.data.validation
            loader = plain.loader(images, batch_size=size, seed=seed, drop_single=True)
            walk.append((loader.floats.labels, loader.endless()))
        (labels, batches), *_ = walk
        batch = next(batches)
        logits = network(batch.images).float()
        logits = logits if offset is None else logits + offset
        return functional.cross_entropy(logits, labels.index_select(0, batch.where))

    return loss
