"""No single fault ends a run: SuperLink, gate, sites and the server part of a run as processes.

Between the SuperLink and all others lies a proxy. test_500_faults.py has the same faults by the hundred, with
nodes that are threads; tests/strategies/test_waiting.py without processes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
import pytest

from tests.deployment.faulty_way import FaultyWay
from tests.deployment.federation import Federation, lines, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SITES = ["site-a", "site-b"]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    way = FaultyWay(seed=16, share=0.06)
    federation = Federation(tmp_path_factory.mktemp("federation"), SITES, way=way)
    try:
        federation.start()
        yield federation
    finally:
        federation.close()


@pytest.fixture
def federation(processes: Federation) -> Iterator[Federation]:
    yield processes
    assert processes.way is not None
    processes.way.on = False
    processes.end_run()


def wait_for_training(federation: Federation, run: psutil.Popen, site: str) -> None:
    def trains() -> bool:
        assert run.poll() is None, federation.log("user")
        return federation.training(site)

    wait_until(trains, 900, f"{site} to work")


def test_a_bad_way_ends_no_run(federation: Federation) -> None:
    """A message that is cut off when a site has it is given to nobody again: that costs a site its round."""
    run_dir, way = federation.runs / "bad", federation.way
    assert way is not None
    run = federation.run(run_dir, "rounds=3", "round_timeout_s=240")
    wait_for_training(federation, run, "site-a")
    way.on = True
    assert run.wait(timeout=3000) == 0, federation.log("user")
    metrics = lines(run_dir / "metrics.jsonl")
    print(dict(way.faults), [(m["participants"], m["failed"], m["round_s"]) for m in metrics])
    assert [line["round"] for line in metrics] == [1, 2, 3]
    assert sum(bool(line["participants"]) for line in metrics) >= 2
    assert sum(way.faults.values()) >= 50
    assert (run_dir / "summary.json").is_file()


def test_a_superlink_that_is_killed_and_started_again_costs_no_round(
    federation: Federation,
) -> None:
    run_dir = federation.runs / "restarted"
    run = federation.run(run_dir, "rounds=2", "round_timeout_s=300")
    wait_for_training(federation, run, "site-a")  # at the first question, or in the first round
    wait_until(lambda: (run_dir / "run.log").exists(), 300, "the run to begin")
    federation.kill_superlink()
    time.sleep(3)
    federation.start_superlink()
    assert run.wait(timeout=2400) == 0, federation.log("user")
    metrics = lines(run_dir / "metrics.jsonl")
    assert [(line["round"], line["failures"]) for line in metrics] == [(1, 0), (2, 0)]
    # Neither the run nor its log began anew.
    log = (run_dir / "superlink.log").read_text()
    assert log.count("Flower run ") == 1
    assert log.count("Start `flwr-serverapp` process") == 1


def test_a_site_that_stands_still_for_a_while_is_away_for_that_while(
    federation: Federation,
) -> None:
    run_dir = federation.runs / "frozen"
    run = federation.run(run_dir, "rounds=4", "round_timeout_s=300")
    wait_until(lambda: len(lines(run_dir / "metrics.jsonl")) >= 1, 900, "round 1")
    wait_for_training(federation, run, "site-b")
    federation.freeze("site-b", still=True)
    wait_until(lambda: len(lines(run_dir / "metrics.jsonl")) >= 2, 400, "round 2")
    federation.freeze("site-b", still=False)
    assert run.wait(timeout=2400) == 0, federation.log("user")
    metrics = lines(run_dir / "metrics.jsonl")
    assert [line["round"] for line in metrics] == [1, 2, 3, 4]
    assert all("site-a" in line["participants"] for line in metrics)
    (failed,) = metrics[1]["failed"]
    assert failed["client"] == "site-b"
    assert "site-b" in metrics[-1]["participants"]
