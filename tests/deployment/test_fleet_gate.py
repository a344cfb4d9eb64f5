"""scripts/fleet_gate.py on its own: what it passes on, what it refuses; the SuperLink is a stand-in.

That a real SuperLink is behind it, and SuperNodes in front, is what test_sites_port.py shows.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import Message, Metadata, PushObjectRequest, PushObjectResponse
from flwr.proto.node_pb2 import Node

from scripts import fleet_gate
from tests.deployment.federation import ROOT

Answer = Callable[[httpx.Request], httpx.Response]
NODE = 7


def ok(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, content=b"answer")


def wanted(request: httpx.Request) -> httpx.Response:
    """Answer a push as Flower does: with the objects of a reply that it ordered, with 200 for any."""
    push = PushMessagesRequest.FromString(request.content)
    ordered = push.messages_list[0].metadata.reply_to_message_id in ("asked", "first", "second")
    response = PushMessagesResponse(objects_to_push=["object"] if ordered else [])
    return httpx.Response(200, content=response.SerializeToString())


class Caller:
    """Somebody at the gate; ``passed`` is what got through it to the SuperLink."""

    def __init__(self, answer: Answer = ok) -> None:
        self.passed: list[httpx.Request] = []
        self._answer = answer
        verify = ssl.create_default_context()
        superlink = httpx.MockTransport(self._superlink)
        self._gate = fleet_gate.create_gate(
            "superlink:8000", verify=verify, transport=superlink, largest_reply_mib=1
        )

    def _superlink(self, request: httpx.Request) -> httpx.Response:
        self.passed.append(request)
        return self._answer(request)

    def call(self, method: str, path: str, **content: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self._gate)
            async with httpx.AsyncClient(transport=transport, base_url="https://gate") as client:
                return await client.request(method, path, **content)

        return asyncio.run(send())

    def post(self, name: str, content: bytes) -> httpx.Response:
        return self.call("POST", f"/v1/fleet/{name}", content=content)


def push(*messages: Metadata) -> bytes:
    listed = [Message(metadata=metadata) for metadata in messages]
    return PushMessagesRequest(node=Node(node_id=NODE), messages_list=listed).SerializeToString()


OWN_REPLY = Metadata(src_node_id=NODE, dst_node_id=1, reply_to_message_id="asked")


def test_only_what_the_fleet_api_reads_is_passed_on_and_handed_back() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(401, content=b"no", headers={"flwr-x": "y", "server": "uvicorn"})

    headers = {
        "content-type": "application/protobuf",
        "flwr-signature": "s",
        "x-forwarded-for": "127.0.0.1",
        "authorization": "Bearer t",
        "cookie": "c",
    }
    caller = Caller(answer)
    got = caller.call("POST", "/v1/fleet/get-run?a=b", content=b"\x00body", headers=headers)
    (request,) = caller.passed
    assert (request.method, str(request.url)) == ("POST", "https://superlink:8000/v1/fleet/get-run")
    assert request.content == b"\x00body"
    assert request.headers["content-type"] == "application/protobuf"
    assert request.headers["flwr-signature"] == "s"
    assert not {"x-forwarded-for", "authorization", "cookie"} & set(request.headers)
    assert (got.status_code, got.content) == (401, b"no")
    assert got.headers["flwr-x"] == "y"
    assert "server" not in got.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/control/start-run"),
        ("POST", "/v1/runtime/acquire-task"),
        ("POST", "/v1/fleet/register-node"),  # for nodes without keys; here keys are registered
        ("POST", "/v1/fleet/get-run/"),
        ("GET", "/v1/fleet/get-run"),
        ("POST", "/health"),
    ],
)
def test_anything_else_is_refused_with_a_word_on_whose_port_this_is(
    method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caller = Caller()
    got = caller.call(method, path)
    assert (got.status_code, caller.passed) == (404, [])
    assert got.json() == {"detail": "This port is for SuperNodes; the operator has another one."}
    assert f"127.0.0.1: {method} '{path}': 404" in caplog.text


def test_a_node_that_answers_for_itself_gets_through() -> None:
    caller, body = Caller(wanted), push(OWN_REPLY)
    assert caller.post("push-messages", body).status_code == 200
    assert [request.content for request in caller.passed] == [body]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (push(Metadata(src_node_id=8, reply_to_message_id="asked")), "name of another node"),
        (push(OWN_REPLY, OWN_REPLY), "2 messages in one push"),
        (push(), "0 messages in one push"),
        # 1 is the SuperLink: an order to node 8 that its owner would obey
        (push(Metadata(src_node_id=1, dst_node_id=8)), "name of another node"),
        (push(Metadata(src_node_id=NODE, dst_node_id=8)), "no reply"),
        (b"\xff", "No Flower message"),
    ],
)
def test_a_node_cannot_speak_for_another_or_for_the_server(body: bytes, reason: str) -> None:
    caller = Caller()
    got = caller.post("push-messages", body)
    assert (got.status_code, caller.passed) == (400, [])
    assert reason in got.json()["detail"]


def test_a_body_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_gate, "LARGEST_BODY_MIB", 1)
    caller = Caller()
    assert caller.post("get-run", bytes(2**20)).status_code == 200
    assert caller.post("get-run", bytes(2**20 + 1)).status_code == 413
    assert len(caller.passed) == 1


def piece(content: bytes, node: int = NODE) -> bytes:
    return PushObjectRequest(node=Node(node_id=node), object_content=content).SerializeToString()


def test_a_reply_is_bounded_and_nobody_uses_up_what_is_anothers() -> None:
    most, taken = 2**20 - 100, [True]
    pushed = [0]

    def superlink(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("push-messages"):
            return wanted(request)
        return httpx.Response(200 if taken[0] else 401)

    caller = Caller(superlink)

    def pushes(size: int, node: int = NODE) -> int:
        pushed[0] += 1  # no piece is like another one
        return caller.post("push-object", piece(bytes([pushed[0]]) * size, node)).status_code

    taken[0] = False  # somebody without its key
    assert [pushes(most) for _ in range(3)] == [401] * 3
    taken[0] = True
    pushed[0] -= 1  # a piece that was refused at first counts, as any
    assert pushes(most) == 200
    again = caller.passed[-1].content
    assert pushes(200) == 413
    assert pushes(most, node=8) == 200
    assert caller.post("push-object", again).status_code == 200  # its receipt was lost
    refused = [caller.post("push-object", piece(b"\x00" * 200)) for _ in range(2)][-1]
    assert "Node 7: a reply of more than 1 MiB (--largest-reply-mib)" in refused.json()["detail"]
    for order, status in (
        ("made up", 413),
        ("first", 200),
        ("first", 413),
        ("second", 200),
    ):
        own = Metadata(src_node_id=NODE, dst_node_id=1, reply_to_message_id=order)
        assert caller.post("push-messages", push(own)).status_code == 200
        assert pushes(most) == status
    assert caller.post("push-object", b"\xff").status_code == 400


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (httpx.ConnectError("refused"), 502),
        (httpx.RemoteProtocolError("cut off"), 502),
        (httpx.ReadTimeout("slow"), 504),
    ],
)
def test_a_superlink_that_is_away_is_something_that_supernodes_wait_for(
    problem: Exception, status: int
) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise problem

    assert Caller(answer).post("pull-messages", b"").status_code == status


def test_an_error_of_the_superlinks_own_is_something_that_supernodes_wait_for() -> None:
    caller = Caller(lambda _: httpx.Response(500, content=b"{}"))
    assert caller.post("send-node-heartbeat", b"").status_code == 503


def test_a_piece_whose_receipt_was_lost_is_taken_for_stored() -> None:
    answers = [httpx.Response(500), *[httpx.Response(200, content=b"") for _ in range(3)]]
    caller = Caller(lambda _: answers.pop(0))  # b"": not stored; a piece is taken once
    stored = PushObjectResponse(stored=True).SerializeToString()
    assert caller.post("push-object", piece(b"a")).status_code == 503
    assert caller.post("push-object", piece(b"a")).content == stored
    assert caller.post("push-object", piece(b"b")).content == b""
    assert caller.post("push-messages", push(OWN_REPLY)).content == b""


def test_in_compose_only_the_gate_is_where_sites_and_the_superlink_meet() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    networks = {name: set(service["networks"]) for name, service in services.items()}
    sites = [name for name in services if name.startswith("site-")]
    assert len(sites) == 3
    for site in sites:
        assert not networks[site] & networks["superlink"]
        assert networks[site] & networks["gate"]
        assert "--superlink=gate:8001" in services[site]["command"]
    assert networks["gate"] & networks["superlink"]
    assert all(port.startswith("127.0.0.1:") for port in services["superlink"]["ports"])


@pytest.mark.parametrize("alive", [True, False])
def test_the_superlinks_health_is_that_of_its_helper_too(alive: bool, tmp_path: Path) -> None:
    superlink = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["superlink"]
    *_, code = superlink["healthcheck"]["test"]
    program = tmp_path / ("flower-superexec" if alive else "another")
    program.write_text("import time; time.sleep(60)")
    helper = subprocess.Popen([sys.executable, str(program)])
    try:
        listed = f"['/proc/{helper.pid}/cmdline', '/proc/self/cmdline']"  # it must not find itself
        asked = code.partition("; assert")[2].replace("glob.glob('/proc/[0-9]*/cmdline')", listed)
        while not Path(f"/proc/{helper.pid}/cmdline").read_bytes():
            pass
        done = subprocess.run([sys.executable, "-c", f"import glob; assert{asked}"], check=False)
    finally:
        helper.kill()
        helper.wait()
    assert (done.returncode == 0) == alive
