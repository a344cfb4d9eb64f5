"""The laws that every search space obeys, over random architectures of every space in conf/."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from corolla.aggregation.coverage import coverage_average
from corolla.aggregation.regions import region_shape
from corolla.aggregation.statistics import is_statistic
from corolla.aggregation.updates import Update
from corolla.spaces.model_parts import parts_of
from corolla.spaces.supernet import ElasticSupernet, Supernet
from corolla.training.prior import fold
from corolla.types import Arrays
from tests.conftest import CONF, make_space, quick

FILES = sorted((CONF / "space").glob("*.yaml"))
# Small enough to run; the full-size ones differ from them in numbers only.
SMALL = [
    "mobilenetv3_8",
    "mobilenetv2_8",
    "mobilenetv2_width_8",
    "elastic_resnet",
    "nasvit_32",
    "darts_small",
    "darts_s2_mixed_small",
    "resnet18",
    "resnet18_modules",
    "lenet",
    "vit_32",
    "elastic_cnn",
    "ofa_resnet_small",
    "fedoras_small",
]
# One of each way to cut; the others differ in their blocks, which the costs are counted from.
KINDS = ["mobilenetv3_8", "darts_small", "resnet18_modules", "vit_32", "elastic_cnn"]
every_kind = pytest.mark.parametrize("name", quick(SMALL, *KINDS))
_DARTS = {"channels": 4, "cells": 3, "resolution": 8}
SMALLER: dict[str, dict[str, Any]] = {  # than their files
    "resnet18": {"width": 8, "resolution": 16},
    "resnet18_modules": {
        "modules": 2,
        "base": {
            "_target_": "corolla.spaces.resnet18.ResNet18Space",
            "resolution": 8,
            "width": 4,
            "norm": "batch",
            "groups": 2,
        },
    },
    "vit_32": {"resolution": 8, "width": 16, "depth": 2, "heads": 3, "head_dim": 4, "hidden": 24},
    "elastic_cnn": {"resolution": 8},
    "ofa_resnet_small": {"resolution": 8},
    "fedoras_small": {"resolution": 8},
    "elastic_resnet": {"resolution": 8},
    "nasvit_32": {"resolution": [16]},
    "darts_small": _DARTS,
    "darts_s2_mixed_small": _DARTS,
}
SEEDS = st.integers(0, 2**32)


@cache
def _space(name: str) -> Any:
    return make_space(name, **SMALLER.get(name, {}))


@cache
def _state(name: str) -> Arrays:
    return _space(name).initial_state(0)


def _drawn(name: str, seed: int) -> Any:
    return _space(name).sample(np.random.default_rng(seed))


def _images(space: Supernet, count: int) -> torch.Tensor:
    shape = (count, space.in_channels, space.resolution, space.resolution)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_builds_a_space_of_its_own_name(path: Any) -> None:
    assert yaml.safe_load(path.read_text())["name"] == path.stem
    space = make_space(path.stem)
    assert isinstance(space, Supernet)
    smallest = space.costs(space.smallest(), batch_size=2)
    assert smallest.params > 0
    whole = sum(int(np.prod(shape)) for shape in space.supernet_shapes.values())
    assert smallest.payload_bytes <= 4 * whole


@pytest.mark.parametrize("name", quick([path.stem for path in FILES], *SMALL))
def test_shapes_and_costs_are_those_of_the_built_module(name: str) -> None:
    space, rng = _space(name), np.random.default_rng(0)
    near = 0.04 if name.startswith(("mobilenetv3", "nasvit")) else 0.02
    for architecture in (space.smallest(), space.largest(), space.sample(rng), space.sample(rng)):
        with torch.device("meta"):
            module = space.subnet(architecture)
        built = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        assert list(built.items()) == list(space.shapes(architecture).items())
        assert sum(p.numel() for p in module.parameters()) == space.costs(architecture).params
        assert Supernet.macs(space, architecture) == space.macs(architecture)  # counted by torch
        counted = Supernet.activation_bytes(space, architecture, 8)
        assert space.activation_bytes(architecture, 8) == pytest.approx(counted, rel=near)


@every_kind
@settings(max_examples=4)
@given(seed=SEEDS)
def test_a_blank_network_is_the_subnet_and_nobody_elses(name: str, seed: int) -> None:
    space = _space(name)
    for architecture in (_drawn(name, seed), space.largest()):
        built = space.subnet(architecture)
        blank, other = space.blank(architecture), space.blank(architecture)
        assert str(blank) == str(built)
        assert all(tensor.is_meta for tensor in blank.state_dict().values())
        shapes = {key: tensor.shape for key, tensor in built.state_dict().items()}
        assert {key: tensor.shape for key, tensor in blank.state_dict().items()} == shapes
        # Parts that were built once for all must not carry weights, or a mode, from one to the other.
        weights = space.cut(_state(name), architecture)
        tensors = {key: torch.from_numpy(array) for key, array in weights.items()}
        blank.load_state_dict(tensors, strict=True, assign=True)
        blank.eval()
        assert all(tensor.is_meta for tensor in other.state_dict().values())
        assert all(module.training for module in other.modules())
        assert not {id(m) for m in blank.modules()} & {id(m) for m in other.modules()}
        assert space.blank(architecture).training


@every_kind
@settings(max_examples=2)
@given(seed=SEEDS)
def test_a_class_prior_is_added_to_the_logits_through_the_bias(name: str, seed: int) -> None:
    space, architecture = _space(name), _drawn(name, seed)
    model = space.load(architecture, space.cut(_state(name), architecture)).eval()
    offset, images = torch.arange(space.num_classes) / 4, _images(space, 2)
    with torch.no_grad():
        before = model(images)
        fold(model, offset)
        torch.testing.assert_close(model(images), before + offset)


@every_kind
@settings(max_examples=4)
@given(seed=SEEDS)
def test_parts_divide_the_arrays_and_those_of_a_cut_are_cuts_of_the_parts(
    name: str, seed: int
) -> None:
    space, architecture = _space(name), _drawn(name, seed)
    head, norm, stem, stages = (space.parts[part] for part in ("head", "norm", "stem", "stages"))
    assert sorted(head + stem + stages) == sorted(space.supernet_shapes)
    assert {key.rpartition(".")[2] for key in head} == {"weight", "bias"}
    assert all(space.supernet_shapes[key][0] == space.num_classes for key in head)
    assert space.supernet_shapes[stem[0]][1] == space.in_channels  # it reads the images
    assert set(norm) <= set(space.supernet_shapes)
    assert not norm or set(norm) > {key for key in norm if key in stem}
    statistics = {key for key in space.supernet_shapes if is_statistic(key)}
    assert statistics <= set(norm)
    module = space.subnet(architecture)
    held = module.state_dict()
    assert parts_of(module, space.num_classes) == {
        part: tuple(key for key in held if key in names) for part, names in space.parts.items()
    }
    assert space.names_in(["head", "stem"]) == {*head, *stem}


@every_kind
@settings(max_examples=10)
@given(seed=SEEDS)
def test_regions_have_the_subnets_size(name: str, seed: int) -> None:
    space, architecture, state = _space(name), _drawn(name, seed), _state(name)
    regions = space.regions(architecture)
    assert list(regions) == list(space.shapes(architecture))
    size = sum(math.prod(region_shape(region, state[key].shape)) for key, region in regions.items())
    assert 4 * size == space.costs(architecture).payload_bytes


@every_kind
@settings(max_examples=8)
@given(seeds=st.lists(SEEDS, min_size=1, max_size=4), weight=st.floats(0.1, 1e4))
def test_cut_then_aggregate_leaves_the_supernet_bit_identical(
    name: str, seeds: list[int], weight: float
) -> None:
    space, state = _space(name), _state(name)
    updates = [
        Update(
            arrays=space.cut(state, _drawn(name, seed)),
            regions=space.regions(_drawn(name, seed)),
            weight=weight + number,
            client=str(number),
        )
        for number, seed in enumerate(seeds)
    ]
    after = coverage_average(state, updates)
    for key, array in state.items():
        assert after[key].tobytes() == array.tobytes(), key


@every_kind
@settings(max_examples=8)
@given(seed=SEEDS)
def test_overlap_is_the_mean_and_what_nobody_holds_stays(name: str, seed: int) -> None:
    """Clients that return all 1, all 2, all 3: by hand the mean of those that hold an entry."""
    space, state = _space(name), _state(name)
    drawn = [_drawn(name, seed + number) for number in range(3)]
    total = {key: np.zeros_like(array) for key, array in state.items()}
    holders = {key: np.zeros_like(array) for key, array in state.items()}
    updates = []
    for number, architecture in enumerate(drawn, start=1):
        regions = space.regions(architecture)
        arrays = space.cut(state, architecture)
        updates.append(
            Update(
                arrays={key: np.full_like(array, number) for key, array in arrays.items()},
                regions=regions,
                weight=1.0,
                client=str(number),
            )
        )
        for key, region in regions.items():
            total[key][region] += number
            holders[key][region] += 1
    after = coverage_average(state, updates)
    for key, array in state.items():
        held = holders[key] > 0
        expected = total[key][held] / holders[key][held]
        np.testing.assert_allclose(after[key][held], expected, rtol=1e-6)
        np.testing.assert_array_equal(after[key][~held], array[~held])


@every_kind
@settings(max_examples=5)
@given(seed=SEEDS)
def test_the_elastic_supernet_equals_the_subnet_and_trains_its_region_only(
    name: str, seed: int
) -> None:
    space, state, architecture = _space(name), _state(name), _drawn(name, seed)
    elastic = ElasticSupernet(space, state).eval()
    subnet = space.load(architecture, space.cut(state, architecture)).eval()
    images = _images(space, 3)
    logits = elastic(images, architecture)
    assert logits.shape == (3, space.num_classes)
    torch.testing.assert_close(logits, subnet(images), rtol=0, atol=0)
    logits.sum().backward()
    regions = space.regions(architecture)
    parameters = dict(elastic.named_parameters())
    for key in state:
        parameter = parameters.get(key.replace(".", "/"))
        if parameter is None or parameter.grad is None:
            continue
        outside = parameter.grad.clone()
        if key in regions:
            outside[regions[key]] = 0
        assert outside.abs().sum() == 0, key


@pytest.mark.parametrize("name", SMALL)
def test_initial_state_depends_on_the_seed_alone(name: str) -> None:
    space, state = _space(name), _state(name)
    again, other = space.initial_state(0), space.initial_state(1)
    assert all(np.array_equal(again[key], array) for key, array in state.items())
    assert any(not np.array_equal(other[key], array) for key, array in state.items())


@pytest.mark.parametrize("name", SMALL)
def test_a_subnet_trains(name: str) -> None:
    """A few steps on one batch bring the loss down; every parameter gets a gradient."""
    space = _space(name)
    architecture = space.middle()
    model = space.load(architecture, space.cut(_state(name), architecture)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    images, labels = _images(space, 16), torch.arange(16) % 10
    losses = []
    for _ in range(6):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in model.parameters())
    assert losses[-1] < losses[0]
