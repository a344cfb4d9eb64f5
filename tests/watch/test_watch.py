"""The live page: what it says while a run goes on, after it, and to whom. No browser: pages are parsed."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from corolla.cli import main
from corolla.records.phases import answered, asked, phase, step
from corolla.records.run_lock import RunLock
from corolla.records.sweep import Job, Sweep
from corolla.watch.server import Pages, WatchServer
from corolla.watch.state import runs_below, state_of
from tests.report.synthetic_run import SyntheticRun


@contextmanager
def served(*run_dirs: Path, folder: Path = Path("runs")) -> Iterator[WatchServer]:
    with WatchServer(Pages(run_dirs, folder), port=0, every_s=0.5) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def get(server: WatchServer, path: str, **more: Any) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    connection.request(more.pop("method", "GET"), path, headers=more)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def write_run(directory: Path, seed: int = 0) -> Path:
    return SyntheticRun(rounds=6, clients=5, clients_per_round=3, seed=seed).write(directory)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path / "runs" / "one")


def test_pages_are_the_reports_and_grow_with_the_files(run_dir: Path) -> None:
    with served(run_dir) as server:
        assert server.server_address[0] == "127.0.0.1"
        status, wrapper = get(server, "/")
        HTMLParser().feed(wrapper)
        assert status == 200
        assert "EVERY_MS" not in wrapper
        assert 'http-equiv="Content-Security-Policy"' in wrapper
        (before,) = json.loads(get(server, "/state.json")[1])
        status, page = get(server, f"/run/{before['id']}")
        assert status == 200
        assert "Test accuracy" in page
        lines = (run_dir / "metrics.jsonl").read_text().splitlines()
        (run_dir / "metrics.jsonl").write_text("\n".join(lines[:-1]) + "\n")
        (after,) = json.loads(get(server, "/state.json")[1])
        assert after["fingerprint"] != before["fingerprint"]
        assert after["id"] == before["id"]
        changed = get(server, f"/run/{before['id']}")[1]
        assert changed != page
        assert changed == get(server, f"/run/{before['id']}")[1]  # kept until the next change


def test_side_by_side_and_restarted(run_dir: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "runs" / "two", seed=1)
    for _ in range(2):  # a server keeps nothing that another one needs
        with served(run_dir, other) as server:
            assert [run["name"] for run in json.loads(get(server, "/state.json")[1])] == [
                *("one", "two")
            ]
            status, page = get(server, "/compare")
    assert status == 200
    assert "2 runs compared" in page


def test_it_only_reads_and_only_for_this_machine(run_dir: Path) -> None:
    before = {p: p.read_bytes() for p in run_dir.rglob("*") if p.is_file()}
    with served(run_dir) as server:
        assert get(server, "/state.json", method="POST")[0] == 501
        assert get(server, "/run/7")[0] == 404
        assert get(server, "/../../etc/passwd")[0] == 404
        assert get(server, "/", Host="evil.example:80")[0] == 403
        get(server, "/run/0")
    assert {p: p.read_bytes() for p in run_dir.rglob("*") if p.is_file()} == before


def test_a_run_that_goes_on_says_how_long(run_dir: Path) -> None:
    (run_dir / "summary.json").unlink()
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[:2]]
    for row in rows:
        row.pop("crc32", None)
        row |= {"round_s": 10.0, "participants": ["3", "4"], "stage": 2}
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert state_of(run_dir)["state"] == "not running"
    with RunLock(run_dir), phase("round 3", 2, run_dir=run_dir):
        for client in ("4", "0"):
            asked(client)
        answered("4")
        step()
        asked("1")
        state = state_of(run_dir)
    facts = {key: value.replace("\u00a0", " ") for key, value in state["facts"]}
    planned = int(facts["round"].split(" of ")[1])
    assert state["state"] == "running"
    assert state["done"] == pytest.approx(2 / planned)
    assert facts["last round"] == "clients 3 and 4"
    assert facts["stage"] == "2"
    assert facts["now"].startswith("round 3: 1 of 2")
    assert facts["now"].endswith("; client 0 and 1")
    assert facts["last round took"] == "10 s"
    left = 10 * (planned - 2)  # seconds: by the median
    assert str(left // 60 if left >= 120 else left) in facts["time left"]


def test_the_newest_runs_are_found_where_none_is_named(tmp_path: Path, run_dir: Path) -> None:
    time.sleep(0.02)
    newer = write_run(tmp_path / "runs" / "sweep" / "01", seed=2)
    assert runs_below(tmp_path / "runs") == [newer, run_dir]
    with served(folder=tmp_path / "runs") as server:
        assert len(json.loads(get(server, "/state.json")[1])) == 2
    with served(folder=tmp_path / "nothing") as server:
        assert json.loads(get(server, "/state.json")[1]) == []


def test_a_sweep_is_its_runs(tmp_path: Path) -> None:
    jobs = [Job(name, [], {}) for name in ("00", "01", "02")]
    Sweep.create(tmp_path / "sweep", jobs)
    with served(tmp_path / "sweep") as server:
        assert json.loads(get(server, "/state.json")[1]) == []
        for job in jobs[:2]:
            write_run(tmp_path / "sweep" / job.name)
        found = json.loads(get(server, "/state.json")[1])
    assert [state["name"] for state in found] == ["00", "01"]


def test_what_is_not_there_is_refused_or_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with served(tmp_path / "empty") as server:
        (state,) = json.loads(get(server, "/state.json")[1])
        assert state["state"] == "not there"
        assert get(server, "/run/0")[0] == 404
        port = server.server_address[1]
        assert main(["watch", "--port", str(port), str(tmp_path)]) == 2
    assert "Give another --port" in capsys.readouterr().err
