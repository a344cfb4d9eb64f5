"""A method that fails half-way through a round's replies is put back, whatever it had done by then."""

from __future__ import annotations

from collections.abc import Sequence
from unittest import mock

import pytest

from corolla.tasks import Reply
from strategies.base import Outcome
from tests.conftest import quick
from tests.fuzz.recording import FEDERATIONS, federation, outcome
from tests.fuzz.test_replies import QUICK_METHOD
from tests.states import differences


@pytest.mark.parametrize("name", quick(FEDERATIONS, QUICK_METHOD))
def test_a_reply_that_breaks_the_method_leaves_no_trace(name: str) -> None:
    known = federation(name)
    strategy = known.strategy
    absorb = strategy.absorb

    breaks = ""

    def breaking(server_round: int, replies: Sequence[Reply]) -> Outcome:
        found = absorb(server_round, replies)
        if any(reply.client == breaks for reply in replies):
            raise LookupError("after all was done")
        return found

    rounds = [one for one in known.exchanges if one.kind == "train"]
    assert rounds
    for recorded in rounds:
        breaks, *others = sorted(recorded.replies)
        honest = [recorded.replies[client] for client in others]
        known.begin(recorded)
        strategy.aggregate_train(recorded.server_round, honest)
        expected, line = known.snapshot(), outcome(known, recorded)
        known.begin(recorded)
        with mock.patch.object(strategy, "absorb", breaking):
            strategy.aggregate_train(recorded.server_round, [*recorded.replies.values()])
        report = strategy.report
        assert report is not None
        (failure,) = report.failures
        assert failure.client == breaks
        assert failure.reason.endswith("cannot be absorbed: LookupError: after all was done")
        assert not differences(strategy.state(), expected)
        assert outcome(known, recorded) == line
