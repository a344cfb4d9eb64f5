"""Which first rounds end a run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from corolla.errors import RunFailedError
from corolla.tasks import Failure
from strategies.running.records import stop_if_all_failed_alike
from strategies.waiting import LOST, NOT_SENT, RESTARTED, UNFINISHED


@pytest.mark.parametrize("reason", [LOST, NOT_SENT, RESTARTED, UNFINISHED])
def test_a_first_round_that_was_lost_on_the_way_ends_no_run(reason: str) -> None:
    failures = [Failure(client, f"error 5: {reason}") for client in ("a", "b")]
    stop_if_all_failed_alike(SimpleNamespace(replies=[], failures=failures))  # type: ignore[arg-type]


def test_one_that_all_clients_failed_for_one_reason_does() -> None:
    failures = [Failure("a", "3 images"), Failure("b", "4 images")]
    with pytest.raises(RunFailedError, match="3 images"):
        stop_if_all_failed_alike(SimpleNamespace(replies=[], failures=failures))  # type: ignore[arg-type]
