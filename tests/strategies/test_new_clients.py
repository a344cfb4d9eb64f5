"""Clients that were not in training: what may change for them, and what is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from corolla.errors import RefusedError, RunFailedError
from corolla.launch import plan_run
from corolla.records.run_directory import RunDirectory
from strategies.node_roster import NodeRoster
from strategies.roster import SimulatedRoster
from tests.strategies.conftest import SMALL, power_cut, results, resumed, run, strategy_state
from tests.strategies.test_roster import _Nodes

KEPT_OUT = ["clients=3", "new_clients=2"]
STAGE = [*KEPT_OUT, "stage=new_clients", "clients_per_round=2"]
POLICIES = "method=perfedrlnas"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    """One finished run per method, with two clients kept out of it."""
    root = tmp_path_factory.mktemp("trained")
    return {
        method: run(root / method, *KEPT_OUT, f"method={method}", "rounds=2")
        for method in ("perfedrlnas", "fedavg", "perfednas")
    }


def test_training_never_sees_the_clients_that_are_kept_out(
    trained: dict[str, RunDirectory],
) -> None:
    directory = trained["perfedrlnas"]
    partition = json.loads((directory.path / "partition.json").read_text())["clients"]
    assert list(partition) == ["0", "1", "2", "3", "4"]
    seen = {row["client"] for row in directory.clients()}
    assert seen <= {"0", "1", "2"}
    assert set(directory.summary()["per_client"]) == {"0", "1", "2"}


def test_only_the_policies_of_new_clients_change_and_nothing_is_uploaded(
    trained: dict[str, RunDirectory], tmp_path: Path
) -> None:
    source = trained["perfedrlnas"]
    directory = run(tmp_path / "new", *STAGE, POLICIES, f"from={source.path}", "rounds=4")
    before, after = strategy_state(source), strategy_state(directory)
    supernet = [name for name in before.arrays if name.startswith("supernet/")]
    assert supernet
    assert all(before.arrays[n].tobytes() == after.arrays[n].tobytes() for n in supernet)
    assert after.meta["policies"]["clients"] == ["3", "4"]
    assert after.meta["trained_clients"] == ["0", "1", "2"]
    rows = directory.clients()
    assert {row["client"] for row in rows} == {"3", "4"}
    assert len(rows) == 8
    assert all(row["bytes_up"] == 0 and row["bytes_down"] > 0 for row in rows)
    assert all("train_loss" not in row for row in rows)
    assert set(directory.summary()["per_client"]) == {"3", "4"}
    assert directory.summary()["stage"] == "new_clients"


@pytest.mark.parametrize(
    "settings", [["method.new_clients.search=none"], ["method.new_clients.search=random"]]
)
def test_a_stage_that_searches_nothing_resumes_after_its_only_round(
    settings: list[str],
    trained: dict[str, RunDirectory],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = [*STAGE, POLICIES, *settings, f"from={trained['perfedrlnas'].path}", "rounds=3"]
    whole = run(tmp_path / "whole", *settings)

    def crash(self: RunDirectory, summary: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_summary", crash)
        with pytest.raises(Exception, match="power cut"):
            run(tmp_path / "broken", *settings)
    assert results(resumed(tmp_path / "broken")) == results(whole)
    assert len(whole.metrics()) == 1


def test_a_stage_cannot_start_from_a_stage(
    trained: dict[str, RunDirectory], tmp_path: Path
) -> None:
    settings = [*STAGE, POLICIES, "method.new_clients.search=none"]
    first = run(tmp_path / "first", *settings, f"from={trained['perfedrlnas'].path}")
    with pytest.raises(RefusedError, match=r"itself a stage=new_clients run.*training run"):
        plan_run([*SMALL, *STAGE, POLICIES, f"from={first.path}", f"run_dir={tmp_path / 'second'}"])


def test_an_interrupted_stage_resumes_to_the_same_numbers(
    trained: dict[str, RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*STAGE, POLICIES, f"from={trained['perfedrlnas'].path}", "rounds=3"]
    whole = run(tmp_path / "whole", *settings)
    with power_cut(2):
        run(tmp_path / "broken", *settings)
    left_out: list[list[str]] = []
    monkeypatch.setattr(SimulatedRoster, "leave_out", lambda _, old: left_out.append(list(old)))
    assert results(resumed(tmp_path / "broken")) == results(whole)
    assert left_out == [["0", "1", "2"]]  # of the checkpoint: `from` is not read again


def test_the_average_start_is_the_mean_of_the_old_clients_probabilities(
    trained: dict[str, RunDirectory], tmp_path: Path
) -> None:
    source = trained["perfedrlnas"]
    directory = run(
        tmp_path / "average",
        *STAGE,
        POLICIES,
        f"from={source.path}",
        "rounds=1",
        "method.new_clients.start=average",
        "method.new_clients.search=none",
    )
    logits = strategy_state(source).arrays["policies/logits"]
    sizes = strategy_state(source).meta["policies"]["sizes"]
    expected = []
    for part in np.split(logits, np.cumsum(sizes)[:-1], axis=1):  # by hand: softmax, then the mean
        p = np.exp(part) / np.exp(part).sum(axis=1, keepdims=True)
        log_mean = np.log(p.mean(axis=0))
        expected.append(log_mean - log_mean.mean())  # the same policy, its logits centred
    start = strategy_state(directory).arrays["policies/start"]
    np.testing.assert_allclose(start, np.concatenate(expected), rtol=1e-9, atol=1e-12)
    choices = [int(np.argmax(part)) for part in expected]
    deployed = directory.summary()["per_client"]
    assert [deployed[c]["choices"] for c in ("3", "4")] == [choices, choices]


def test_random_subnets_differ_by_client_and_need_no_rounds(
    trained: dict[str, RunDirectory], tmp_path: Path
) -> None:
    directory = run(
        tmp_path / "random",
        *STAGE,
        POLICIES,
        f"from={trained['perfedrlnas'].path}",
        "method.new_clients.search=random",
    )
    deployed = directory.summary()["per_client"]
    assert deployed["3"]["choices"] != deployed["4"]["choices"]
    assert directory.clients() == []


def test_a_frozen_supernet_is_cut_for_the_new_clients(
    trained: dict[str, RunDirectory], tmp_path: Path
) -> None:
    source = trained["perfednas"]
    method = "method=perfednas"
    few = ("rounds=1", "method.settle=0.5")  # a search would have no round left
    directory = run(tmp_path / "run", *STAGE, method, f"from={source.path}", *few)
    assert set(directory.summary()["per_client"]) == {"3", "4"}
    before, after = (strategy_state(each).part("supernet/") for each in (source, directory))
    assert before
    assert all(after[name].tobytes() == array.tobytes() for name, array in before.items())


def test_fedavgs_model_is_scored_on_the_new_clients(
    trained: dict[str, RunDirectory], tmp_path: Path
) -> None:
    source = trained["fedavg"]
    directory = run(tmp_path / "fedavg", *STAGE, "method=fedavg", f"from={source.path}")
    assert set(directory.summary()["per_client"]) == {"3", "4"}
    assert set(directory.summary()["global"]["test_accuracy"]["per_client"]) == {"3", "4"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["method=fedavg"], r"method='fedavg'.*has 'perfedrlnas'"),
        (["space=mobilenetv3_32"], r"space='mobilenetv3_32'.*has 'mobilenetv3_8'"),
        (["new_clients=3"], r"new_clients=3.*has 2"),
        (["seed=1"], r"seed=1.*has 0"),
        (["partition.alpha=1"], r"partition=.*divides the images differently"),
        (["method=local"], r"stage=.*method=local has no stage for new clients"),
        (["new_clients=0"], r"new_clients=0.*the stage has no clients"),
        (["from=null"], r"from=None.*starts from a finished run"),
        (["from=/nowhere"], r"/nowhere"),
        (["stage=train"], r"from=.*no effect with stage=train"),
        (
            ["clients_per_round=3"],
            r"clients_per_round=3.*more clients a round than there are \(new_clients=2",
        ),
        (["method.new_clients.start=averag"], r"start.*averag.*Did you mean 'average'"),
    ],
)
def test_a_stage_that_cannot_start_is_refused(
    trained: dict[str, RunDirectory], changes: list[str], message: str, tmp_path: Path
) -> None:
    method = [] if changes[0].startswith("method=") else [POLICIES]
    settings = [*SMALL, *STAGE, *method, f"from={trained['perfedrlnas'].path}", *changes]
    with pytest.raises(RefusedError, match=message):
        plan_run([*settings, f"run_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_an_unfinished_run_is_refused(trained: dict[str, RunDirectory], tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(trained["perfedrlnas"].path, copy)
    (copy / "summary.json").unlink()
    with pytest.raises(RefusedError, match=r"has not ended.*corolla resume"):
        plan_run([*SMALL, *STAGE, POLICIES, f"from={copy}", f"run_dir={tmp_path / 'run'}"])


def test_old_sites_that_stay_connected_are_left_out_by_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="corolla")
    grid = _Nodes({1: "site-a", 2: "site-b", 3: "site-c"})
    roster = NodeRoster(expected=1, deadline_s=1)
    roster.nodes(grid)
    roster.leave_out(["site-a", "site-b", "site-gone"])
    assert roster.nodes(grid) == {"site-c": 3}
    assert roster.clients() == ["site-c"]
    assert "left out, since they took part in training: site-a, site-b" in caplog.text
    grid.names = {1: "site-a", 9: "site-b", 3: "site-c"}  # back under another node id
    assert roster.nodes(grid) == {"site-c": 3}
    assert "client site-b is node 9: left out, it took part in training" in caplog.text


class _LateNodes(_Nodes):
    """Node 3, site-c, connects when the others have been listed twice."""

    def get_node_ids(self) -> Iterable[int]:
        listed = list(self.names)
        self.times = getattr(self, "times", 0) + 1
        if self.times == 2:
            self.names[3] = "site-c"
        return listed


def test_as_many_new_sites_are_waited_for_as_were_expected() -> None:
    grid = _LateNodes({1: "site-a", 2: "site-b"})
    roster = NodeRoster(expected=1, deadline_s=30)
    roster.leave_out(["site-a", "site-b"])  # as after a resume: before anybody was asked
    assert roster.nodes(grid) == {"site-c": 3}
    assert grid.asked == [1, 2, 3]


def test_a_stage_that_finds_old_sites_only_is_refused_and_names_them() -> None:
    roster = NodeRoster(expected=1, deadline_s=0)
    grid = _Nodes({2: "site-b", 1: "site-a"})
    roster.leave_out(["site-a", "site-b"])
    with pytest.raises(
        RefusedError, match=r"took part in training: site-a, site-b\. Connect Super"
    ):
        roster.nodes(grid)


def test_too_few_new_sites_are_not_made_up_for_by_old_ones() -> None:
    roster = NodeRoster(expected=2, deadline_s=0)
    roster.leave_out(["site-a"])
    with pytest.raises(RunFailedError, match="1 of 2 nodes connected within 0 s, and 1 left out"):
        roster.nodes(_Nodes({1: "site-a", 3: "site-c"}))


def test_a_new_site_that_dies_later_is_missed_not_refused() -> None:
    grid = _Nodes({1: "site-a", 3: "site-c"})
    roster = NodeRoster(expected=1, deadline_s=0)
    roster.leave_out(["site-a"])
    assert roster.nodes(grid) == {"site-c": 3}
    grid.names = {1: "site-a"}
    with pytest.raises(RunFailedError, match="0 of 1 nodes connected"):
        roster.nodes(grid)
