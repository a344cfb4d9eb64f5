"""A classifier fitted to one client, beside the network's own: a convex problem, solved once. Ours.

z is what the network's classifier reads, s the mean of its lengths over the images, both frozen:

    logits = classifier(z) + W z / s + b
    W, b   = argmin of mean cross-entropy(logits, labels) + l2 * (||W||^2 + ||b||^2)

With few images the penalty keeps what all clients learned together; with l2 -> infinity nothing changes.
There is one minimum, so no step size, no epochs, no order of images. The sum of both is one linear layer: the
network stays what it was, with another classifier. FedRoD (`corolla.training.second_head`) trains such a head
by SGD during the rounds, on features that have changed when it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from corolla.data.images import Images
from corolla.spaces.model_parts import classifier_name
from corolla.training.knn import Embedded, embed
from corolla.training.trainer import LocalTrainer

_STEPS = 100  # of L-BFGS, at most; about 20 are needed


def fit_head(
    model: nn.Module, images: Images, *, trainer: LocalTrainer, classes: int, l2: float
) -> int:
    """Change the classifier of ``model`` into the sum; return the images that went through the network.

    Where training mirrors images, their mirror images count as well. A network whose answers to them are
    not all finite stays as it is.

    Args:
        model: in place, on the trainer's device. What it answers must already hold the client's class prior.
        images: the client's training images.
        trainer: for its device, loop and augmentation.
        classes: of the model.
        l2: weight of the penalty, above 0; features have length 1 on average.

    Raises:
        NoBatchError: there are no images.
        ValueError: the model has no classifier that reads a vector per image.

    """
    seen = [images]
    if "flip" in trainer.settings.augment.split("_"):
        seen.append(replace(images, pixels=images.pixels.flip(3)))
    embedded = [embed(model, one, trainer=trainer, classes=classes) for one in seen]
    name = classifier_name(model, classes)
    layer = cast(nn.Linear, model.get_submodule(str(name)))  # `embed` read it
    count = sum(len(one.labels) for one in embedded)
    if not all(one.features.isfinite().all() and one.logits.isfinite().all() for one in embedded):
        return count
    weight, bias = solve(embedded, l2=l2, bias=layer.bias is not None)
    with torch.no_grad():
        layer.weight.add_(weight)
        if layer.bias is not None:
            layer.bias.add_(bias)
    return count


def solve(seen: Sequence[Embedded], *, l2: float, bias: bool = True) -> tuple[Tensor, Tensor]:
    """Return what is added to the classifier's weight, (classes, dim), and bias, (classes,), float64."""
    features = torch.cat([one.features for one in seen]).double()
    logits = torch.cat([one.logits for one in seen]).double()
    labels = torch.cat([one.labels for one in seen])
    scale = features.norm(dim=1).mean().clamp(min=torch.finfo(torch.float32).tiny)
    features = features / scale
    weight = features.new_zeros(logits.shape[1], features.shape[1], requires_grad=True)
    offset = features.new_zeros(logits.shape[1], requires_grad=bias)
    free = [weight, offset] if bias else [weight]
    optimizer = torch.optim.LBFGS(free, max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        summed = logits + functional.linear(features, weight, offset)
        penalty = weight.square().sum() + offset.square().sum()
        value: Tensor = functional.cross_entropy(summed, labels) + torch.mul(penalty, l2)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach() / scale, offset.detach()
