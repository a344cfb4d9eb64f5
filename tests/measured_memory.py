"""What a training step really holds, followed tensor by tensor: what counts are held against."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from benchmarks.live_tensors import peak_of_tensors
from corolla.training.memory import MIB, _held, _state_tensors, saved_for_backward


def saved_activation_bytes(model: nn.Module, images: Tensor) -> int:
    """Return the bytes that autograd keeps of a training pass over ``images`` (n, c, h, w).

    The loss keeps some more, of the size of the logits. Exact, where resident memory only tells
    what the process happened to ask the system for. The model is run in its present mode and on a
    copy, so that no BatchNorm statistic moves.
    """
    replica = copy.deepcopy(model)
    with saved_for_backward(replica) as kept:
        logits = replica(images)
    total = sum(kept.values())  # while `logits` holds them: a freed address could be used again
    del logits
    return total


def measured_step_peak_mib(
    model: nn.Module, images: Tensor, labels: Tensor, optimizer_of: Any
) -> float:
    """Return the peak of all tensors alive during a training step, the model included, in MiB.

    Follows every tensor that is made, so it is slow and exact; left out is the scratch memory
    inside kernels. ``optimizer_of`` makes the optimiser from a list of parameters. The step is the
    second one: the optimiser's state exists. Works on a copy of ``model``, in its present mode.
    """
    replica = copy.deepcopy(model)
    optimizer: Optimizer = optimizer_of(list(replica.parameters()))

    def step() -> None:
        loss = functional.cross_entropy(replica(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    step()
    alive = (*_held(replica), *_state_tensors(optimizer), images, labels)
    return peak_of_tensors(step, alive) / MIB
