"""A SuperLink and sites as processes: a site dies in a round, a server between two, a new site joins.

As docs/deployment.md starts them: TLS, registered keys, each site its own folder of images. The
tests share one federation. They take minutes: each message starts Python anew, and Flower needs up to
a minute to miss what died.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from corolla.config.build import build_space, header_of
from corolla.config.schema import parse_config
from corolla.records.run_directory import RunDirectory
from corolla.types import Arrays
from tests.deployment.federation import Federation, lines, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SITES = ["site-a", "site-b"]
NEW = "site-c"


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    federation = Federation(tmp_path_factory.mktemp("federation"), SITES, later=[NEW])
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


def supernet(run_dir: Path) -> Arrays:
    """Return the supernet of the last checkpoint."""
    directory = RunDirectory.open(run_dir)
    config, _ = parse_config(yaml.safe_load(directory.config_text()))
    assert config is not None
    _, state = directory.load_checkpoint("latest", expected=header_of(config, build_space(config)))
    return state.part("strategy/supernet/")


def test_only_the_new_site_is_searched_though_the_old_ones_stay_connected(
    federation: Federation,
) -> None:
    trained, stage = federation.runs / "trained", federation.runs / "stage"
    run = federation.run(trained, "rounds=1")
    assert run.wait(timeout=200) == 0, federation.log("user")

    federation.start_node(NEW)
    federation.wait_for_nodes(3)
    alone = ["clients=1", "clients_per_round=1"]
    run = federation.run(stage, "rounds=1", "stage=new_clients", f"from={trained}", *alone)
    assert run.wait(timeout=200) == 0, federation.log("user")

    (row,) = lines(stage / "clients.jsonl")
    assert (row["client"], row["bytes_up"]) == (NEW, 0)
    assert row["bytes_down"] > 0
    assert "train_loss" not in row
    summary = RunDirectory.open(stage).summary()
    assert set(summary["per_client"]) == {NEW}
    assert summary["failures"] == []
    assert "took part in training: site-a, site-b" in (stage / "run.log").read_text()
    before, after = supernet(trained), supernet(stage)
    assert before
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
