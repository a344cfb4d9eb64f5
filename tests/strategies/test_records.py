"""Which first rounds end a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from corolla.errors import RunFailedError
from corolla.tasks import Failure
from strategies.running.records import FirstReplies
from strategies.waiting import LOST, NOT_SENT, RESTARTED, UNFINISHED


def _round(**reasons: str) -> Any:
    return SimpleNamespace(failures=[Failure(client, reason) for client, reason in reasons.items()])


@pytest.mark.parametrize("reason", [LOST, NOT_SENT, RESTARTED, UNFINISHED])
def test_first_rounds_that_are_lost_on_the_way_end_no_run(reason: str) -> None:
    FirstReplies().check(_round(a=f"error 5: {reason}", b=f"error 6: {reason}"), 2)


def test_a_round_that_all_fail_for_one_reason_does() -> None:
    FirstReplies().check(_round(a="3 images", b="no file"), 2)
    with pytest.raises(RunFailedError, match=r"all 2 clients .* 3 images"):
        FirstReplies().check(_round(a="3 images", b="4 images"), 2)


def test_a_client_that_is_asked_alone_ends_nobody_elses_run() -> None:
    first = FirstReplies()
    for client in "abab":
        first.check(_round(**{client: "a lie"}), 3)
    with pytest.raises(RunFailedError, match="all 3 clients"):
        first.check(_round(c="a lie"), 3)
    with pytest.raises(RunFailedError, match="all 5 clients"):
        FirstReplies().check(_round(**dict.fromkeys("abcde", "no images")), 100)
