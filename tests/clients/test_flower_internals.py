"""The one file that knows Flower's private modules."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.supercore.heartbeat import HeartbeatFailure, HeartbeatSender
from flwr.supercore.runtime import RuntimeHttpClient

from clients import flower_internals
from clients.flower_internals import outlive_errors

ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(
    r"\s*(?:from|import) flwr\.((supercore|proto|common|server|superlink)\b|\w+\.\w)"
)


def test_nothing_else_imports_private_modules_of_flower() -> None:
    files = [
        p for part in ("strategies", "clients", "engines") for p in (ROOT / part).rglob("*.py")
    ]
    found = {
        path.name
        for path in files
        for line in path.read_text().splitlines()
        if PRIVATE.match(line) and line.split()[1] != "flwr.serverapp.strategy"
    }
    assert found == {"flower_internals.py"}


@pytest.fixture
def outliving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process outlive errors, for as long as the test takes."""
    monkeypatch.setattr(HeartbeatSender, "_heartbeat", HeartbeatSender._heartbeat)
    for name in flower_internals._REPEATABLE:
        monkeypatch.setattr(RuntimeHttpClient, name, getattr(RuntimeHttpClient, name))
    monkeypatch.setattr(flower_internals, "_LONGEST_S", 0.0)
    outlive_errors()
    changed = HeartbeatSender._heartbeat
    outlive_errors()
    assert HeartbeatSender._heartbeat is changed


@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, None), (500, HeartbeatFailure), (503, HeartbeatFailure), (412, httpx.HTTPStatusError)],
)
def test_a_heartbeat_that_the_superlink_stumbles_over_is_sent_again(
    status: int, expected: type[Exception] | None, outliving: None
) -> None:
    def beat() -> bool:
        httpx.Response(status, request=httpx.Request("POST", "http://superlink")).raise_for_status()
        return True

    sender = HeartbeatSender(beat)
    if expected is None:
        sender._heartbeat()
    else:
        with pytest.raises(expected):  # Flower tries again after HeartbeatFailure, and only then
            sender._heartbeat()


@pytest.mark.parametrize(("failures", "status"), [(7, 500), (8, 500), (1, 404)])
def test_a_piece_of_an_answer_is_asked_for_again(
    failures: int, status: int, outliving: None
) -> None:
    asked = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        good = PullObjectResponse(object_found=True, object_content=b"x").SerializeToString()
        return httpx.Response(status) if asked <= failures else httpx.Response(200, content=good)

    client = RuntimeHttpClient("http://superlink")
    client._client = httpx.Client(transport=httpx.MockTransport(answer))
    if failures == 7:
        assert client.PullObject(PullObjectRequest()).object_content == b"x"
    else:
        with pytest.raises(httpx.HTTPStatusError):
            client.PullObject(PullObjectRequest())
    assert asked == min(failures + 1, 8 if status == 500 else 1)
