"""The space of mixed DARTS networks: subsets as choices, the supernet as the largest, cuts and pruning."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corolla.errors import RefusedError
from corolla.spaces.architecture import Architecture
from corolla.spaces.costs import count_macs
from corolla.spaces.darts_cells import DartsNetwork
from corolla.spaces.darts_genotype import KINDS, Genotype
from corolla.spaces.darts_mixed import MixedDartsSpace
from tests.conftest import CONF, make_space

SPACES = sorted(path.stem for path in (CONF / "space").glob("darts*mixed*.yaml"))
SETS = {"s2": 2, "s3": 3, "s4": 2, "full": 8}


@cache
def tiny(operations: str = "s2") -> MixedDartsSpace:
    """Return one normal cell and two that reduce."""
    changes: dict[str, Any] = {"channels": 2, "cells": 3, "resolution": 8}
    space: MixedDartsSpace = make_space("darts_s2_mixed_small", operations=operations, **changes)
    return space


def any_architecture(operations: str, seed: int) -> Architecture:
    return tiny(operations).sample(np.random.default_rng(seed))


SEEDS = st.integers(0, 2**32)


@settings(max_examples=40)
@given(operations=st.sampled_from(sorted(SETS)), seed=SEEDS)
def test_alive_and_back(operations: str, seed: int) -> None:
    space, architecture = tiny(operations), any_architecture(operations, seed)
    alive = space.alive(architecture)
    assert space.of_alive(alive) == architecture
    backwards = {kind: [list(reversed(names)) for names in alive[kind]] for kind in KINDS}
    assert space.of_alive(backwards) == architecture  # a set has no order


@settings(max_examples=20)
@given(operations=st.sampled_from(sorted(SETS)), data=st.data())
def test_any_choices_are_an_architecture(operations: str, data: st.DataObject) -> None:
    space = tiny(operations)
    subsets = st.lists(st.sampled_from(space.plan.operations), unique=True)
    edges = st.lists(subsets, min_size=14, max_size=14)
    alive = {kind: data.draw(edges) for kind in KINDS}
    found = space.alive(space.of_alive(alive))
    assert {k: [set(e) for e in found[k]] for k in KINDS} == {
        k: [set(e) for e in alive[k]] for k in KINDS
    }


def test_choices_are_named_for_what_they_hold() -> None:
    dimension = tiny("s3").dimensions[5]
    assert dimension.name == "normal.0-4"
    assert len(tiny("s3").dimensions) == 28
    assert dimension.choices == (
        "absent",
        "none",
        "skip_connect",
        "none+skip_connect",
        "sep_conv_3x3",
        "none+sep_conv_3x3",
        "skip_connect+sep_conv_3x3",
        "none+skip_connect+sep_conv_3x3",
    )
    for operations, count in SETS.items():
        assert {len(d) for d in tiny(operations).dimensions} == {2**count}


@pytest.mark.parametrize("name", SPACES)
def test_the_largest_is_the_mixed_supernet(name: str) -> None:
    changes: dict[str, Any] = {
        "channels": 4,
        "cells": 3,
        "nodes": 2,
        "resolution": 8,
        "in_channels": 1,
    }
    space = make_space(name, **changes)
    plain = make_space(name.partition("_mixed")[0], **changes)
    assert isinstance(space, MixedDartsSpace)
    assert not isinstance(plain, MixedDartsSpace)
    assert space.plan == plain.plan
    assert space.alive(space.largest()) == space.all_alive()
    with torch.device("meta"):
        assert space.supernet().alive() == space.all_alive()
    assert list(space.supernet_shapes.items()) == list(plain.supernet_shapes.items())
    assert space.shapes(space.largest()) == space.supernet_shapes
    first, second = space.initial_state(3), plain.initial_state(3)
    assert all(np.array_equal(array, second[key]) for key, array in first.items())


@pytest.mark.parametrize(("num_classes", "params"), [(10, 665_466), (100, 688_596)])
def test_the_paper_s_supernet(num_classes: int, params: int) -> None:
    space = make_space("darts_s2_mixed", num_classes=num_classes)
    costs = space.costs(space.largest())
    assert costs.params == params
    assert round(costs.macs / 1e6, 1) == (100.9 if num_classes == 10 else 101.0)
    small = make_space("darts_s2_mixed_small", num_classes=num_classes)
    assert (
        small.costs(small.largest()).params == {10: 111_202, 100: 111_202 + 90 * 129}[num_classes]
    )


def test_a_decided_network_has_at_most_420_000_parameters() -> None:
    """At 16 channels, two inputs a node and 100 classes; the paper says 2.1 to 2.4 million."""
    space = make_space("darts_s2_mixed", num_classes=100)
    edges = [("sep_conv_3x3",) if source < 2 else () for source in (0, 1, 0, 1, 2, 0, 1, 2, 3)]
    edges += [("sep_conv_3x3",)] * 2 + [()] * 3
    decided = space.of_alive(dict.fromkeys(KINDS, edges))
    assert round(space.costs(decided).params / 1e6, 2) == 0.42


@settings(max_examples=3)
@given(operations=st.sampled_from(sorted(SETS)), seed=SEEDS)
def test_a_pruned_network_is_its_architectures(operations: str, seed: int) -> None:
    space, rng = tiny(operations), np.random.default_rng(seed)
    with torch.device("meta"):
        network = space.supernet()
    for kind in KINDS:
        for edge, names in enumerate(network.alive()[kind]):
            for name in names:
                if rng.random() < 0.6:
                    network.prune(kind, edge, name)
    architecture = space.of_alive(network.alive())
    assert space.alive(architecture) == network.alive()
    found = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert list(found.items()) == list(space.shapes(architecture).items())
    costs = space.costs(architecture)
    assert costs.params == sum(p.numel() for p in network.parameters())
    assert costs.macs == count_macs(network, (1, 3, 8, 8))


@settings(max_examples=4)
@given(operations=st.sampled_from(["s2", "s3", "full"]), seed=SEEDS)
def test_a_cut_runs_as_the_pruned_supernet_does(operations: str, seed: int) -> None:
    space, architecture = tiny(operations), any_architecture(operations, seed)
    state = space.initial_state(0)
    loaded = space.load(architecture, space.cut(state, architecture)).eval()
    assert isinstance(loaded, DartsNetwork)
    assert loaded.alive() == space.alive(architecture)
    pruned = space.load(space.largest(), space.cut(state, space.largest())).eval()
    assert isinstance(pruned, DartsNetwork)
    for kind, edges in space.alive(architecture).items():
        for edge, names in enumerate(edges):
            for name in set(space.plan.operations) - set(names):
                pruned.prune(kind, edge, name)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = loaded(images)
        torch.testing.assert_close(pruned(images), logits, rtol=0, atol=0)
    assert logits.shape == (2, 10)


def test_an_architecture_may_have_no_edge_at_all() -> None:
    space, dead = tiny(), Architecture((0,) * 28)
    assert space.alive(dead) == dict.fromkeys(KINDS, ((),) * 14)
    network = space.load(dead, space.cut(space.initial_state(0), dead))
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 10)


def test_genotypes() -> None:
    space = tiny()
    edges = [("skip_connect",), ("sep_conv_3x3",)] * 2 + [()] + [("sep_conv_3x3",)] * 2 + [()] * 7
    edges[9:11] = [("skip_connect",)] * 2
    architecture = space.of_alive(dict.fromkeys(KINDS, edges))
    genotype = space.genotype(architecture)
    assert space.from_genotype(genotype) == architecture
    assert space.named(genotype.text()) == architecture  # two entries a node, absent edges and all
    assert space.from_genotype(Genotype.parse(genotype.text())) == architecture
    with pytest.raises(RefusedError, match=r"genotype\.normal\.0-2=.*more than one operation"):
        space.genotype(space.largest())


def test_what_is_not_of_the_space_is_refused() -> None:
    space = tiny()
    with pytest.raises(RefusedError, match=r"alive\.normal\.0-2='none': not in this space"):
        space.of_alive(dict.fromkeys(KINDS, [("none",)] * 14))
    with pytest.raises(RefusedError, match=r"alive\.reduce=13: edges are not all listed"):
        space.of_alive({"normal": [()] * 14, "reduce": [()] * 13})
    with pytest.raises(ValueError, match=r"normal\.0-2=4 is not an index"):
        space.alive(Architecture((4,) + (0,) * 27))
