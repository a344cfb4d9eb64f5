"""The fitness of one architecture by hand, the Pareto cache, tracked sandwich, and tiers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from corolla.errors import RefusedError
from corolla.search.evolution import EvolutionSettings
from corolla.search.pareto_cache import CacheSettings, ParetoCache
from corolla.search.proposals.protocol import Observation, SearchContext
from corolla.search.proposals.tracked_sandwich import SandwichProposalsSettings, TrackedSandwich
from corolla.search.tiers import Tiers, TierSettings
from corolla.search.training_free import FitnessSettings, TrainingFree, fitness
from corolla.spaces.architecture import Architecture
from corolla.spaces.conv_layers import ConvLayer, conv_layers
from corolla.spaces.supernet import Supernet
from tests.conftest import make_space

SPACE = make_space("elastic_cnn", resolution=8)
EVOLUTION = EvolutionSettings(population=8, generations=3, mutants=4, crossovers=4)


def test_the_fitness_of_one_network_by_hand() -> None:
    """Two blocks that end at 8 rows, one at 4, of widths e^2 and e: the logarithms are whole."""
    e = math.e
    layers = [
        ConvLayer(e, 5, 8, ""),  # the stem: in rho alone
        ConvLayer(e**2, 7, 8, "a"),
        ConvLayer(e**2, 9, 8, "b"),
        ConvLayer(e, 6, 8, "c"),  # a block counts where it ends
        ConvLayer(e, 6, 4, "c"),
    ]
    # Widths 2 + 2 + 1 before channels 6 at 8 rows, 1 at 4; depths 2 and 1: variance 1/4; of five layers the
    # mean logarithm is 7 / 5. The channels do not fall.
    entropy = math.log(64 * 6) * 5 + 3 * math.log(16 * 6) * 1
    rho = 5 / math.exp(7 / 5)
    own = FitnessSettings(stages=[1.0, 3.0], effectiveness=2.0, monotonicity=5.0)
    assert fitness(layers, own) == pytest.approx(entropy - 10 * math.exp(0.25) + 2 * rho)
    # Two channels fewer in the last stage.
    fewer = [*layers[:-1], ConvLayer(e, 4, 4, "c")]
    change = 3 * (math.log(16 * 4) - math.log(16 * 6)) - 5 * 2
    assert fitness(fewer, own) - fitness(layers, own) == pytest.approx(change)
    # Depth beyond what the width carries is worth less than anything within the bound.
    bound = FitnessSettings(most_effectiveness=0.9 * rho)
    assert fitness(layers, bound) < -1e8


def test_the_fitness_of_an_architecture_by_hand() -> None:
    """DeepFedNAS's smallest: a block in each of four stages, an eighth of whose channels lie inside."""
    space = make_space("ofa_resnet_width")
    layers = space.conv_layers(space.smallest())
    # Stem 27 = 3 * 9; then 9 * inputs, 9 * inner channels, and inputs for the shortcut.
    widths = [[64, 8], [24, 8], [48, 16], [104, 24]]
    channels, rows = [24, 48, 104, 208], [32, 16, 8, 4]
    logs = [math.log(81 * i * inner * i) for i, inner in widths]
    entropy = sum(math.log(r * r * c) * log for r, c, log in zip(rows, channels, logs, strict=True))
    rho = 13 / math.exp((math.log(27) + sum(logs)) / 13)
    assert fitness(layers, FitnessSettings(effectiveness=1000.0)) == pytest.approx(
        entropy - 10 + 1000 * rho
    )


def test_networks_cost_what_the_published_ones_do() -> None:
    """SuperFedNAS's cache generation bounds them by 458.97 and 3,403.37 million."""
    space = make_space("ofa_resnet")
    assert round(space.macs(space.smallest()), -4) == 458_970_000
    assert round(space.macs(space.largest()), -4) == 3_403_370_000
    wider = make_space("ofa_resnet_width")
    assert wider.macs(wider.largest()) == space.macs(space.largest())


