"""The pull towards fixed values: its gradient by hand, and what it must leave alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from corolla.spaces.supernet import to_arrays
from corolla.training.pull import Pull
from corolla.training.settings import LoopSettings
from corolla.types import Arrays
from tests.conftest import make_space
from tests.training.conftest import PLAIN, Affine, colourful, convolutional, dots, sgd, state_of

FAST = LoopSettings()


def towards(*values: float) -> Arrays:
    return {"linear.weight": np.array(values, dtype=np.float32)[:, None]}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def one_step(model: nn.Module, hook: Any, *, lr: float = 1.0, **changes: Any) -> None:
    sgd(**changes).train(
        model, dots([255], [0]), epochs=1, batch_size=1, lr=lr, seed=(0,), after_backward=hook
    )


def test_the_pull_is_lambda_times_the_distance() -> None:
    model = Affine((2.0, 2.0))
    one_step(model, Pull(strength=0.1, targets=towards(1.0, 5.0)))
    # Cross-entropy alone: p - y = (-1/2, 1/2); the pull: 0.1 (2 - 1, 2 - 5) = (0.1, -0.3).
    assert model.weights() == pytest.approx([2 + 0.5 - 0.1, 2 - 0.5 + 0.3])


def test_the_optimiser_treats_the_pull_as_part_of_the_gradient() -> None:
    model = Affine((2.0, 2.0))
    one_step(model, Pull(strength=3.0, targets=towards(2.0, 1.0)), clip_norm=1.0)
    # (-1/2, 1/2) + (0, 3) = (-0.5, 3.5), shortened to length 1: clipping sees both parts.
    length = (0.5**2 + 3.5**2) ** 0.5
    assert model.weights() == pytest.approx([2 + 0.5 / length, 2 - 3.5 / length], rel=1e-5)


@settings(max_examples=20)
@given(strength=st.floats(1e-3, 10), seed=st.integers(0, 2**16))
def test_it_is_the_gradient_of_half_lambda_times_the_squared_distance(
    strength: float, seed: int
) -> None:
    model, other = convolutional(seed=1), convolutional(seed=2)
    targets = to_arrays(other)
    penalty = sum(
        ((p - torch.from_numpy(targets[name])) ** 2).sum() for name, p in model.named_parameters()
    )
    names = [name for name, _ in model.named_parameters()]
    loss = (torch.rand(4, generator=torch.Generator().manual_seed(seed)) * model(_images())).sum()
    expected = torch.autograd.grad(loss + strength / 2 * penalty, list(model.parameters()))
    model = convolutional(seed=1)
    loss = (torch.rand(4, generator=torch.Generator().manual_seed(seed)) * model(_images())).sum()
    loss.backward()
    Pull(strength=strength, targets=targets)(model)
    for name, gradient in zip(names, expected, strict=True):
        torch.testing.assert_close(gradients(model)[name], gradient, rtol=1e-4, atol=1e-5)


def _images() -> Tensor:
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("loop", [PLAIN, FAST])
def test_strength_0_leaves_every_bit(loop: LoopSettings) -> None:
    """Not even -0.0 may become 0.0, and targets that are no numbers at all must not matter."""
    named = convolutional().named_parameters()
    targets = {name: np.full(p.shape, np.nan, dtype=np.float32) for name, p in named}
    common: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 0.05, "seed": (0,)}
    pulled, alone = convolutional(dropout=0.3), convolutional(dropout=0.3)
    trainer = sgd(loop, momentum=0.9, clip_norm=1.0)
    hook = Pull(strength=0.0, targets=targets)
    trainer.train(pulled, colourful(10), after_backward=hook, **common)
    trainer.train(alone, colourful(10), **common)
    found = to_arrays(pulled)
    assert all(found[name].tobytes() == array.tobytes() for name, array in to_arrays(alone).items())


@pytest.mark.parametrize("after_first_call", [False, True])
def test_targets_are_copies(after_first_call: bool) -> None:
    model, targets = Affine((2.0, 2.0)), towards(1.0, 5.0)
    pull = Pull(strength=1.0, targets=targets)
    if after_first_call:
        pull(model)
        model.zero_grad()
    targets["linear.weight"][:] = 100.0
    del targets["linear.weight"]
    pull(model)
    assert model.linear.weight.grad is not None
    assert model.linear.weight.grad.flatten().tolist() == [1.0, -3.0]


def test_they_do_not_move_with_the_model_they_came_from() -> None:
    """The received arrays become the global model's memory and are trained on: w^t must stay."""
    arrays = to_arrays(convolutional(seed=1))
    expected = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    pull, local = Pull(strength=1.0, targets=arrays), convolutional(seed=2)
    shared = convolutional()
    shared.load_state_dict({n: torch.from_numpy(a) for n, a in arrays.items()}, assign=True)
    sgd().train(shared, colourful(8), epochs=1, batch_size=4, lr=1.0, seed=(0,))
    assert not np.array_equal(arrays["0.weight"], expected["0.weight"].numpy())
    pull(local)
    for name, parameter in local.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, parameter.detach() - expected[name]), name


