"""A SuperLink and sites as processes: a site dies, or the server, a new site joins, sites keep models.

As docs/deployment.md starts them: TLS, registered keys, each site its own folder of images. The
tests share one federation. They take minutes: each message starts Python anew, and Flower needs up to
a minute to miss what died.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from corolla.config.build import build_space, header_of
from corolla.config.schema import RunConfig, parse_config
from corolla.records.client_models import load_model
from corolla.records.client_store import ClientStore
from corolla.records.run_directory import RunDirectory
from corolla.spaces.architecture import Architecture
from corolla.state import State
from corolla.types import Arrays
from tests.deployment.federation import Federation, lines, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SITES = ["site-a", "site-b"]
NEW = "site-c"
SPIDER = [
    "method=spider",
    "space=darts_s2_mixed_small",
    "space.supernet.resolution=8",
    "space.supernet.channels=4",
    "space.supernet.cells=3",
    "space.supernet.nodes=1",  # two edges a cell: two steps decide everything
    "method.search.clock=participations",
    "method.search.warmup_rounds=1",
    "method.search.recovery_rounds=1",
]


HAPFNAS = [
    "method=hapfnas",
    "space=mobilenetv2_8",
    "rounds=3",
    "server_set=unlabelled",
    "method.supernet_training.rounds=1",
    "method.supernet_training.epochs=1",
    "method.supernet_training.batch_size=20",
    "method.personal_search.recalibration_images=30",
    "method.personal_search.predictor.initial=10",
    "method.personal_search.predictor.front=2",
]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("federation")
    federation = Federation(
        folder, SITES, later=[NEW], options={"site-a": "share-architecture=true"}
    )
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

    wait_until(there, 700, f"round {number}")


def assert_went_on(run: psutil.Popen, run_dir: Path, federation: Federation) -> None:
    """Wait for the end of a run of three rounds whose server part was lost: no site missed a round."""
    assert run.wait(timeout=1400) == 0, federation.log("user")
    assert "Its server part was lost: it goes on by itself" in federation.log("user")
    metrics = lines(run_dir / "metrics.jsonl")
    assert [line["round"] for line in metrics] == [1, 2, 3]
    assert [sorted(line["participants"]) for line in metrics] == [SITES] * 3
    assert (run_dir / "summary.json").is_file()


def test_a_run_whose_server_dies_after_round_2_goes_on(federation: Federation) -> None:
    run_dir = federation.runs / "lost"
    run = federation.run(run_dir, "rounds=3")
    wait_for_round(run, run_dir, 2, federation)
    federation.kill_server_app()
    assert_went_on(run, run_dir, federation)


def test_a_superlink_killed_in_a_round_takes_its_server_part_along_and_the_run_goes_on(
    federation: Federation,
) -> None:
    """As it is shipped: the SuperLink itself starts server parts. Without that: test_faults.py."""
    run_dir = federation.runs / "restarted"
    run = federation.run(run_dir, "rounds=3")
    wait_for_round(run, run_dir, 1, federation)
    # A checkpoint is written beside the next round's training: of the round before, it may not be whole yet.
    wait_until((run_dir / "checkpoints" / "latest").is_file, 120, "round 1's checkpoint")
    wait_until(lambda: federation.training("site-b"), 120, "site-b to train")
    federation.kill_superlink()
    done = len(lines(run_dir / "metrics.jsonl"))
    assert 1 <= done < 3
    federation.start_superlink()
    assert_went_on(run, run_dir, federation)
    (resumed,) = re.findall(r"resuming after round (\d) of 3", (run_dir / "run.log").read_text())
    assert max(1, done - 1) <= int(resumed) <= done


def test_a_run_whose_launcher_is_interrupted_is_resumed(federation: Federation) -> None:
    run_dir = federation.runs / "resumed"
    run = federation.run(run_dir, "rounds=2")
    wait_for_round(run, run_dir, 1, federation)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=300) == 130
    assert not (run_dir / "summary.json").exists()
    # Until then the server part has the run directory.
    wait_until(lambda: not federation.serves(), 120, "the server part to end")

    resumed = federation.corolla("resume", str(run_dir))
    assert resumed.wait(timeout=1200) == 0, federation.log("user")
    metrics = lines(run_dir / "metrics.jsonl")
    assert [line["round"] for line in metrics] == [1, 2]
    assert (run_dir / "summary.json").is_file()


def test_a_site_killed_during_a_round_is_counted_as_failed(federation: Federation) -> None:
    run_dir = federation.runs / "killed"
    run = federation.run(run_dir, "rounds=2")
    wait_for_round(run, run_dir, 1, federation)
    wait_until(lambda: federation.training("site-b"), 120, "site-b to train")
    federation.kill_node("site-b")
    assert run.wait(timeout=1200) == 0, federation.log("user")

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


def test_a_site_killed_between_two_rounds_goes_on_with_the_model_of_its_own(
    federation: Federation,
) -> None:
    run_dir = federation.runs / "spider"
    run = federation.run(run_dir, *SPIDER, "rounds=6")
    wait_for_round(run, run_dir, 2, federation)
    federation.kill_node("site-b")
    before = own_state(federation, "site-b")
    wait_for_round(run, run_dir, 3, federation)  # with this the SuperLink has missed the site
    federation.start_node("site-b")
    assert run.wait(timeout=1200) == 0, federation.log("user")

    rows = lines(run_dir / "clients.jsonl")
    phases = {site: [row["phase"] for row in rows if row["client"] == site] for site in SITES}
    back = len(phases["site-b"]) - 2  # it depends on the machine how soon it is seen again
    assert phases == {"site-a": [1, 2, 3, 3, 3, 3], "site-b": [1, 2, *[3] * back]}
    assert back >= 1
    assert [row["round"] for row in rows if row["client"] == "site-b"][:2] == [1, 2]
    assert {row["state_restarted"] for row in rows} == {0.0}
    after = own_state(federation, "site-b")
    assert (before.meta["participations"], after.meta["participations"]) == (2, 2 + back)
    assert (before.meta["steps"], after.meta["steps"]) == (1, 2)
    assert after.meta["decisions"][: len(before.meta["decisions"])] == before.meta["decisions"]
    # A choice is a set of operations, one bit each.
    left = zip(before.meta["architecture"], after.meta["architecture"], strict=True)
    assert all(late & early == late for early, late in left)
    check_who_has_what(federation, run_dir, rows)


def check_who_has_what(federation: Federation, run_dir: Path, rows: list[dict[str, Any]]) -> None:
    """Own models lie at the sites and nowhere at the server; only site-a has said that it shares."""
    directory, space = RunDirectory.open(run_dir), build_space(config_of(run_dir))
    largest = space.largest().to_list()
    contents = [path.read_bytes() for path in run_dir.rglob("*") if path.is_file()]
    for site in SITES:
        own = own_state(federation, site)
        description, arrays = load_model(federation.state_dir(site) / "model")
        space.load(Architecture.of(description["choices"]), arrays)
        assert description["choices"] == own.meta["architecture"] != largest
        trained = own.part("model/")
        # What is deployed has BN statistics of its own; every weight is the trained one.
        assert arrays.keys() == trained.keys()
        assert all(
            array.tobytes() == trained[name].tobytes()
            for name, array in arrays.items()
            if "running_" not in name
        )
        weights = [a.tobytes() for a in arrays.values() if a.size > 16 and a.any()]
        assert weights
        assert not any(piece in content for piece in weights for content in contents)
        told = description["choices"] if site == "site-a" else largest
        at_server, none = directory.client_model(site)
        assert (at_server["weights"], at_server["choices"]) == ("kept by the client", told)
        assert none == {}
        assert directory.summary()["per_client"][site]["choices"] == told
        own_rows = [row for row in rows if row["client"] == site]
        assert own_rows[-1]["architecture"] == told
        assert {"decisions" in row for row in own_rows} == {site == "site-a"}


def test_sites_search_a_supernet_that_was_distilled_on_the_servers_own_pictures(
    federation: Federation,
) -> None:
    run_dir, pictures = federation.runs / "hapfnas", federation.folder / "pictures"
    pictures.mkdir()
    for number, image in enumerate(load_digits().images[:60]):
        Image.fromarray((16 * image).clip(0, 255).astype("uint8")).save(pictures / f"{number}.png")
    run = federation.run(
        run_dir, *HAPFNAS, f"server_set.root={pictures}", "cap=speed", "cap.latency_ms=1000"
    )
    assert run.wait(timeout=1200) == 0, federation.log("user")

    metrics, rows = lines(run_dir / "metrics.jsonl"), lines(run_dir / "clients.jsonl")
    assert [(line["stage"], line["failures"]) for line in metrics] == [(1, 0), (2, 0), (3, 0)]
    assert metrics[0]["distillation_loss"] > 0
    assert "teacher_accuracy" not in metrics[0]  # nobody labelled the pictures
    for site, entry in RunDirectory.open(run_dir).summary()["per_client"].items():
        assert (entry["searched"], entry["measured"]) == (True, 12)
        assert 0 < entry["macs"] <= entry["macs_cap"]  # measured at the site
        found = [row["architecture"] for row in rows if row["client"] == site][1:]
        assert found == [entry["choices"]] * 2
        description, arrays = load_model(federation.state_dir(site) / "model")
        assert description["choices"] == entry["choices"]
        build_space(config_of(run_dir)).load(Architecture.of(entry["choices"]), arrays)


def own_state(federation: Federation, site: str) -> State:
    """Return the newest state that the site keeps of the run that has left any there last."""
    roots = list((federation.state_dir(site) / "runs").iterdir())
    root = max(roots, key=lambda each: max(p.stat().st_mtime_ns for p in each.rglob("*")))
    found = ClientStore(root).load(site, before_round=1000)
    assert found is not None
    return found[1]


def config_of(run_dir: Path) -> RunConfig:
    """Return the run's configuration."""
    config, _ = parse_config(yaml.safe_load(RunDirectory.open(run_dir).config_text()))
    assert config is not None
    return config


def supernet(run_dir: Path) -> Arrays:
    """Return the supernet of the last checkpoint."""
    directory, config = RunDirectory.open(run_dir), config_of(run_dir)
    _, state = directory.checkpoints.load("latest", expected=header_of(config, build_space(config)))
    return state.part("strategy/supernet/")


def test_only_the_new_site_is_searched_though_the_old_ones_stay_connected(
    federation: Federation,
) -> None:
    trained, stage = federation.runs / "trained", federation.runs / "stage"
    searched = "method=perfedrlnas"  # the default serves new clients without asking them anything
    run = federation.run(trained, searched, "rounds=1")
    assert run.wait(timeout=1200) == 0, federation.log("user")

    federation.start_node(NEW)
    federation.wait_for_nodes(3)
    alone = ["clients=1", "clients_per_round=1"]
    given = ["rounds=1", "stage=new_clients", f"from={trained}", *alone]
    run = federation.run(stage, searched, *given)
    assert run.wait(timeout=1200) == 0, federation.log("user")

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
