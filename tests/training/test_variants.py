"""Scores of one network's variants: of the pruned network itself, on all images, without a trace."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from corolla.data.images import Images
from corolla.spaces.darts_cells import DartsNetwork
from corolla.spaces.layers import BatchNorm
from corolla.training.results import NoBatchError
from corolla.training.settings import LoopSettings
from corolla.training.variants import Statistics, VariantScorer
from tests.conftest import make_space
from tests.training.conftest import PLAIN, Affine, colourful, convolutional, dots, sgd

MODES: tuple[Statistics, ...] = ("batch", "running")


def darts(name: str = "darts_s2_mixed_small") -> DartsNetwork:
    """Return a mixed network whose running statistics are those of some training."""
    space = make_space(name, channels=2, cells=3, resolution=8, num_classes=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: DartsNetwork = space.supernet()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
                layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return network


def scorer(images: Images, *, loop: LoopSettings = PLAIN, **changes: Any) -> VariantScorer:
    return VariantScorer(sgd(loop), images, **({"batch_size": 16} | changes))


@pytest.mark.parametrize("statistics", MODES)
@pytest.mark.parametrize("loop", [PLAIN, LoopSettings()])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, BatchNorm])
def test_every_buffer_and_mode_is_as_before(
    statistics: Statistics, loop: LoopSettings, norm: type[nn.Module]
) -> None:
    """Scoring in DARTS-PT's training mode overwrites them all with those of perturbed networks."""
    network = nn.Sequential(nn.Dropout(0.5), norm(3), convolutional(dropout=0.5))
    network[2].eval()
    network[2][1].train()
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    tracked = [getattr(m, "track_running_stats", None) for m in network.modules()]
    found = scorer(colourful(20), loop=loop, statistics=statistics)(network, [nullcontext] * 3)
    assert len({(each.accuracy, each.loss) for each in found}) == 1  # dropout is off
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [module.training for module in network.modules()] == modes
    assert [getattr(m, "track_running_stats", None) for m in network.modules()] == tracked
    assert not any(tensor.is_inference() for tensor in after.values())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("statistics", MODES)
def test_a_network_is_as_before_after_a_variant_that_fails(statistics: Statistics) -> None:
    @contextmanager
    def broken() -> Iterator[None]:
        raise RuntimeError("no such operation")
        yield

    network = darts()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(RuntimeError, match="no such operation"):
        scorer(colourful(4), statistics=statistics)(network, [broken])
    assert all(torch.equal(network.state_dict()[n], tensor) for n, tensor in before.items())
    assert all(module.training for module in network.modules())
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(layer.track_running_stats for layer in norms)


@pytest.mark.parametrize("statistics", MODES)
def test_the_score_of_a_masked_network_is_that_of_the_pruned_one(statistics: Statistics) -> None:
    network, judge = darts(), scorer(colourful(33), statistics=statistics)
    masks: list[tuple[str, int, str | None]] = [
        ("normal", 0, "skip_connect"),
        ("normal", 3, "sep_conv_3x3"),
        ("reduce", 1, "sep_conv_3x3"),
        ("reduce", 13, None),
    ]
    together = judge(network, [partial(network.masked, *mask) for mask in masks])
    losses = []
    for mask, score in zip(masks, together, strict=True):
        pruned = copy.deepcopy(network)
        pruned.prune(*mask)
        (alone,) = judge(pruned, [nullcontext])
        assert (alone.accuracy, alone.num_examples) == (score.accuracy, 33)
        assert alone.loss == pytest.approx(score.loss, rel=1e-6)
        losses.append(round(score.loss, 6))
    assert len(set(losses)) == len(masks)  # four different networks
    (whole,) = judge(network, [nullcontext])
    assert round(whole.loss, 6) not in losses
    assert judge.passes == 4 + 4 + 1


def test_running_statistics_score_as_an_evaluation_does() -> None:
    network, images = darts(), colourful(33)
    (found,) = scorer(images, statistics="running")(network, [nullcontext])
    expected = sgd().evaluate(network, images)
    assert found.accuracy == expected.accuracy
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)


