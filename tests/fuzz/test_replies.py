"""Replies that a client, or its network, spoiled: only the client fails, and by name.

Real replies of real tiny clients are mutated by seed (`tests.fuzz.mutations`), and one round is repeated with
them again and again. To see one mutation again: give its seed to `_attack`.
"""

from __future__ import annotations

import math
import random
from functools import cache
from typing import Any

import numpy as np
import pytest

from clients.wire import declared
from corolla.state import State
from corolla.tasks import AS_IS, STATISTICS, Failure, Reply
from strategies.running.pooled import pooled, statistics_together
from tests.conftest import quick
from tests.fuzz.mutations import mutated
from tests.fuzz.recording import (
    FEDERATIONS,
    Federation,
    Recorded,
    assert_finite,
    federation,
    outcome,
)
from tests.states import differences

QUICK, ALL = 100, 10_000
QUICK_METHOD = "perfedrlnas"


def test_a_hundred_replies() -> None:
    _attack(QUICK_METHOD, range(QUICK))


# scope="module": all tests of a federation follow each other, so that one process records it, once.
@pytest.mark.parametrize("name", quick(FEDERATIONS, QUICK_METHOD), scope="module")
def test_an_honest_client_says_nothing_that_nobody_asked_for(name: str) -> None:
    assert federation(name).unasked == frozenset()


