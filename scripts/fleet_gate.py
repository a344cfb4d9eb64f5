#!/usr/bin/env python3
"""The port for sites: SuperNodes get through to the SuperLink's Fleet API, and nobody to the rest.

A SuperLink of Flower 1.41 serves all that it has on one port. Its Fleet API asks SuperNodes for a
signature of their registered key. Its Control API (register keys, submit code, stop runs) and its
Runtime API (take over a run's server part) ask for nothing: accounts need Flower's enterprise
edition. So that port is for the operator alone, and sites are given this one:

    fleet_gate.py --superlink 127.0.0.1:8000 --root-certificates ca.crt \
      --host 0.0.0.0 --port 8001 --ssl-certfile server.crt --ssl-keyfile server.key

Nothing of a request is passed on as it came: the path is one of a list, the headers are those that
the Fleet API reads, the body is measured. What a node pushes must be a reply in its own name, which
the SuperLink does not compare, and no larger than a reply may be, which it does not count. It runs
on uvicorn and httpx, as SuperLink and SuperNodes do.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import ssl
from collections import OrderedDict
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
import uvicorn
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import PushObjectRequest, PushObjectResponse
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_K = TypeVar("_K")
_M = TypeVar("_M", PushMessagesRequest, PushObjectRequest)
LOGGER = logging.getLogger("fleet_gate")
FLEET = (
    "activate-node",
    "confirm-message-received",
    "deactivate-node",
    "get-fab",
    "get-run",
    "pull-messages",
    "pull-object",
    "push-messages",
    "push-object",
    "send-node-heartbeat",
)
"""What a SuperNode with a key calls; registering and unregistering is the operator's."""
LARGEST_BODY_MIB = 32  # Flower cuts arrays into pieces of 5 MiB; the SuperLink itself has no limit
ANSWER_TIMEOUT_S = 60.0  # SuperNodes give up after 30
LARGEST_REPLY_MIB = 1024
MOST_REMEMBERED = 10_000  # pieces of uploads, orders and nodes
IDLE_S = 2.0  # the SuperLink closes a connection after 5 s: never use one that is about to go


class Uploads:
    """What nodes upload: which pieces came before, and how much each node may still send.

    Pieces of a reply lie in the SuperLink's memory, or on its disk, until the run takes them. For each
    order that the SuperLink knows and a node answers first, that node may send ``largest_mib``. Counted is
    what the SuperLink took, so that nobody uses up what is another's.
    """

    def __init__(self, largest_mib: int) -> None:
        self._largest = largest_mib * 2**20
        self._pieces: OrderedDict[bytes, None] = OrderedDict()
        self._taken: OrderedDict[bytes, None] = OrderedDict()
        self._orders: OrderedDict[str, None] = OrderedDict()
        self._left: OrderedDict[int, int] = OrderedDict()

    def is_known(self, digest: bytes) -> bool:
        """Return whether this very piece of this very upload was passed on before; note that it is now."""
        return _noted(self._pieces, digest)

    def check(self, node: int, size: int, digest: bytes) -> None:
        """Raise HTTPException where a piece is more than the node may still send."""
        if digest not in self._taken and size > self._left.get(node, self._largest):
            most = f"{self._largest >> 20} MiB (--largest-reply-mib)"
            raise HTTPException(413, f"Node {node}: a reply of more than {most}")

    def took(self, node: int, size: int, digest: bytes) -> None:
        """Count a piece that the SuperLink took of a node, once: not one that it refused before."""
        if _noted(self._taken, digest):
            return
        self._left[node] = self._left.pop(node, self._largest) - size
        if len(self._left) > MOST_REMEMBERED:
            self._left.popitem(last=False)

    def answered(self, node: int, order: str) -> None:
        """Let a node begin anew with an order that nobody answered before."""
        if not _noted(self._orders, order):
            self._left[node] = self._largest


def _noted(known: OrderedDict[_K, None], key: _K) -> bool:
    """Return whether ``key`` is known, and make it the newest of those that are."""
    there = key in known
    known[key] = None
    known.move_to_end(key)
    while len(known) > MOST_REMEMBERED:
        known.popitem(last=False)
    return there


def create_gate(
    superlink: str,
    *,
    verify: ssl.SSLContext,
    transport: httpx.AsyncBaseTransport | None = None,
    largest_reply_mib: int = LARGEST_REPLY_MIB,
) -> Starlette:
    """Return the ASGI application that passes SuperNodes' requests on to ``superlink``.

    Args:
        superlink: HOST:PORT, reached by TLS only.
        verify: knows the authority that signed the SuperLink's certificate.
        transport: how to reach it, for tests; None: the network.
        largest_reply_mib: what a node may upload for each order, MiB.

    """

    client = httpx.AsyncClient(
        base_url=f"https://{superlink}",
        verify=verify,
        transport=transport,
        limits=httpx.Limits(max_connections=100, keepalive_expiry=IDLE_S),
        timeout=ANSWER_TIMEOUT_S,
        trust_env=False,  # no proxy of the environment gets between
    )
    pass_on = partial(_pass_on, client, Uploads(largest_reply_mib))
    routes = [
        Route(path, partial(pass_on, path), methods=["POST"])
        for path in (f"/v1/fleet/{name}" for name in FLEET)
    ]
    routes.append(Route("/health", partial(pass_on, "/health"), methods=["GET"]))
    gate = Starlette(routes=routes, exception_handlers={HTTPException: _refuse})
    gate.router.redirect_slashes = False
    return gate