def test_only_named_trainable_parameters_are_pulled() -> None:
    model = convolutional()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    targets = {name: array + 1 for name, array in to_arrays(model).items()}
    del targets["4.bias"]
    targets["not.there"] = np.ones(3, dtype=np.float32)
    model[10].weight.requires_grad_(False)
    Pull(strength=0.5, targets=targets)(model)
    for name, parameter in model.named_parameters():
        if name in ("4.bias", "10.weight"):
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, torch.full_like(parameter, -0.5))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert all(buffer.grad is None for _, buffer in model.named_buffers())


def test_a_pruned_model_is_pulled_where_it_still_overlaps() -> None:
    space = make_space("darts_s2_mixed_small", channels=2, cells=3, resolution=8)
    targets = {name: array + 1 for name, array in space.initial_state(0).items()}
    network = space.supernet()
    pull = Pull(strength=1.0, targets=targets)
    for edge in range(14):
        network.prune("normal", edge, ("skip_connect", "sep_conv_3x3")[edge % 2])
        network.prune("reduce", edge, ("sep_conv_3x3", "skip_connect")[edge % 2])
    network.prune("reduce", 13)
    pull(network)
    names = {name for name, _ in network.named_parameters()}
    assert names < set(targets)
    assert set(gradients(network)) == names
    for name, parameter in network.named_parameters():
        expected = parameter.detach() - torch.from_numpy(targets[name])
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=0)


def test_another_model_is_pulled_by_its_own_parameters() -> None:
    pull = Pull(strength=1.0, targets=towards(1.0, 5.0))
    for start in (2.0, 3.0):
        model = Affine((start, start))
        pull(model)
        assert model.linear.weight.grad is not None
        assert model.linear.weight.grad.flatten().tolist() == [start - 1, start - 5]


@pytest.mark.parametrize(
    "loop", [FAST, LoopSettings(channels_last=True, fused=False, foreach=True)]
)
def test_the_layout_does_not_matter(loop: LoopSettings) -> None:
    targets = to_arrays(convolutional(seed=2))
    common: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 0.05, "seed": (0,)}
    found = []
    for each in (PLAIN, loop):
        model = convolutional(seed=1)
        hook = Pull(strength=0.5, targets=targets)
        sgd(each, momentum=0.9).train(model, colourful(10), after_backward=hook, **common)
        found.append(state_of(model))
        weight = model[0].weight
        layout = torch.channels_last if each.channels_last else torch.contiguous_format
        assert weight.is_contiguous(memory_format=layout)
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-4, atol=1e-5)


def test_a_strong_pull_holds_the_model_where_it_is_pulled_to() -> None:
    """With lr * lambda = 1 every step lands on the target, but for the step of the images."""
    target = convolutional(seed=2)
    model = convolutional(seed=1)
    hook = Pull(strength=1e4, targets=to_arrays(target))
    sgd().train(
        model, colourful(8), epochs=2, batch_size=4, lr=1e-4, seed=(0,), after_backward=hook
    )
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, target.get_parameter(name), rtol=0, atol=5e-3)
    images = torch.rand(2, 3, 8, 8)
    assert functional.mse_loss(model(images), target(images)) < 1e-3