@pytest.mark.slow
@pytest.mark.parametrize("name", FEDERATIONS, scope="module")
def test_thousands_of_replies(name: str) -> None:
    count = -(-ALL // len(FEDERATIONS))
    _attack(name, range(QUICK, QUICK + count))


@pytest.mark.slow
@pytest.mark.parametrize("name", FEDERATIONS, scope="module")
def test_rounds_in_which_nobody_is_honest(name: str) -> None:
    """All replies of a round are spoiled: whatever is taken of them, the state stays finite."""
    known = federation(name)
    for seed in range(60):
        rng = random.Random(f"all {seed}")
        recorded = rng.choice(known.exchanges)
        replies = [
            arrived
            for client, reply in recorded.replies.items()
            for arrived in mutated(reply, rng, _others(known, recorded, client))
        ]
        _round(known, recorded, replies)


def _attack(name: str, seeds: range) -> None:
    known = federation(name)
    for seed in seeds:
        rng = random.Random(seed)
        recorded = rng.choice(known.exchanges)
        victim = rng.choice(sorted(recorded.replies))
        others = [reply for client, reply in recorded.replies.items() if client != victim]
        arrived = mutated(recorded.replies[victim], rng, _others(known, recorded, victim))
        replies = [*others, *arrived]
        rng.shuffle(replies)
        try:
            _check(known, recorded, victim, replies)
        except BaseException as error:
            error.add_note(f"{name}: seed {seed}, {recorded.kind} of round {recorded.server_round}")
            raise


def _check(known: Federation, recorded: Recorded, victim: str, replies: list[Any]) -> None:
    honest = set(recorded.replies) - {victim}
    valid, failures = _round(known, recorded, replies)
    assert {failure.client for failure in failures} <= {victim}, failures
    assert {reply.client for reply in valid} >= honest
    _check_answers(recorded, victim, replies, valid)
    if not failures:
        return
    without = _without(known, known.exchanges.index(recorded), victim)
    told = {failure.kind for failure in failures} - {None}
    if (
        recorded.kind == "train" and not told
    ):  # what a client says of itself, its own policy may learn
        assert not differences(known.strategy.state(), without[0])
        assert outcome(known, recorded) == without[1]
    assert [r.metrics for r in valid] == without[2]


def _check_answers(recorded: Recorded, victim: str, replies: list[Any], valid: list[Reply]) -> None:
    """What was taken of the victim answers the order that its honest reply answered, in usable numbers."""
    right = recorded.replies[victim]
    address = right.metadata.reply_to_message_id
    for reply in valid:
        if reply.client != victim:
            continue
        taken = next(m for m in replies if m.metadata.reply_to_message_id == address)
        for key in ("client", "round", "architecture"):
            assert taken.content["info"][key] == right.content["info"][key], key
        wanted = {n: tuple(array.shape) for n, array in _arrays(right).items()}
        assert {n: tuple(array.shape) for n, array in _arrays(taken).items()} == wanted
        # What never travelled (private parts) was put back as it is at the server.
        assert {n: array.shape for n, array in reply.arrays.items()}.items() >= wanted.items()
        for name, array in reply.arrays.items():
            assert array.dtype.kind == "f", name
            assert np.all(np.abs(array) <= 1e18), name


def _arrays(message: Any) -> dict[str, Any]:
    content = message.content
    return declared(content["arrays"]) if "arrays" in content else {}


def _round(
    known: Federation, recorded: Recorded, replies: list[Any]
) -> tuple[list[Reply], list[Failure]]:
    """Carry out what a round, or an evaluation, does with replies; check what must hold of any."""
    known.begin(recorded)
    strategy, server_round = known.strategy, recorded.server_round
    if recorded.kind != "train":
        valid, failures = strategy.sorted_replies(replies)
        if valid and recorded.kind == STATISTICS:
            sent = {name: np.ones_like(array) for name, array in valid[0].arrays.items()}
            together = statistics_together(sent, valid, rule=strategy.federation.robust)
            assert_finite(State(together, {}), ())
        elif valid and recorded.kind == AS_IS:
            assert 0 <= pooled(valid, known.run._facts)["test_accuracy"] <= 1
        elif valid and recorded.kind == "deploy":
            _check_summary(known.summary(valid, failures), valid)
        elif valid:
            _check_summary(
                {"per_client": {r.client: {} for r in valid}, **known.scores(valid)}, valid
            )
    else:
        strategy.aggregate_train(server_round, replies)
        report = strategy.report
        assert report is not None
        valid, failures = report.replies, report.failures
        _check_records(known, server_round, valid)
        assert_finite(strategy.state(), strategy.may_be_infinite)
        # The next round can begin, and everybody has something to deploy.
        clients = sorted(recorded.replies)
        orders = strategy.orders(server_round + 1, clients)
        for one in (*orders, *(strategy.deployed(client) for client in clients)):
            assert_finite(State(one.arrays, {}), ())
    assert all(len(f.reason) <= 300 and f.reason.isprintable() for f in failures)
    return valid, failures


def _check_records(known: Federation, server_round: int, valid: list[Reply]) -> None:
    *rows, line = known.records(server_round)
    assert line["round"] == server_round
    assert line["participants"] == [reply.client for reply in valid]
    assert [row["client"] for row in rows] == line["participants"]
    examples = known.strategy.roster
    assert examples is not None
    for row, reply in zip(rows, valid, strict=True):
        assert row["round"] == server_round
        assert row["architecture"] == reply.architecture.to_list()
        sizes = examples.facts(reply.client)["num_examples"]
        assert 1 <= row["num_examples"] <= sizes["train"] + sizes["validation"]
        assert row["params"] == known.strategy.space.costs(reply.architecture, batch_size=32).params
        for key, value in row.items():
            if key.endswith("_accuracy"):
                assert 0 <= value <= 1


def _check_summary(summary: dict[str, Any], valid: list[Reply]) -> None:
    clients = {reply.client for reply in valid}
    assert set(summary["per_client"]) == clients
    for part in (summary, summary.get("global", {}), summary.get("fine_tuned", {})):
        for key in ("val_accuracy", "test_accuracy"):
            if key in part:
                assert set(part[key]["per_client"]) == clients
                assert all(0 <= value <= 1 for value in part[key]["per_client"].values())
                assert math.isfinite(part[key]["std"])


@cache
def _without_of(name: str) -> dict[tuple[int, str], Any]:
    return {}


def _without(known: Federation, number: int, victim: str) -> Any:
    """Return state, record and the others' metrics of the same exchange without the victim's answer."""
    found = _without_of(str(id(known)))
    if (number, victim) not in found:
        recorded = known.exchanges[number]
        replies = [reply for client, reply in recorded.replies.items() if client != victim]
        now, report = known.snapshot(), known.strategy.report
        valid, failures = _round(known, recorded, replies)
        assert [failure.client for failure in failures] == [victim]
        line = outcome(known, recorded) if recorded.kind == "train" else None
        found[number, victim] = (known.snapshot(), line, [reply.metrics for reply in valid])
        known.begin(recorded)
        known.strategy.load_state(now)
        known.strategy.report = report
    return found[number, victim]


def _others(known: Federation, recorded: Recorded, victim: str) -> list[Any]:
    """Return replies that the victim might send instead: its own of other rounds, others' of this one."""
    own = [one.replies[victim] for one in known.exchanges if victim in one.replies]
    return [*own, *recorded.replies.values()]
