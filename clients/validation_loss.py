"""What searches learn from while a client trains: the loss on its validation images, never of test."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from clients.site import Site
from corolla.search.decisions import LossOf
from corolla.tasks import Task
from corolla.training.batches import EndlessBatches


def validation_loss_of(site: Site, task: Task, purpose: int, *, shared: bool) -> LossOf:
    """Return the cross-entropy of a network on the next batch; an endless, seeded walk over the images.

    Args:
        site: the client's.
        task: of the round.
        purpose: keeps the batches' order apart from others of the round.
        shared: as in `corolla.training.scoring`: the network came from the server.

    """
    batches: list[EndlessBatches] = []  # made when a search first asks for one
    offset = site.scoring.offset(shared=shared)
    if offset is not None:
        offset = offset.to(site.trainer.device)

    def loss(network: nn.Module) -> Tensor:
        if not batches:
            floats = site.trainer.floats(site.data.validation)
            size, seed = site.config.batch_size, site.seed(task, purpose)
            batches.append(EndlessBatches(floats, batch_size=size, seed=seed))
        images, labels = next(batches[0])
        logits = network(images).float()
        return functional.cross_entropy(logits if offset is None else logits + offset, labels)

    return loss
