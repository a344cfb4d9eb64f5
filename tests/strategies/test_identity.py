"""What nodes say of themselves: one that says nonsense is ignored by name, and nobody else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict

from corolla.limits.caps import DataSizeCap, SpeedCap, with_caps
from corolla.limits.client_limits import limits_of
from strategies.node_roster import NodeRoster
from tests.conftest import make_space
from tests.strategies.test_roster import _Nodes

GOOD: dict[str, Any] = {"client": "site-b", "num_examples": [8, 1, 1]}
_LEFT_OUT: Any = object()


class _Saying(_Nodes):
    """Node 3 says what is right; node 7 what it likes, as soon as it is there."""

    def __init__(self, said: Any, *, there: bool = True, registered: str = "") -> None:
        super().__init__({3: "site-a", 7: "site-b"} if there else {3: "site-a"})
        self.registered = {7: registered} if registered else {}
        self.said = said

    def join(self) -> None:
        self.names[7] = "site-b"

    def answer(self, message: Message) -> Message:
        if message.metadata.dst_node_id != 7:
            return super().answer(message)
        if isinstance(self.said, Exception):
            raise self.said
        content = self.said
        if isinstance(content, Error):
            return Message(content, reply_to=message)
        if isinstance(content, dict):
            info = ConfigRecord()
            info.__dict__["_data"].update(content)  # past Flower's own checks
            content = RecordDict({"info": info})
        return Message(content, reply_to=message)


def _but(**changes: Any) -> dict[str, Any]:
    return {k: v for k, v in (GOOD | changes).items() if v is not _LEFT_OUT}


BAD = {
    "no message": (KeyError("no such class"), "its answer is not a message: KeyError"),
    "an error": (Error(2, "a" * 10**6 + "\n\x1b[31mno data"), "takes no part: [31mno data"),
    "what its client raised": (
        Error(2, "<class 'clients.client_app.SiteRefusedError'>:<'the site (data-dir)'>"),
        "takes no part: the site (data-dir)",
    ),
    "no info": (RecordDict({}), "holds no `info`"),
    "arrays": (RecordDict({"info": ArrayRecord()}), "holds no `info`"),
    "no sizes": (_but(num_examples=_LEFT_OUT), "num_examples must be three numbers"),
    "sizes as text": (_but(num_examples="811"), "num_examples must be three numbers"),
    "two sizes": (_but(num_examples=[8, 1]), "num_examples must be three numbers"),
    "a size of NaN": (_but(num_examples=[math.nan, 1.0, 1.0]), "of train: nan must be a whole"),
    "a negative size": (_but(num_examples=[8, -1, 1]), "of validation: -1 must lie in"),
    "too many": (_but(num_examples=[10**12, 1, 1]), "of train: 1000000000000 must lie in"),
    "nothing to train on": (_but(num_examples=[0, 1, 1]), "it has no training images"),
    "a budget as text": (_but(memory_budget_mib="64"), "memory_budget_mib: '64' must be a number"),
    "a budget of NaN": (_but(memory_budget_mib=math.nan), "nan must be finite"),
    "a cap below 0": (_but(macs_cap=-1.0), "macs_cap: -1.0 must lie in"),
    "a list as a cap": (_but(macs_cap=[1.0]), "macs_cap: [1.0] must be a number"),
    "a speed": (_but(macs_per_s=math.inf), "macs_per_s: inf must be finite"),
    "a number as name": (_but(client=7), "its name must be a text"),
    "5,000 digits": (_but(client="9" * 5000), "must be 100 printable"),
    "99 digits": (_but(client="9" * 99), "must have 18 digits"),
    "other digits": (_but(client="٣"), "must have 18 digits 0-9"),
    "a line": (_but(client="site\nround 1: all is well"), "must be 100 printable"),
    "blanks": (_but(client=" site-a"), "no blanks around them"),
    "a name beyond folders": (_but(client="ü" * 90), "as a file name"),
}


@pytest.mark.parametrize("late", [False, True], ids=["from the start", "late"])
@pytest.mark.parametrize("kind", BAD)
def test_a_node_that_says_nonsense_is_ignored_by_name(
    kind: str, late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    said, problem = BAD[kind]
    grid = _Saying(said, there=not late, registered="key-of-7" if "name" not in kind else "")
    roster = NodeRoster(expected=1, deadline_s=1)
    if late:
        assert roster.nodes(grid) == {"site-a": 3}
        grid.join()
    for _ in range(2):  # the second time is no news
        assert roster.nodes(grid) == {"site-a": 3}
    assert roster.clients() == ["site-a"]
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    called = grid.registered.get(7, "node 7")
    assert warning.startswith(called)
    assert "node 7" in warning
    assert list(roster.unusable()) == [called]
    assert warning.endswith(f" takes no part: {roster.unusable()[called]}")
    assert problem in warning
    assert len(warning) < 500
    assert warning.isprintable()


def test_what_nobody_asked_for_is_not_kept() -> None:
    more = {"architecture": "x", "params": 1, "test_accuracy": 1.0, "choices": [1], "seed": "y"}
    roster = NodeRoster(expected=2, deadline_s=1)
    roster.nodes(_Saying(_but(**more, macs_cap=5e6)))
    sizes = {"train": 8, "validation": 1, "test": 1}
    assert roster.facts("site-b") == {"num_examples": sizes, "macs_cap": 5e6}


def test_whatever_is_taken_gives_limits(caplog: pytest.LogCaptureFixture) -> None:
    """The ends of all ranges, through every rule that makes caps of them."""
    space, facts = make_space("mobilenetv2_8"), {}
    for number, said in enumerate(_ends()):
        roster = NodeRoster(expected=2, deadline_s=1)
        roster.nodes(_Saying(_but(**said)))
        facts[str(number)] = dict(roster.facts("site-b"))
    assert len(facts) == len(list(_ends()))
    size = DataSizeCap(unit="range", low_margin=0.1, high_margin=0.0, step=0.1)
    for rule in (None, size, SpeedCap(latency_ms=1.0, batch_size=1)):
        limits = limits_of(with_caps(facts, rule, space=space, sizes={}))
        for value in (*limits.budgets.values(), *limits.caps.values()):
            assert math.isfinite(value)
            assert value >= 0


def _ends() -> Iterable[dict[str, Any]]:
    for train in (1, 10**9):
        yield {"num_examples": [train, 0, 0]}
    for key, ends in (
        ("memory_budget_mib", (1e-6, 1e18)),
        ("macs_cap", (1, 1e18)),
        ("macs_per_s", (0, 1e18)),
    ):
        for end in ends:
            yield {key: end}
