"""Per-FedAvg's steps: formulas by hand, against autograd, and what they leave alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from corolla.training.meta import (
    Loss,
    MetaSettings,
    _TwiceDifferentiable,
    adapt,
    meta_batches,
    meta_gradient,
    meta_train,
)
from corolla.training.results import DivergedError, NoBatchError, TrainResult
from corolla.training.settings import LoopSettings
from tests.conftest import make_space
from tests.training.conftest import PLAIN, colourful, convolutional, sgd, state_of

VARIANTS = {"fo": 2, "hf": 3, "exact": 3}
FAST = LoopSettings()  # channels last, fused


def _settings(**changes: Any) -> MetaSettings:
    values = {"alpha": 0.1, "beta": 0.05, "variant": "fo", "delta": 1e-3, "adapt_epochs": 1}
    return MetaSettings(**{**values, **changes})


def _parabola(steepness: float, lowest: float) -> Loss:
    return lambda weights: (steepness / 2 * (weights[0] - lowest) ** 2).sum()


@pytest.mark.parametrize("variant", VARIANTS)
def test_parabolas_by_hand(variant: str) -> None:
    """From w = 1 with alpha = 0.5: D has slope 2 w = 2, so w~ = 0; D' has slope 3 (w~ - 2) = -6.

    fo: -6. D'' has the Hessian 1.2, so the others: -6 - 0.5 * 1.2 * -6 = -2.4.
    """
    weight = torch.tensor([1.0], dtype=torch.float64)
    ((direction,), loss) = meta_gradient(
        [weight],
        probe=_parabola(2.0, 0.0),
        update=_parabola(3.0, 2.0),
        curvature=None if variant == "fo" else _parabola(1.2, 7.0),
        alpha=0.5,
        delta=1e-2,
        variant=variant,
    )
    assert direction.item() == pytest.approx(-6.0 if variant == "fo" else -2.4, rel=1e-9)
    assert loss.item() == 6.0  # 3 / 2 * (0 - 2)^2
    assert weight.item() == 1.0


def _loss_of(model: nn.Module, images: Tensor, labels: Tensor) -> Loss:
    names = [name for name, _ in model.named_parameters()]

    def loss(weights: list[Tensor]) -> Tensor:
        tensors = dict(zip(names, weights, strict=True))
        tensors |= {name: buffer.clone() for name, buffer in model.named_buffers()}
        return functional.cross_entropy(functional_call(model, tensors, (images,)), labels)

    return loss


def _through_autograd(weights: list[Tensor], loss: Loss, alpha: float) -> list[Tensor]:
    """Return the gradient of f(w - alpha grad f(w)), differentiated as it is written."""
    leaves = [weight.detach().requires_grad_() for weight in weights]
    with _TwiceDifferentiable():
        inner = torch.autograd.grad(loss(leaves), leaves, create_graph=True)
        outer = loss([w - alpha * g for w, g in zip(leaves, inner, strict=True)])
    return list(torch.autograd.grad(outer, leaves))


def _distance(left: list[Tensor], right: list[Tensor]) -> float:
    gap = sum(float(((a - b) ** 2).sum()) for a, b in zip(left, right, strict=True))
    size = sum(float((b**2).sum()) for b in right)
    return float(np.sqrt(gap / size))


def _models() -> list[tuple[str, nn.Module, int]]:
    found: list[tuple[str, nn.Module, int]] = [("convolutional", convolutional(), 3)]
    for name, changes in (
        ("mobilenetv3_8", {}),
        ("nasvit_32", {"resolution": [16]}),
        ("darts_small", {"resolution": 8}),
        ("elastic_resnet", {"resolution": 8}),
        ("resnet18", {"resolution": 8, "width": 8}),
    ):
        space = make_space(name, **changes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            found.append((name, space.subnet(space.named("middle")), space.in_channels))
    return found


@pytest.mark.parametrize(("name", "model", "channels"), _models())
def test_exact_is_the_gradient_of_the_objective_and_hf_comes_close(
    name: str, model: nn.Module, channels: int
) -> None:
    """One client, one full batch for D, D' and D'', in float64 (specification, section 23.3)."""
    model = model.double().train()
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(12, channels, 8, 8, dtype=torch.float64, generator=rng)
    loss = _loss_of(model, images, torch.arange(12) % 4)
    weights = list(model.parameters())
    alpha = 0.05
    expected = _through_autograd(weights, loss, alpha)

    def found(variant: str, delta: float) -> list[Tensor]:
        direction, _ = meta_gradient(
            weights,
            probe=loss,
            update=loss,
            curvature=None if variant == "fo" else loss,
            alpha=alpha,
            delta=delta,
            variant=variant,
        )
        return direction

    assert _distance(found("exact", 1.0), expected) < 1e-9
    assert _distance(found("hf", 1e-6), expected) < 1e-3
    assert _distance(found("fo", 1.0), expected) > 0.02  # the curvature matters here


