"""A page on this machine alone that only reads: nothing it is asked for changes a run."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from corolla.errors import RefusedError
from corolla.records.sweep import runs_of
from corolla.report.load import load_run
from corolla.report.page import compare_page, run_page
from corolla.watch.state import fingerprint, runs_below, state_of

LOOPBACK = "127.0.0.1"
_NAMES = (LOOPBACK, "localhost", "[::1]")
_WRAPPER = Path(__file__).with_name("watch.html")


class Pages:
    """The pages of the runs watched, each kept until its run's files change.

    Args:
        run_dirs: runs and sweeps to show; none: the newest runs in ``folder``, looked for each time.
        folder: where runs are.

    """

    def __init__(self, run_dirs: Sequence[Path], folder: Path) -> None:
        self._named = [Path(path).absolute() for path in dict.fromkeys(run_dirs)]
        self._folder = folder
        self._ids: dict[Path, str] = {}
        self._kept: dict[str, tuple[str, bytes]] = {}
        self._lock = threading.Lock()  # a page takes a second to make: once, not once per request

    def state(self) -> list[dict[str, Any]]:
        """Return how far each run is, under the id of its page; a run that cannot be read says why."""
        return [{"id": name, **self._state(path)} for name, path in self._runs().items()]

    def page(self, name: str) -> bytes | None:
        """Return the report of one run as it is now; None where there is no such run."""
        path = self._runs().get(name)
        if path is None:
            return None
        return self._made(name, fingerprint(path), lambda: run_page(load_run(path)))

    def compared(self) -> bytes:
        """Return the page with all runs side by side, as they are now."""
        paths = list(self._runs().values())
        key = "|".join(f"{path}:{fingerprint(path)}" for path in paths)
        return self._made("", key, lambda: compare_page([load_run(p) for p in paths], None))

    def _made(self, name: str, key: str, make: Callable[[], str]) -> bytes:
        with self._lock:
            kept = self._kept.get(name)
            if kept is None or kept[0] != key:
                kept = self._kept[name] = (key, make().encode())
            return kept[1]

    def _runs(self) -> dict[str, Path]:
        named = [run for path in self._named for run in self._begun(path)]
        paths = named or ([] if self._named else runs_below(self._folder))
        with self._lock:
            return {self._ids.setdefault(path, str(len(self._ids))): path for path in paths}

    @staticmethod
    def _begun(path: Path) -> list[Path]:
        try:
            return runs_of(path)
        except RefusedError:  # a sweep that has not begun yet
            return []

    @staticmethod
    def _state(path: Path) -> dict[str, Any]:
        try:
            return state_of(path)
        except RefusedError as error:  # it has not begun, or is gone
            why = [["", error.faults[0].problem]]
            none = {"title": str(path), "state": "not there", "done": 0.0, "fingerprint": ""}
            return {"name": path.name, "facts": why, **none}


class WatchServer(ThreadingHTTPServer):
    """Serves the pages on loopback; ``port`` 0: any that is free."""

    daemon_threads = True

    def __init__(self, pages: Pages, *, port: int, every_s: float) -> None:
        super().__init__((LOOPBACK, port), partial(_Handler, pages, every_s))

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{LOOPBACK}:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    """Answers GET; anything else is refused by the base class."""

    def __init__(self, pages: Pages, every_s: float, *arguments: Any) -> None:
        self._pages, self._every_s = pages, every_s
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Answer one of four addresses."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in _NAMES:  # a foreign page whose name points here may not read
            self._send(
                HTTPStatus.FORBIDDEN, b"Open the address that corolla watch printed", "plain"
            )
            return
        path = self.path.partition("?")[0]
        try:
            if path == "/":
                text = _WRAPPER.read_text(encoding="utf-8")
                text = text.replace("EVERY_MS", str(int(1000 * self._every_s)))
                self._send(HTTPStatus.OK, text.encode(), "html")
            elif path == "/state.json":
                self._send(HTTPStatus.OK, json.dumps(self._pages.state()).encode(), "json")
            elif path == "/compare":
                self._send(HTTPStatus.OK, self._pages.compared(), "html")
            else:
                page = self._pages.page(path.removeprefix("/run/"))
                found = page is not None and path.startswith("/run/")
                status = HTTPStatus.OK if found else HTTPStatus.NOT_FOUND
                self._send(status, page if found and page else b"No such page", "html")
        except RefusedError as error:
            self._send(HTTPStatus.NOT_FOUND, str(error).encode(), "plain")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        family = "application" if kind == "json" else "text"
        self.send_header("Content-Type", f"{family}/{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: a line every few seconds would bury all else."""
