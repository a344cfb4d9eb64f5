"""Sites reach the SuperLink through scripts/fleet_gate.py, and through it nothing that is the operator's.

Real processes, the gate as compose.yaml and docs/deployment.md start it. That whole runs go through
it, with sites that die and come back, is what test_processes.py shows.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator

import httpx
import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata
from flwr.proto.node_pb2 import Node

from tests.deployment.federation import ROOT, Federation, lines, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
SITE = "site-a"
INTRUDER = "intruder"
PROTOBUF = {"content-type": "application/protobuf"}
REPLY = Message(metadata=Metadata(src_node_id=1, dst_node_id=2, reply_to_message_id="order"))
PUSH = PushMessagesRequest(node=Node(node_id=1), messages_list=[REPLY])
BODIES = {"/v1/fleet/push-messages": PUSH.SerializeToString()}  # the gate refuses a push of nothing


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    federation = Federation(tmp_path_factory.mktemp("federation"), [SITE], warm=True)  # as shipped
    try:
        federation.start()
        federation.connect(INTRUDER, federation.sites_port)
        yield federation
    finally:
        federation.close()


@pytest.fixture
def certificates(federation: Federation) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(federation.ca_certificate))


def runs(federation: Federation) -> dict[str, str]:
    """Return the status of each run that the operator sees."""
    return {str(run["run-id"]): run["status"] for run in federation.flwr("list")["runs"]}


def test_a_run_goes_on_while_a_site_tries_what_only_the_operator_may(
    federation: Federation,
) -> None:
    run_dir = federation.runs / "first"
    user = federation.run(run_dir, "rounds=50")
    wait_until(lambda: lines(run_dir / "metrics.jsonl"), 120, f"{SITE} to train")
    (node,) = federation.nodes()
    ((run_id, status),) = runs(federation).items()
    assert status == "running"

    for attempt in (
        ["supernode", "register", federation.make_key(INTRUDER), "--name", "site-z"],
        ["supernode", "list"],
        ["supernode", "unregister", node["node-id"]],
        ["run", ROOT / "tests/engines/dummy_app"],
        ["list"],
        ["stop", run_id],
    ):
        answer = federation.flwr(*attempt, user=INTRUDER)
        assert not answer["success"], (attempt, answer)
        assert "This port is for SuperNodes" in answer["error-message"], (attempt, answer)

    done = len(lines(run_dir / "metrics.jsonl"))
    wait_until(lambda: len(lines(run_dir / "metrics.jsonl")) > done, 120, "another round")
    assert [entry["node-id"] for entry in federation.nodes()] == [node["node-id"]]
    assert runs(federation) == {run_id: "running"}

    # What the site could not, the operator can; to submit and to list was shown above.
    assert federation.flwr("stop", run_id)["success"]
    assert user.wait(timeout=400) == 3
    assert runs(federation) == {run_id: "finished:stopped"}
    registered = federation.flwr("supernode", "register", federation.make_key("site-b"))
    assert registered["success"], registered
    new = str(registered["node-id"])
    assert {str(entry["node-id"]) for entry in federation.nodes()} == {str(node["node-id"]), new}
    assert federation.flwr("supernode", "unregister", new)["success"]


def test_of_all_that_the_superlink_serves_only_the_fleet_api_is_behind_the_gate(
    federation: Federation, certificates: ssl.SSLContext
) -> None:
    with httpx.Client(verify=certificates, trust_env=False) as client:
        served = client.get(f"https://127.0.0.1:{federation.port}/openapi.json").json()["paths"]
        gate = f"https://127.0.0.1:{federation.sites_port}"
        answers = {
            path: client.post(gate + path, content=BODIES.get(path), headers=PROTOBUF)
            for path in served
        }
        docs = [client.get(gate + path).status_code for path in ("/", "/docs", "/openapi.json")]
    fleet = {path for path in served if path.startswith("/v1/fleet/")}
    fleet -= {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}  # of nodes without keys
    assert len(fleet) == 10
    # The SuperLink itself has answered: nobody has signed.
    assert {path: answers[path].status_code for path in fleet} == dict.fromkeys(fleet, 401)
    others = served.keys() - fleet
    assert {"/v1/control/start-run", "/v1/runtime/acquire-task"} <= others
    assert {path: answers[path].status_code for path in others} == dict.fromkeys(others, 404)
    assert docs == [404] * 3


@pytest.mark.parametrize(
    "target",
    [
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/get-run/../../control/list-runs",
        "/v1/fleet//v1/control/list-runs",
        "//v1/control/list-runs",
        "/v1/control/list-runs?/v1/fleet/get-run",
        "/v1/control/list-runs#/v1/fleet/get-run",
        "/V1/CONTROL/list-runs",
        "https://localhost/v1/control/list-runs",
        "http://superlink:8000/v1/fleet/../control/list-runs",
    ],
)
def test_no_spelling_of_a_path_leads_past_the_gate(
    federation: Federation, certificates: ssl.SSLContext, target: str
) -> None:
    # By hand: client libraries tidy a path up before they send it.
    answer = send(federation, certificates, f"POST {target} HTTP/1.1")
    assert answer.split()[1] in {"400", "404"}, answer


def test_a_request_hidden_in_the_body_of_another_is_never_read_as_one(
    federation: Federation, certificates: ssl.SSLContext
) -> None:
    hidden = "POST /v1/control/list-runs HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    answer = send(
        federation,
        certificates,
        "POST /v1/fleet/get-run HTTP/1.1",
        f"Content-Length: {len(hidden)}",
        "Transfer-Encoding: chunked",
        body=f"0\r\n\r\n{hidden}",
    )
    # Either the double length is refused, or the hidden one is a request of its own, to the gate.
    assert re.findall(r"HTTP/1.1 (\d+)", answer) in (["400"], ["401", "404"]), answer


def send(
    federation: Federation, context: ssl.SSLContext, request: str, *headers: str, body: str = ""
) -> str:
    """Return all that the sites' port answers to a request as it stands here."""
    head = [request, "Host: localhost", "Content-Type: application/protobuf", *headers]
    if not headers:
        head += ["Content-Length: 0", "Connection: close"]
    with (
        socket.create_connection(("127.0.0.1", federation.sites_port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(("\r\n".join(head) + "\r\n\r\n" + body).encode())
        answer = b""
        while piece := secure.recv(65536):  # the server closes an idle connection after 5 s
            answer += piece
    return answer.decode()


def test_sites_wait_for_a_gate_that_is_away(federation: Federation) -> None:
    federation.stop_gate()
    user = federation.run(federation.runs / "after", "rounds=1")
    wait_until(lambda: "running" in runs(federation).values(), 120, "the run", pause_s=1)
    federation.start_gate()
    assert user.wait(timeout=1200) == 0, federation.log("user")