async def _pass_on(
    client: httpx.AsyncClient, uploads: Uploads, path: str, request: Request
) -> Response:
    """Ask the SuperLink and return what it answers; 502 to 504, which SuperNodes try again."""
    body = await _body(request)
    push = _reply(body) if path == "/v1/fleet/push-messages" else None
    piece = _read(PushObjectRequest, body) if path == "/v1/fleet/push-object" else None
    digest, again = b"", False
    if piece is not None:
        digest = hashlib.sha256(body).digest()
        uploads.check(piece.node.node_id, len(body), digest)
        again = uploads.is_known(digest)
    try:
        answer = await client.request(
            request.method, path, content=body, headers=_of_fleet(request.headers.items())
        )
    except httpx.TimeoutException as problem:
        raise HTTPException(504, f"The SuperLink takes its time: {problem!r}") from problem
    except httpx.HTTPError as problem:
        raise HTTPException(502, f"The SuperLink cannot be reached: {problem!r}") from problem
    if answer.status_code == 500:  # of which a SuperNode ends, or drops what it was to send
        raise HTTPException(503, "The SuperLink had an error of its own; its log says which")
    content = answer.content
    taken = answer.status_code == 200
    if taken and push is not None and PushMessagesResponse.FromString(content).objects_to_push:
        # A SuperLink answers an order that it never gave with 200 as well, but wants no objects for it.
        uploads.answered(push.node.node_id, push.messages_list[0].metadata.reply_to_message_id)
    if taken and piece is not None:
        uploads.took(piece.node.node_id, len(body), digest)
    if taken and again:
        # Word that the piece was stored did not arrive, and the SuperLink takes it once: without this
        # the SuperNode drops its whole answer. One whose upload expired hears so with its next piece.
        content = PushObjectResponse(stored=True).SerializeToString()
    return Response(content, answer.status_code, headers=_of_fleet(answer.headers.items()))


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY_MIB * 2**20:
            raise HTTPException(413, f"More than {LARGEST_BODY_MIB} MiB in one request")
    return bytes(body)


def _read(kind: type[_M], body: bytes) -> _M:
    try:
        message: _M = kind.FromString(body)
        return message
    except DecodeError as problem:
        raise HTTPException(400, "No Flower message") from problem


def _reply(body: bytes) -> PushMessagesRequest:
    """Refuse what is no reply, or not in the name of the node whose signature the SuperLink checks.

    Otherwise one site could answer for another, or pose as the server towards it.
    """
    push = _read(PushMessagesRequest, body)
    if len(push.messages_list) != 1:  # the SuperLink reads the first alone
        raise HTTPException(400, f"{len(push.messages_list)} messages in one push, not one")
    metadata = push.messages_list[0].metadata
    if metadata.src_node_id != push.node.node_id:
        raise HTTPException(400, "A message in the name of another node")
    if not metadata.reply_to_message_id:
        raise HTTPException(400, "A message that is no reply")
    return push


def _of_fleet(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the headers that mean something to a SuperLink or a SuperNode."""
    return {
        name: value
        for name, value in headers
        if name in ("accept", "content-type") or name.startswith("flwr-")
    }


async def _refuse(request: Request, problem: Exception) -> Response:
    """Say so, in the form that Flower's command line shows, and in the log."""
    assert isinstance(problem, HTTPException)
    status, text = problem.status_code, problem.detail
    if status in (404, 405):
        status, text = 404, "This port is for SuperNodes; the operator has another one."
    caller = request.client.host if request.client else "somebody"
    LOGGER.warning("%s: %s %r: %d %s", caller, request.method, request.url.path, status, text)
    return JSONResponse({"detail": text}, status)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--superlink", required=True, metavar="HOST:PORT", help="where it listens")
    parser.add_argument("--root-certificates", required=True, type=Path, help="to know it by")
    parser.add_argument("--host", default="127.0.0.1", help="address for the sites")
    parser.add_argument("--port", default=8001, type=int, help="port for the sites")
    parser.add_argument("--ssl-certfile", required=True, type=Path, help="to be known by")
    parser.add_argument("--ssl-keyfile", required=True, type=Path, help="its key")
    parser.add_argument(
        "--largest-reply-mib",
        default=LARGEST_REPLY_MIB,
        type=int,
        help="what a node may upload for each order (%(default)s)",
    )
    options = parser.parse_args()
    if options.largest_reply_mib < 1:
        parser.error("--largest-reply-mib: 1 or more")
    for file in (options.root_certificates, options.ssl_certfile, options.ssl_keyfile):
        if not file.is_file():
            parser.error(f"{file} is no file")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    LOGGER.setLevel(logging.INFO)
    LOGGER.info("sites: %s:%d, SuperLink: %s", options.host, options.port, options.superlink)
    verify = ssl.create_default_context(cafile=str(options.root_certificates))
    uvicorn.run(
        create_gate(options.superlink, verify=verify, largest_reply_mib=options.largest_reply_mib),
        host=options.host,
        port=options.port,
        ssl_certfile=options.ssl_certfile,
        ssl_keyfile=options.ssl_keyfile,
        http="h11",  # strict, and bounds what it takes for a header
        ws="none",
        proxy_headers=False,  # the caller in the log is the one that called
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
