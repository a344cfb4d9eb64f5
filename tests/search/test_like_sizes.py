"""Random architectures of given sizes, and the control by lot that takes its sizes from a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corolla.errors import RefusedError
from corolla.launch import plan_run
from corolla.records.run_directory import RunDirectory
from corolla.search.equal_cost import draw_of_cost
from corolla.search.proposals.like_sizes import LikeSizes, LikeSizesSettings
from corolla.search.proposals.protocol import SearchContext
from corolla.spaces.architecture import Dimension
from corolla.spaces.space import SearchSpace
from corolla.types import generator
from tests.strategies.conftest import run, small

SPACE = SearchSpace(
    name="four", dimensions=tuple(Dimension(name, (0, 1, 2, 3, 4)) for name in "abcd")
)  # its cost is the sum of the choices
TIERS = ["cap=tiers", "cap.shares=[1,0.6]"]
SEARCH = ["method=perfednas", "rounds=2", "evaluation.fine_tune_epochs=0", *TIERS]


@pytest.mark.parametrize("cost", [1, 8, 16])
def test_draws_have_the_cost_and_differ(cost: int) -> None:
    drawn = {
        draw_of_cost(SPACE, cost, fits=lambda _: True, rng=generator(seed), tolerance=0.05)
        for seed in range(20)
    }
    assert {sum(one.choices) for one in drawn} == {cost}
    assert len(drawn) == {1: 4, 16: 1}.get(cost, len(drawn))  # all that there are
    assert len(drawn) > 10 or cost != 8


def test_what_cannot_be_had_is_the_nearest_that_fits() -> None:
    rng, fits = generator(0), lambda one: sum(one.choices) <= 5
    assert sum(draw_of_cost(SPACE, 12, fits=fits, rng=rng, tolerance=0.05).choices) == 5
    none = draw_of_cost(SPACE, 12, fits=lambda _: False, rng=rng, tolerance=0.05)
    assert none == SPACE.smallest()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    folder = tmp_path_factory.mktemp("searched") / "run"
    return run(folder, *SEARCH, "method/proposals=uniform", "method.settle=0.5")


def test_sizes_are_those_of_the_search_within_each_cap(
    searched: RunDirectory, tmp_path: Path
) -> None:
    lot = ["method/proposals=like_sizes", f"method.proposals.run={searched.path}"]
    again = run(tmp_path / "lot", *SEARCH, *lot, "method.settle=0.5")

    def by_cap(directory: RunDirectory) -> dict[float, list[int]]:
        found: dict[float, list[int]] = {}
        for entry in directory.summary()["per_client"].values():
            found.setdefault(entry["macs_cap"], []).append(entry["macs"])
        return {cap: sorted(sizes) for cap, sizes in found.items()}

    theirs, ours = by_cap(searched), by_cap(again)
    assert theirs.keys() == ours.keys()
    for cap, sizes in theirs.items():
        np.testing.assert_allclose(ours[cap], sizes, rtol=0.06)
        assert max(ours[cap]) <= cap
    kept = {c: entry["choices"] for c, entry in again.summary()["per_client"].items()}
    old = {c: entry["choices"] for c, entry in searched.summary()["per_client"].items()}
    assert kept != old
    caps = {c: entry["macs_cap"] for c, entry in searched.summary()["per_client"].items()}
    proposed = [(row["client"], row["macs"]) for row in searched.clients() if row["round"] == 1]
    for row in again.clients():
        if row["round"] == 1:  # the other round trains what is deployed
            pool = [macs for client, macs in proposed if caps[client] == caps[row["client"]]]
            assert min(abs(row["macs"] / macs - 1) for macs in pool or [row["macs"]]) < 0.06


def test_clients_of_later_draw_from_all_and_draws_are_repeatable(searched: RunDirectory) -> None:
    space = plan_run(small("run_dir=unused")).space
    context = SearchContext(space=space, seed=0, max_draws=20)
    settings = LikeSizesSettings(run=str(searched.path), tolerance=0.05)
    one, two = (LikeSizes(settings=settings, context=context) for _ in range(2))
    anything: Any = lambda _: True  # noqa: E731
    assert one.chosen("99", fits=anything) == two.chosen("99", fits=anything)
    sizes = [entry["macs"] for entry in searched.summary()["per_client"].values()]
    drawn = space.costs(one.chosen("99", fits=anything)).macs
    assert min(abs(drawn / size - 1) for size in sizes) < 0.06


@pytest.mark.parametrize(
    ("run_dir", "overrides", "said"),
    [
        ("null", [], r"proposals\.run=None: no run is given whose"),
        ("/nowhere", [], r"method\.proposals\.run='/nowhere': no such directory"),
        ("SEARCHED", ["space=elastic_resnet"], "its space is not that of this run"),
    ],
)
def test_what_is_refused(
    run_dir: str, overrides: list[str], said: str, searched: RunDirectory
) -> None:
    given = f"method.proposals.run={run_dir.replace('SEARCHED', str(searched.path))}"
    with pytest.raises(RefusedError, match=said):
        plan_run(small(*SEARCH, "method/proposals=like_sizes", given, *overrides, "run_dir=unused"))
