"""BatchNorm's statistics: running ones recomputed from a client's images, or those of each batch."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from corolla.training.execution_mode import in_mode


def recalibrate(model: nn.Module, batches: Iterable[Tensor], *, keep: Container[str] = ()) -> None:
    """Set running means and variances to the averages of the batch statistics, weighted by images.

    With batches of one size that is the plain mean over batches. Each layer sees its input
    normalised by the batch, as in training. Weights, momenta and modes are left as they were; a
    model without running statistics is not run at all. Layers whose statistics' names are in ``keep`` stay
    as they are, and normalise by what they have.

    Izmailov et al., UAI 2018 (SWA), section 3.2 do the same for averaged weights.
    """
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and f"{name}.running_mean" not in keep
    ]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    counters = [layer.num_batches_tracked for layer in layers]
    seen = 0
    try:
        # Only BatchNorm is in training mode: dropout would change what the layers see.
        with torch.inference_mode(), in_mode(model, training=False):
            for layer in layers:
                layer.train()
                layer.num_batches_tracked = None  # or it would count these batches
            for batch in batches:
                seen += len(batch)
                for layer in layers:
                    # new = (1 - m) old + m batch; the first batch (m = 1) replaces what was there.
                    layer.momentum = len(batch) / seen
                model(batch)
    finally:
        for layer, momentum, counter in zip(layers, momenta, counters, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked = counter


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Have BatchNorm use each batch's own statistics inside the ``with``, and change no buffer.

    Everything else is in evaluation mode. Modes and settings are put back.
    """
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    tracked = [layer.track_running_stats for layer in layers]
    with in_mode(model, training=False):
        try:
            for layer in layers:
                layer.train()
                # in training mode: buffers are neither read nor written
                layer.track_running_stats = False
            yield
        finally:
            for layer, before in zip(layers, tracked, strict=True):
                layer.track_running_stats = before
