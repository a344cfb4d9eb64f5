"""A bad way to a SuperLink: a proxy on loopback that answers 500, cuts, delays and truncates, by a seed."""

from __future__ import annotations

import http.client
import random
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

IDLE_S = 2.0
FAULTS = ("500 before", "500 after", "503", "cut before", "cut after", "truncated", "delayed")
EARLY = ("500 before", "503", "cut before", "delayed")


class FaultyWay:
    """Between a SuperLink and everybody: each request has a fault with probability ``share``."""

    def __init__(
        self, seed: int, share: float, *, delay_s: float = 2.0, answered: Collection[str] = ()
    ) -> None:
        """``delay_s``: how late what is delayed is. Paths of ``answered`` lose no answers, only requests."""
        self.share = share
        self.delay_s = delay_s
        self._answered = answered
        self.on = False
        self.faults: Counter[str] = Counter()
        self.port = 0
        self._draws, self._lock = random.Random(seed), threading.Lock()

    def start(self, certs: Path, superlink: int) -> None:
        """Serve on a port of its own, under the SuperLink's certificate, in threads of this process."""
        way = self

        class Handler(_Handler):
            pass

        Handler.way, Handler.superlink = way, superlink
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certs / "server.crt", certs / "server.key")
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def draw(self, path: str) -> str:
        """Return the fault that the next request has, or nothing."""
        with self._lock:
            if not self.on or self._draws.random() >= self.share:
                return ""
            fault = self._draws.choice(EARLY if path in self._answered else FAULTS)
            self.faults[fault] += 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    way: FaultyWay
    superlink: int
    tls = ssl._create_unverified_context()
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        # A SuperExec ends at a 500: whoever starts it starts it again, and here nobody does.
        fault = "" if self.path == "/v1/runtime/acquire-task" else self.way.draw(self.path)
        if fault == "delayed":
            time.sleep(self.way.delay_s)
        if fault in ("500 before", "503"):
            return self._answer(int(fault[:3]), [], b"{}")
        if fault == "cut before":
            return self._cut()
        upstream = self._upstream()
        try:
            upstream.request(self.command, self.path, body, dict(self.headers.items()))
            answer = upstream.getresponse()
            if answer.chunked:
                return self._stream(answer)
            content = answer.read()
        except (OSError, http.client.HTTPException):
            return self._cut()  # it is away
        if fault == "500 after":
            return self._answer(500, [], b"{}")
        if fault == "cut after":
            return self._cut()
        headers = [(k, v) for k, v in answer.getheaders() if k.lower() != "content-length"]
        whole = fault != "truncated"
        self._answer(
            answer.status, headers, content, sent=len(content) if whole else len(content) // 2
        )
        if not whole:
            self._cut()
        return None

    do_GET = do_POST  # noqa: N815

    def setup(self) -> None:
        super().setup()
        self._to_superlink = http.client.HTTPSConnection(
            "127.0.0.1", self.superlink, context=self.tls, timeout=300
        )
        self._used = 0.0

    def finish(self) -> None:
        self._to_superlink.close()
        super().finish()

    def _upstream(self) -> http.client.HTTPSConnection:
        """Return a connection to the SuperLink, not one that it may have closed: it does after 5 s."""
        if time.monotonic() - self._used > IDLE_S:
            self._to_superlink.close()
        self._used = time.monotonic()
        return self._to_superlink

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, sent: int | None = None
    ) -> None:
        with suppress(OSError):
            self.send_response(status)
            for key, value in headers:
                self.send_header(key, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:sent])

    def _stream(self, answer: http.client.HTTPResponse) -> None:
        self.close_connection = True
        with suppress(OSError, http.client.HTTPException):
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(key, value)
            self.send_header("connection", "close")
            self.end_headers()
            while piece := answer.read1(65536):
                self.wfile.write(piece)
                self.wfile.flush()

    def _cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
