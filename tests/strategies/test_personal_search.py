"""Stage 2 of HAPFNAS at the server: what it computes, and how often."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from corolla.config.schema import RunConfig
from corolla.launch import plan_run
from corolla.search import predictor_search
from corolla.search.measured import to_choices
from corolla.search.predictor import ForestPredictor
from corolla.search.predictor_search import PersonalSearchSettings
from corolla.settings import settings_of
from corolla.spaces.architecture import Architecture
from corolla.tasks import Reply
from strategies.exchange import Order
from strategies.personal_search import PersonalSearch
from tests.strategies.conftest import federation_of, reply_to, small

CLIENTS = [str(number) for number in range(65)]
SEARCH = [
    "rounds=40",
    "method.personal_search.rounds=null",
    "method.personal_search.subnets_per_exchange=5",
    "method.personal_search.predictor.initial=10",
    "method.personal_search.predictor.front=2",
    "method.personal_search.predictor.forest.min_pairs=4",
    "method.personal_search.predictor.forest.trees=1",
]


def _config(*overrides: str) -> RunConfig:
    return plan_run(small("method=hapfnas", "run_dir=unused", *SEARCH, *overrides)).config


def _search(config: RunConfig, **known: Any) -> PersonalSearch:
    everybody = {"clients": len(CLIENTS), "participants": len(CLIENTS)}
    federation = replace(federation_of(config, **known), **everybody)
    settings = settings_of(PersonalSearchSettings, config.method.settings["personal_search"])
    return PersonalSearch(federation=federation, settings=settings)


def _reply(order: Order, notes: dict[str, Any], **metrics: float) -> Reply:
    return reply_to(order.task, {}, 1, metrics=metrics, notes=notes)


def _lists(architectures: Sequence[Architecture]) -> dict[str, list[float]]:
    losses = [1.0 + 0.01 * sum(one.choices) for one in architectures]
    return {"losses": losses, "accuracies": [0.5] * len(losses)}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    counts = {"fits": 0, "draws": 0}
    fit, draw = ForestPredictor.fit, predictor_search.draw_accepted

    def count_fit(self: ForestPredictor, measured: Any) -> None:
        counts["fits"] += 1
        fit(self, measured)

    def count_draw(*arguments: Any, **named: Any) -> list[Architecture]:
        counts["draws"] += 1
        return draw(*arguments, **named)

    monkeypatch.setattr(ForestPredictor, "fit", count_fit)
    monkeypatch.setattr(predictor_search, "draw_accepted", count_draw)
    return counts


def test_the_server_draws_and_learns_once_for_each_of_many_clients(counted: dict[str, int]) -> None:
    search = _search(_config("method.personal_search.where=server"))
    weights = search.space.initial_state(0)
    width = len(search.space.dimensions)
    exchanges = 0
    while cohort := search.cohort(exchanges, CLIENTS):
        orders = search.orders(weights, exchanges, cohort)
        asked = [len(order.task.extra["choices"]) // width for order in orders]
        assert set(asked) == {(5, 5, 2)[exchanges]}
        exchanges += 1
        search.absorb(
            [
                _reply(
                    order,
                    _lists(
                        [
                            Architecture.of(
                                order.task.extra["choices"][i * width : (i + 1) * width]
                            )
                            for i in range(count)
                        ]
                    ),
                )
                for order, count in zip(orders, asked, strict=True)
            ]
        )
    assert exchanges == 3
    # One population a client, one forest for its front, and one without the held-out fifth.
    assert counted == {"draws": 65, "fits": 2 * 65}
    assert not search._courses  # nothing is kept of searches that are over


def test_where_clients_search_the_server_only_averages_what_they_say(
    counted: dict[str, int],
) -> None:
    search = _search(_config())
    space = search.space
    orders = search.orders(space.initial_state(0), 1, CLIENTS)
    found = [space.smallest(), space.largest()]
    notes = {"choices": to_choices(found), **_lists(found)}
    said = [{"predictor_kendall": 0.25}, {"predictor_kendall": 0.75, "front_spearman": -1.0}]
    lies = [{"predictor_kendall": 7.0}, {"predictor_kendall": math.nan, "front_kendall": -1.1}]
    told = [*said, *lies, *[{}] * 61]
    record = search.absorb(
        [_reply(order, notes, **metrics) for order, metrics in zip(orders, told, strict=True)]
    )
    assert counted == {"draws": 0, "fits": 0}
    assert record == {"searched": 65, "predictor_kendall": 0.5, "front_spearman": -1.0}
    assert {search.architecture(client) for client in CLIENTS} == {space.smallest()}


def test_what_was_found_under_other_limits_is_left_for_what_fits() -> None:
    search = _search(_config())
    space = search.space
    (order,) = search.orders(space.initial_state(0), 1, ["0"])
    measured = [space.largest(), space.middle(), space.smallest()]
    notes = {"choices": to_choices(measured), "losses": [1.0, 1.5, 2.0], "accuracies": [0.5] * 3}
    search.absorb([_reply(order, notes)])
    assert search.architecture("0") == space.largest()
    for cap, expected in ((space.macs(space.middle()), 1), (space.macs(space.middle()) - 1, 2)):
        search.federation = replace(search.federation, caps={"0": float(cap)})
        assert search.architecture("0") == measured[expected]


def test_the_costliest_control_uses_the_limits_up() -> None:
    search = _search(_config("method.personal_search.by=costliest"))
    space = search.space
    assert search.architecture("0") == space.largest()
    low, high = space.macs(space.smallest()), space.macs(space.largest())
    cap = low + (high - low) / 3
    search.federation = replace(search.federation, caps={"0": cap})
    assert 0.9 * cap <= space.macs(search.architecture("0")) <= cap