def test_hf_error_falls_with_the_square_of_delta() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(9, 1, 2, 2, dtype=torch.float64, generator=rng)
    loss = _loss_of(model, images, torch.arange(9) % 3)
    weights = list(model.parameters())
    expected = _through_autograd(weights, loss, 0.5)
    errors = []
    for delta in (0.4, 0.2, 0.1):
        direction, _ = meta_gradient(
            weights, probe=loss, update=loss, curvature=loss, alpha=0.5, delta=delta, variant="hf"
        )
        errors.append(_distance(direction, expected))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def _train(
    model: nn.Module,
    *,
    trainer: Any = None,
    count: int = 24,
    epochs: int = 1,
    batch_size: int = 8,
    **changes: Any,
) -> TrainResult:
    return meta_train(
        model,
        colourful(count),
        settings=_settings(**changes),
        trainer=trainer or sgd(),
        epochs=epochs,
        batch_size=batch_size,
        lr=0.05,
        seed=(3, 1, 4),
    )


@pytest.mark.parametrize("loop", [PLAIN, FAST], ids=["plain", "fast"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_without_adaptation_a_step_is_plain_sgd_on_the_second_batch(
    variant: str, loop: LoopSettings
) -> None:
    """alpha = 0. Weights and BN statistics, so no probe and no curvature touched a buffer."""
    model, reference = convolutional(), convolutional()
    # Momentum and decay are the trainer's, not Per-FedAvg's.
    trainer = sgd(loop, momentum=0.9, weight_decay=0.1)
    result = _train(model, trainer=trainer, epochs=2, variant=variant, alpha=0.0)
    images = colourful(24)
    mean, std = torch.tensor([0.5, 0.4, 0.6]), torch.tensor([0.25, 0.2, 0.3])
    floats = (images.pixels / 255 - mean[:, None, None]) / std[:, None, None]
    if loop.channels_last:
        reference.to(memory_format=torch.channels_last)
        floats = floats.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05)
    for epoch in range(2):
        steps = meta_batches(24, 8, VARIANTS[variant], seed=(3, 1, 4), epoch=epoch, least=2)
        losses = []
        for _, second, *_ in steps:
            optimizer.zero_grad()
            loss = functional.cross_entropy(reference(floats[second]), images.labels[second])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
    assert result.train_loss == pytest.approx(np.mean(losses), rel=1e-5)
    for name, tensor in reference.state_dict().items():
        np.testing.assert_allclose(model.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


class Templates(nn.Module):
    """Compares images with one template per class; the templates' gradient is laid out as it likes."""

    def __init__(self) -> None:
        super().__init__()
        values = torch.randn(3, 8, 8, 4, generator=torch.Generator().manual_seed(0)) / 10
        self.templates = nn.Parameter(values.permute(3, 0, 1, 2).contiguous())

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", images, self.templates)


@pytest.mark.parametrize("variant", VARIANTS)
def test_memory_layout_changes_no_number(variant: str) -> None:
    plain, fast = Templates(), Templates()
    _train(plain, trainer=sgd(), variant=variant)
    _train(fast, trainer=sgd(FAST), variant=variant)
    assert fast.templates.stride() != plain.templates.stride()
    np.testing.assert_allclose(
        fast.templates.detach(), plain.templates.detach(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("variant", ["hf", "exact"])
def test_without_adaptation_the_curvature_batch_changes_no_bit(variant: str) -> None:
    """meta_gradient itself: g - 0 * H g is g."""
    weights = [torch.randn(3, generator=torch.Generator().manual_seed(0))]
    curved = _parabola(5.0, 1.0)
    losses: dict[str, Any] = {"probe": curved, "update": _parabola(3.0, 2.0), "delta": 1e-3}
    plain, _ = meta_gradient(weights, **losses, curvature=None, alpha=0.0, variant="fo")
    other, _ = meta_gradient(weights, **losses, curvature=curved, alpha=0.0, variant=variant)
    assert torch.equal(plain[0], other[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_the_pass_that_moves_the_weights_moves_statistics(variant: str) -> None:
    """One step with alpha > 0: the statistics are those of one forward pass at w~ on D'."""
    model, reference = convolutional(), convolutional()
    _train(model, variant=variant, batch_size=24, alpha=0.3)
    first, second, *_ = meta_batches(24, 24, VARIANTS[variant], seed=(3, 1, 4), epoch=0, least=2)[0]
    images = colourful(24)
    mean, std = torch.tensor([0.5, 0.4, 0.6]), torch.tensor([0.25, 0.2, 0.3])
    floats = (images.pixels / 255 - mean[:, None, None]) / std[:, None, None]
    buffers = {name: buffer.clone() for name, buffer in reference.named_buffers()}
    functional.cross_entropy(reference(floats[first]), images.labels[first]).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in reference.parameters():
            assert parameter.grad is not None
            parameter -= 0.3 * parameter.grad
        reference.load_state_dict(buffers, strict=False)
        reference(floats[second])
    for name, buffer in reference.named_buffers():
        np.testing.assert_allclose(model.get_buffer(name), buffer, rtol=1e-4, atol=1e-6)


def _smooth() -> nn.Module:
    """Return a net with dropout and without kinks, whose Hessian is the limit of the quotient."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(192, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 4)]
        return nn.Sequential(nn.Flatten(), *layers)


def test_dropout_is_the_same_on_both_sides_of_the_difference_quotient() -> None:
    """With other masks the two gradients would differ by something of their own size, over delta."""
    found = {}
    for variant in VARIANTS:
        model = _smooth()
        # D'' is drawn after D and D' in both, so hf and exact see the same mask of it.
        _train(model, variant=variant, alpha=0.5, batch_size=24)
        found[variant] = [p.detach().double() for p in model.parameters()]
    start = [p.detach().double() for p in _smooth().parameters()]
    steps = {
        variant: [w - s for w, s in zip(weights, start, strict=True)]
        for variant, weights in found.items()
    }
    assert _distance(steps["hf"], steps["exact"]) < 0.01
    assert _distance(steps["fo"], steps["exact"]) > 0.02


def test_clipping_limits_what_moves_the_weights_and_nothing_else() -> None:
    model = convolutional()
    before = [p.detach().clone() for p in model.parameters()]
    _train(model, trainer=sgd(clip_norm=0.01), batch_size=24, alpha=0.3)
    step = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
    assert float(torch.cat([s.flatten() for s in step]).norm()) == pytest.approx(
        0.05 * 0.01, rel=1e-2
    )
    other = convolutional()
    _train(other, batch_size=24, alpha=0.3)
    free = [p.detach() - b for p, b in zip(other.parameters(), before, strict=True)]
    # The same direction: the probe that came before was as long as without clipping.
    assert float(
        functional.cosine_similarity(
            torch.cat([s.flatten() for s in step]), torch.cat([s.flatten() for s in free]), dim=0
        )
    ) == pytest.approx(1.0, abs=1e-4)


@given(
    count=st.integers(2, 120),
    batch_size=st.integers(1, 40),
    parts=st.sampled_from([2, 3]),
    least=st.sampled_from([1, 2]),
)
def test_a_pass_uses_every_image_once(count: int, batch_size: int, parts: int, least: int) -> None:
    if count < parts * least:
        with pytest.raises(NoBatchError, match=f"no step: {count} images"):
            meta_batches(count, batch_size, parts, seed=(1,), epoch=0, least=least)
        return
    steps = meta_batches(count, batch_size, parts, seed=(1,), epoch=0, least=least)
    batches = [batch for step in steps for batch in step]
    assert sorted(torch.cat(batches).tolist()) == list(range(count))
    sizes = [len(batch) for batch in batches]
    assert {len(step) for step in steps} == {parts}
    assert min(sizes) >= least
    assert max(sizes) - min(sizes) <= 1
    if batch_size >= 2 * least:
        assert max(sizes) <= batch_size


def test_steps_are_as_few_as_fill_the_batches() -> None:
    """500 images, batches of 32, 2 a step: 8 steps of 31 or 32; 3 a step: 6 steps of 27 or 28."""
    for parts, steps, sizes in ((2, 8, {31, 32}), (3, 6, {27, 28})):
        found = meta_batches(500, 32, parts, seed=(0,), epoch=0, least=2)
        assert len(found) == steps
        assert {len(batch) for step in found for batch in step} == sizes
    assert len(meta_batches(64, 32, 2, seed=(0,), epoch=0, least=2)) == 1


@pytest.mark.parametrize(("variant", "passes"), [("fo", 24), ("hf", 32), ("exact", 32)])
def test_samples_are_counted_as_often_as_they_are_used(variant: str, passes: int) -> None:
    """24 images; hf goes twice over the third of them that is D'', a double backward counts twice."""
    result = _train(convolutional(), variant=variant, epochs=2, batch_size=4)
    assert result.samples_processed == 2 * passes
    assert result.num_examples == 24
    assert result.peak_memory_mib > 0


def test_training_repeats_augments_and_takes_the_rounds_step() -> None:
    def trained(trainer: Any, **changes: Any) -> list[Tensor]:
        model = convolutional()
        _train(model, trainer=trainer, **changes)
        return list(state_of(model).values())

    def same(left: list[Tensor], right: list[Tensor]) -> bool:
        return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))

    base = trained(sgd())
    assert same(base, trained(sgd(momentum=0.5, weight_decay=0.1)))
    assert same(base, trained(sgd(), beta=None))  # the lr of _train is 0.05 as well
    assert not same(base, trained(sgd(), beta=0.06))
    flipped = trained(sgd(augment="flip"))
    assert not same(base, flipped)
    assert same(flipped, trained(sgd(augment="flip")))


def test_a_training_that_blows_up_says_so() -> None:
    with pytest.raises(DivergedError, match=r"Lower trainer\.lr"):
        _train(convolutional(), beta=1e30, epochs=3)


def test_the_personalised_model_is_plain_sgd_at_alpha() -> None:
    model, reference = convolutional(), convolutional()
    common: dict[str, Any] = {"batch_size": 8, "seed": (1, 2)}
    adapt(
        model,
        colourful(24),
        settings=_settings(adapt_epochs=2),
        trainer=sgd(momentum=0.9, weight_decay=0.1, clip_norm=1e-6),
        **common,
    )
    sgd().train(reference, colourful(24), epochs=2, lr=0.1, **common)
    for name, tensor in reference.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