def test_closed_forms_see_the_convolutions_that_run() -> None:
    for space in (SPACE, make_space("ofa_resnet_small", resolution=8)):
        for architecture in (space.smallest(), space.largest()):
            ran = Supernet.conv_layers(space, architecture)
            assert sorted(space.conv_layers(architecture)) == sorted(ran)
            assert {layer.block for layer in ran} >= {"stages.0.0", "stages.2.0"}
    grouped = nn.Sequential(nn.Conv2d(6, 12, 3, groups=3, device="meta"))
    assert conv_layers(grouped, (1, 6, 5, 5)) == [ConvLayer(2 * 9, 12, 3, "")]


def test_a_cache_is_fitter_the_more_it_may_cost(tmp_path: Path) -> None:
    settings = CacheSettings(entries=6, evolution=EVOLUTION)
    cache = ParetoCache(SPACE, settings, seed=0)
    entries, free = cache.entries, TrainingFree(SPACE, FitnessSettings())
    costs, values = [SPACE.cost(one) for one in entries], [free(one) for one in entries]
    assert len(entries) > 2
    assert costs == sorted(costs)
    assert values == sorted(values)
    assert ParetoCache(SPACE, settings, seed=0).entries == entries
    limit = costs[2]
    assert cache.best(lambda one: SPACE.cost(one) <= limit) == entries[2]
    # Better than as many random draws of the same costs.
    rng = np.random.default_rng(1)
    drawn = [SPACE.sample(rng) for _ in range(50)]
    assert values[-1] >= max(free(one) for one in drawn)

    path = tmp_path / "cache.json"
    cache.write(path)
    read = ParetoCache(SPACE, CacheSettings(path=str(path)), seed=7)
    assert read.entries == entries
    other = make_space("elastic_resnet", resolution=8)
    with pytest.raises(RefusedError, match="of space 'elastic_cnn': not of this 'elastic_resnet'"):
        ParetoCache(other, CacheSettings(path=str(path)), seed=0)
    # The same choices in another network cost something else, and are as fit as something else.
    own = {"resolution": 8}
    resnet = make_space("elastic_resnet", **own)  # its tensors are the same at every resolution
    ParetoCache(resnet, CacheSettings(entries=2, evolution=EVOLUTION), seed=0).write(path)
    for changed in ({"resolution": 16}, {"in_channels": 1}, {"widths": [[4, 8], [8, 16]]}):
        other = make_space("elastic_resnet", **(own | changed))
        with pytest.raises(RefusedError, match=r"cache.path=.*cache.json.*of another resolution"):
            ParetoCache(other, CacheSettings(path=str(path)), seed=0)
    stricter = CacheSettings(path=str(path), fitness=FitnessSettings(monotonicity=3.0))
    with pytest.raises(RefusedError, match=r"'monotonicity': 1.0.*'monotonicity': 3.0.*cache.fitn"):
        ParetoCache(resnet, stricter, seed=0)
    with pytest.raises(RefusedError, match="is no absolute path"):
        ParetoCache(SPACE, CacheSettings(path="cache.json"), seed=0)
    with pytest.raises(RefusedError, match="cannot be read as a cache"):
        ParetoCache(SPACE, CacheSettings(path=str(tmp_path / "none.json")), seed=0)


@pytest.mark.parametrize("entry", [99, 0.5])
def test_a_cache_with_a_row_that_is_no_architecture_is_refused(
    tmp_path: Path, entry: float
) -> None:
    row = [entry, *SPACE.smallest().to_list()[1:]]
    path = tmp_path / "cache.json"
    ParetoCache(SPACE, CacheSettings(entries=2, evolution=EVOLUTION), seed=0).write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"entries": [row]}))
    with pytest.raises(RefusedError, match=r"cache.path=.*holds what is no architecture"):
        ParetoCache(SPACE, CacheSettings(path=str(path)), seed=0)


