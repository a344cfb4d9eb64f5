"""A SuperLink and two sites as processes: a site dies during a round, a server dies between two.

As docs/deployment.md starts them: TLS, registered keys, each site its own folder of images. The two
tests share one federation. They take minutes: each message starts Python anew, and Flower needs up to
a minute to miss what died.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.deployment.federation import Federation, lines, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SITES = ["site-a", "site-b"]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    federation = Federation(tmp_path_factory.mktemp("federation"), SITES)
    try:
        federation.start()
        yield federation
    finally:
        federation.close()


@pytest.fixture
def federation(processes: Federation) -> Iterator[Federation]:
    yield processes
    processes.end_run()


def wait_for_round(run: psutil.Popen, run_dir: Path, number: int, federation: Federation) -> None:
    def there() -> bool:
        assert run.poll() is None, federation.log("user")
        return len(lines(run_dir / "metrics.jsonl")) >= number

    wait_until(there, 300, f"round {number}")


def test_a_run_whose_server_dies_after_round_2_is_resumed(federation: Federation) -> None:
    run_dir = federation.runs / "resumed"
    run = federation.run(run_dir, "rounds=3")
    wait_for_round(run, run_dir, 2, federation)
    federation.kill_server_app()
    assert run.wait(timeout=200) == 3
    assert "corolla resume" in federation.log("user")
    assert not (run_dir / "summary.json").exists()

    resumed = federation.corolla("resume", str(run_dir))
    assert resumed.wait(timeout=300) == 0, federation.log("user")
    metrics = lines(run_dir / "metrics.jsonl")
    assert [line["round"] for line in metrics] == [1, 2, 3]
    assert [sorted(line["participants"]) for line in metrics] == [SITES] * 3
    assert (run_dir / "summary.json").is_file()


def test_a_site_killed_during_a_round_is_counted_as_failed(federation: Federation) -> None:
    run_dir = federation.runs / "killed"
    run = federation.run(run_dir, "rounds=2")
    wait_for_round(run, run_dir, 1, federation)
    wait_until(lambda: federation.training("site-b"), 120, "site-b to train")
    federation.kill_node("site-b")
    assert run.wait(timeout=300) == 0, federation.log("user")

    first, second = lines(run_dir / "metrics.jsonl")
    assert (sorted(first["participants"]), first["failures"]) == (SITES, 0)
    assert (second["participants"], second["failures"]) == (["site-a"], 1)
    (failed,) = second["failed"]
    assert failed["client"] == "site-b"
    assert "Node Unavailable" in failed["reason"]
    assert (run_dir / "summary.json").is_file()

    # The SuperLink has missed the site by now, so it takes it back under the same key.
    federation.start_node("site-b")
    federation.wait_for_nodes(2)
