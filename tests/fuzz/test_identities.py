"""Identities that a node, or its network, spoiled: only that node is ignored."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from flwr.app import ArrayRecord, Error, RecordDict

from corolla.limits.caps import DataSizeCap, SpeedCap, with_caps
from corolla.limits.client_limits import limits_of
from corolla.records.client_names import client_of, directory_name
from corolla.types import client_order, client_seed
from strategies.node_roster import NodeRoster
from tests.conftest import make_space
from tests.fuzz.mutations import NUMBERS, ODD, TEXTS, TRICKY_NAMES
from tests.strategies.test_identity import _Saying

RIGHT: dict[str, Any] = {
    "client": "site-b",
    "num_examples": [80, 10, 10],
    "memory_budget_mib": 64.0,
    "macs_cap": 5e6,
    "macs_per_s": 1e9,
}
NAMES = (
    "",
    "site-a",
    "7",
    "007",
    "9" * 18,
    "9" * 19,
    "9" * 5000,
    "٣",
    "..",
    ".",
    "a/b",
    " ",
    "ü" * 99,
)


def _mutated(rng: random.Random) -> Any:
    kind = rng.random()
    if kind < 0.05:
        return Error(rng.randrange(-1, 12), rng.choice(TEXTS))
    if kind < 0.08:
        return RecordDict(rng.choice([{}, {"info": ArrayRecord()}, {"more": ArrayRecord()}]))
    said = dict(RIGHT)
    for _ in range(rng.choice((1, 1, 2, 3))):
        key = rng.choice([*said, *said, *TRICKY_NAMES])
        kind = rng.random()
        if kind < 0.15:
            said.pop(key, None)
        elif key == "client" and kind < 0.6:
            said[key] = rng.choice(NAMES)
        elif key == "num_examples" and kind < 0.7:
            sizes = [80, 10, 10]
            sizes[rng.randrange(3)] = rng.choice((*NUMBERS, True, None, "8", []))
            said[key] = rng.choice([sizes, sizes[:2], [*sizes, 1], sizes[::-1]])
        else:
            said[key] = rng.choice((*NUMBERS, *NUMBERS, *TEXTS, *ODD))
    return said


def _attack(seeds: range) -> None:
    space = make_space("mobilenetv2_8")
    rules = [
        None,
        DataSizeCap(unit="range", low_margin=0.1, high_margin=0.0, step=0.1),
        SpeedCap(latency_ms=1.0, batch_size=1),
    ]
    ignored = 0
    for seed in seeds:
        rng = random.Random(seed)
        late = rng.random() < 0.5
        grid = _Saying(_mutated(rng), there=not late, registered=rng.choice(["", "", "site-b"]))
        roster = NodeRoster(expected=1, deadline_s=1)
        if late:
            roster.nodes(grid)
            grid.join()
        nodes = roster.nodes(grid)
        assert nodes.pop("site-a") == 3, seed
        assert list(nodes.values()) in ([], [7]), seed
        ignored += not nodes
        facts = {client: roster.facts(client) for client in roster.clients()}
        for client, known in facts.items():
            assert client_seed(client) >= 0
            assert client_of(directory_name(client)) == client
            assert set(known) <= {*RIGHT} - {"client"}
        assert sorted(facts, key=client_order) == roster.clients()
        for rule in rules:
            limits = limits_of(with_caps(facts, rule, space=space, sizes={"site-a": 8}))
            values = (*limits.budgets.values(), *limits.caps.values())
            assert all(math.isfinite(value) and value >= 0 for value in values), seed
    assert len(seeds) / 4 < ignored < len(seeds)  # some are as good as new, many are not


def test_a_hundred_identities() -> None:
    _attack(range(100))


@pytest.mark.slow
def test_thousands_of_identities() -> None:
    _attack(range(300, 3300))