def test_batch_statistics_score_as_the_training_mode_does() -> None:
    network, images = darts(), colourful(10)
    (found,) = scorer(images, statistics="batch")(network, [nullcontext])
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (images.mean, images.std))
    with torch.no_grad():
        logits = copy.deepcopy(network).train()((images.pixels / 255 - mean) / std)
    assert found.accuracy == int((logits.argmax(1) == images.labels).sum()) / 10
    assert found.loss == pytest.approx(float(functional.cross_entropy(logits, images.labels)), 1e-5)
    (other,) = scorer(images, statistics="running")(network, [nullcontext])
    assert abs(other.loss - found.loss) > 1e-3


class Spy(nn.Module):
    """Notes the pixel of every image it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Affine((0.0, 1.0))
        self.batches: list[list[int]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append((images[:, 0, 0, 0] * 255).round().int().tolist())
        return self.inner(images)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(1, [1]), (2, [2]), (32, [32]), (33, [17, 16]), (64, [32, 32]), (70, [24, 23, 23])],
)
def test_batches_cover_every_image_once_and_are_about_equal(count: int, sizes: list[int]) -> None:
    """Dropping the rest, as the public code does, scores 33 images by 32, and 31 by nothing at all."""
    spy = Spy()
    judge = scorer(dots(list(range(count)), [1] * count), batch_size=32)
    (found,) = judge(spy, [nullcontext])
    assert [len(batch) for batch in spy.batches] == sizes
    seen = list(chain(*spy.batches))
    assert sorted(seen) == list(range(count))
    assert found.num_examples == count
    if count > 1:
        assert seen != list(range(count))  # a split may be stored class by class
    # Logits 0 and pixel: class 1 loses ln(1 + e^-pixel); all are right but pixel 0, a tie that goes to 0.
    assert found.accuracy == pytest.approx((count - 1) / count)
    pixels = torch.arange(count) / 255
    assert found.loss == pytest.approx(float(torch.log1p(torch.exp(-pixels)).mean()), rel=1e-5)


@pytest.mark.parametrize("statistics", MODES)
@pytest.mark.parametrize("count", [1, 2, 33])
def test_small_clients_are_scored(statistics: Statistics, count: int) -> None:
    network = darts()
    judge = scorer(colourful(count), batch_size=32, statistics=statistics)
    variants = [partial(network.masked, "normal", 0, name) for name in ("skip_connect", None)]
    found = judge(network, variants)
    assert [score.num_examples for score in found] == [count] * 2
    assert all(score.accuracy * count == round(score.accuracy * count) for score in found)
    assert judge.passes == 2


def test_each_batch_is_loaded_once_for_all_variants_in_the_same_order() -> None:
    spy = Spy()
    judge = scorer(dots(list(range(9)), [1] * 9), batch_size=4)
    judge(spy, [nullcontext] * 2)
    assert spy.batches[::2] == spy.batches[1::2]
    again = Spy()
    scorer(dots(list(range(9)), [1] * 9), batch_size=4)(again, [nullcontext])
    assert again.batches == spy.batches[::2]


@pytest.mark.parametrize("statistics", MODES)
def test_scores_repeat_and_draw_nothing_from_outside(statistics: Statistics) -> None:
    """Noise (s4) is the same for every variant and every call, whatever the seed of the process is."""
    network, judge = darts("darts_s4_mixed"), scorer(colourful(9), statistics=statistics)
    torch.manual_seed(1)
    first = judge(network, [nullcontext] * 2)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))
    assert first[0] == first[1]
    assert judge(network, [nullcontext]) == first[:1]


def test_no_images_and_no_variants() -> None:
    with pytest.raises(NoBatchError, match="nothing to score variants on: 0 images"):
        scorer(colourful(0))
    judge = scorer(colourful(4))
    assert judge(darts(), []) == []
    assert judge.passes == 0
