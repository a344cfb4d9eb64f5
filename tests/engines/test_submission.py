"""Waiting for the end of a run: log readers that end early, runs that do not begin, lost server parts."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path
from typing import Any

import pytest

from corolla.errors import RunFailedError
from engines import submission, superlink
from engines.flower_cli import FlowerCallError, FlowerCli, RunStatus
from engines.submission import wait_for_end
from tests.engines.test_superlink_engine import superlink_engine

DONE = RunStatus("finished:completed", "")
RUNNING = RunStatus("running", "")
PENDING = RunStatus("pending", "")


class _Cli(FlowerCli):
    """Answers ``statuses`` in turn, the last for ever; each reader of the log runs one of ``readers``."""

    def __init__(
        self, *statuses: RunStatus | Exception, readers: list[str], nodes: int = 1
    ) -> None:
        self._statuses, self._readers, self._nodes = list(statuses), list(readers), nodes
        self.skipped: list[int] = []

    def status(self, run_id: int) -> RunStatus:
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        if isinstance(status, Exception):
            raise status
        return status

    def online(self) -> int:
        return self._nodes

    def reach(self) -> None:
        self.status(0)

    def follow(self, run_id: int, log: Path, *, skip: int = 0) -> subprocess.Popen[bytes]:
        self.skipped.append(skip)
        with log.open("ab") as output:
            command = ["sh", "-c", self._readers.pop(0)]
            return subprocess.Popen(command, stdout=output, start_new_session=True)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LOOK_S", 0.01), ("RETRY_S", 0.02), ("WAITS_S", 0.1), ("HANGS_S", 0.3)):
        monkeypatch.setattr(submission, name, value)
    monkeypatch.setattr(superlink, "RETRY_S", 0.02)


def end(cli: FlowerCli, log: Path) -> RunStatus:
    return wait_for_end(cli, 7, log=log)


def test_a_reader_that_ends_before_the_run_is_started_again(tmp_path: Path) -> None:
    log = tmp_path / "superlink.log"
    log.write_text("of an earlier run\n")
    away = FlowerCallError("no route")
    cli = _Cli(away, RUNNING, DONE, readers=["echo one", "exit 1", "echo two"])
    assert end(cli, log) == DONE
    # By hand: "one\n" is there when the second and the third begin.
    assert cli.skipped == [0, 4, 4]
    assert log.read_text() == "of an earlier run\nFlower run 7\none\ntwo\n"


def test_what_is_in_the_log_is_not_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flwr = tmp_path / "flwr"
    flwr.write_text("#!/bin/sh\nprintf 'one\\ntwo\\nthree\\n'\n")
    flwr.chmod(0o755)
    monkeypatch.setattr("engines.flower_cli.scripts", lambda: tmp_path)
    cli, log = FlowerCli(connection="site", home=tmp_path), tmp_path / "log"
    log.write_text("one\n")
    cli.follow(7, log, skip=4).wait(10)
    assert log.read_text() == "one\ntwo\nthree\n"


def test_a_superlink_that_stays_away_is_taken_for_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "GIVE_UP_S", 0.1)
    cli = _Cli(FlowerCallError("no route"), readers=["exit 1"] * 50)
    assert end(cli, tmp_path / "log") == RunStatus("unknown", "no route")


@pytest.mark.parametrize(
    ("status", "nodes", "said", "remedy"),
    [
        (PENDING, 0, "Flower run 7 is still pending after", "flower-superexec"),
        (
            RunStatus("starting", ""),
            0,
            "Flower run 7 is still starting after",
            "Start the SuperLink",
        ),
        (RUNNING, 0, "no SuperNode is connected", "flwr supernode list"),
        (RUNNING, 2, "", ""),
    ],
)
def test_a_run_that_does_not_begin_says_why_and_what_to_do(
    status: RunStatus,
    nodes: int,
    said: str,
    remedy: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(submission, "LAST_WORDS_S", 0.01)  # the reader has none
    cli = _Cli(status, status, DONE, readers=["sleep 30"], nodes=nodes)
    with caplog.at_level(logging.WARNING):
        assert end(cli, tmp_path / "log") == DONE
    assert said in caplog.text
    assert remedy in caplog.text
    assert (caplog.text == "") == (said == "")


class TestALostServerPart:
    LOST = RunStatus("finished:failed", "No heartbeat received from the task")

    @pytest.fixture
    def ends(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """How each submission ends, with how many rounds it adds."""
        ends: list[Any] = []

        def wait(cli: Any, run_id: int, *, log: Path) -> RunStatus:
            status, rounds = ends.pop(0)
            with (log.parent / "metrics.jsonl").open("a") as file:
                file.write("{}\n" * rounds)
            return RunStatus(*status) if isinstance(status, tuple) else status

        self.submitted: list[Path] = []
        monkeypatch.setattr(superlink, "wait_for_end", wait)
        monkeypatch.setattr(
            superlink, "submit", lambda cli, **given: self.submitted.append(given["workspace"]) or 7
        )
        monkeypatch.setattr(FlowerCli, "reach", lambda self: None)
        return ends

    def run(self, run_dir: Path) -> None:
        engine = superlink_engine(address="127.0.0.1:1", insecure=True)
        engine.run(config_yaml="", run_dir=run_dir, launch="token")

    def test_it_is_submitted_again_and_goes_on(self, ends: list[Any], run_dir: Path) -> None:
        ends += [(self.LOST, 2), (self.LOST, 0), (DONE, 1)]
        self.run(run_dir)
        assert ends == []
        assert len(set(self.submitted)) == 3

    def test_without_a_round_between_it_is_given_up(self, ends: list[Any], run_dir: Path) -> None:
        ends += [(self.LOST, 1), *[(self.LOST, 0)] * 9]
        with pytest.raises(RunFailedError, match="No heartbeat received"):
            self.run(run_dir)
        # By hand: one with a round, two without, and the fourth in a row is one too many.
        assert len(self.submitted) == 4

    @pytest.mark.parametrize(
        "status",
        [
            RunStatus("finished:failed", "ServerApp failed with exception: division by zero"),
            RunStatus("finished:stopped", ""),
            RunStatus("unknown", "no route"),
        ],
    )
    def test_what_failed_by_itself_or_was_stopped_is_not(
        self, status: RunStatus, ends: list[Any], run_dir: Path
    ) -> None:
        ends += [(status, 1), (DONE, 0)]
        with pytest.raises(RunFailedError):
            self.run(run_dir)
        assert len(self.submitted) == 1

    def test_an_error_of_the_superlinks_own_is_no_failure_of_the_run(
        self, ends: list[Any], run_dir: Path
    ) -> None:
        said = "ServerApp failed with exception: Server error '500 Internal Server Error' for url x"
        ends += [(RunStatus("finished:failed", said), 0), (DONE, 1)]
        self.run(run_dir)
        assert len(self.submitted) == 2

    def test_one_that_had_written_its_summary_is_done(self, ends: list[Any], run_dir: Path) -> None:
        ends += [(self.LOST, 3)]
        (run_dir / "summary.json").write_text("{}")
        self.run(run_dir)
        assert len(self.submitted) == 1
