"""The one file that knows Flower's private modules."""

from __future__ import annotations

import httpx
import pytest
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.supercore.heartbeat import HeartbeatFailure, HeartbeatSender
from flwr.supercore.runtime import RuntimeHttpClient

from clients import flower_internals
from clients.flower_internals import outlive_errors


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