def _fits(architecture: Architecture) -> bool:
    return True


def _given(search: TrackedSandwich, round: int, *clients: str) -> dict[str, Architecture]:
    rngs = {client: np.random.default_rng([round, int(client)]) for client in clients}
    draws = search.draws_of_round(clients, rngs, fits=dict.fromkeys(clients, _fits))
    return {client: drawn[-1] for client, drawn in draws.items()}


def test_the_largest_goes_to_who_had_it_least_often() -> None:
    context = SearchContext(space=SPACE, seed=0, max_draws=5)
    search = TrackedSandwich(settings=SandwichProposalsSettings(cache=None), context=context)
    largest, smallest = SPACE.largest(), SPACE.smallest()
    had = dict.fromkeys("0123", 0)
    for round in range(8):
        given = _given(search, round, "0", "1", "2", "3")
        assert given == _given(search, round, "3", "1", "0", "2")  # whatever their order
        (winner,) = [client for client, one in given.items() if one == largest]
        assert [*given.values()].count(smallest) == 1
        assert had[winner] == min(had.values())
        had[winner] += 1
        seen = [
            Observation(client=c, architecture=one, reward=0.0, advantage=0.0)
            for c, one in given.items()
        ]
        search.observe(seen)
    assert set(had.values()) == {2}
    again = TrackedSandwich(settings=SandwichProposalsSettings(cache=None), context=context)
    again.load_state(search.state())
    assert _given(again, 9, "0", "1") == _given(search, 9, "0", "1")
    # A client that cannot run it is not asked before those that can.
    rngs = {client: np.random.default_rng(int(client)) for client in "01"}
    fits = {"0": lambda one: one != largest, "1": _fits}
    search.observe([Observation(client="1", architecture=largest, reward=0.0, advantage=0.0)])
    assert search.draws_of_round(["0", "1"], rngs, fits=fits)["1"] == [largest]


def test_tiers_hold_what_their_bounds_say() -> None:
    settings = TierSettings(count=3, quantile=0.95, shares=None, by="fitness", evolution=EVOLUTION)
    tiers = Tiers(SPACE, settings, seed=0)
    found = tiers.found(None)
    for (low, high), one in zip(tiers.ranges, found, strict=True):
        assert low < SPACE.cost(one) <= high
    widths = [high - low for low, high in tiers.ranges[1:]]
    assert widths[0] == pytest.approx(widths[1])
    # By shares of the largest, which a cap can have, too; the best by a score is found.
    half = TierSettings(
        count=1, quantile=1.0, shares=[0.5, 1.0], by="validation", evolution=EVOLUTION
    )
    largest = SPACE.cost(SPACE.largest())
    two = Tiers(SPACE, half, seed=0)
    assert [high for _, high in two.ranges] == [0.5 * largest, largest]
    _, top = two.found(lambda ones: np.array([-float(SPACE.cost(one)) for one in ones]))
    assert SPACE.cost(top) > 0.8 * largest
    # Of the costliest, too, of which no uniform draw comes across.
    rare = TierSettings(count=1, quantile=1.0, shares=[0.9, 1.0], by="random", evolution=EVOLUTION)
    small = make_space("ofa_resnet_small", resolution=8)
    _, rarest = Tiers(small, rare, seed=0).found(None)
    assert small.cost(rarest) > 0.9 * small.cost(small.largest())
    none = TierSettings(
        count=1, quantile=1.0, shares=[0.001, 0.002, 1.0], by="random", evolution=EVOLUTION
    )
    with pytest.raises(
        RefusedError, match=r"no architecture for tiers .*: tier 1 \(.*tier 2.*after 200 draws"
    ) as refused:
        Tiers(SPACE, none, seed=0)
    assert len(refused.value.faults) == 1  # whatever number of tiers is empty
