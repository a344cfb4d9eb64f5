"""Parts of the model that never leave a client: FedPer, LG-FedAvg and FedBN as settings of any method."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord

from clients.site import Shared
from corolla.config.build import class_prior
from corolla.errors import RefusedError
from corolla.launch import plan_run
from corolla.records.client_models import load_model, model_directory
from corolla.records.run_directory import RunDirectory
from corolla.spaces.supernet import to_arrays
from corolla.types import Arrays
from tests.conftest import quick
from tests.states import same
from tests.strategies.conftest import (
    config_of,
    power_cut,
    results,
    resumed,
    run,
    saved_state,
    small,
)

TWO = ("clients=2", "clients_per_round=2", "rounds=2", "evaluation.every=0")
TINY = (
    "space=elastic_resnet",
    "space.supernet.resolution=8",
    "space.supernet.widths=[[4,8],[8,16]]",
    "space.supernet.depths=[1,2]",
)


def _server(directory: RunDirectory, prefix: str) -> Arrays:
    return saved_state(directory).part(f"strategy/{prefix}/")


@pytest.mark.parametrize("parts", [["head"], ["norm"], ["stem", "stages"], ["head", "norm"]])
def test_fedavg_with_private_parts_by_hand(parts: list[str], tmp_path: Path) -> None:
    """FedPer, FedBN, LG-FedAvg, and two parts at once: two clients, two rounds, bit for bit."""
    # Private statistics are deployed as they are; a network all of whose statistics are is not recalibrated.
    statistics = "aggregate" if parts == ["head"] else "recalibrate"
    directory = run(
        *(tmp_path / "run", "method=fedavg", "method.weights=uniform", *TWO, *TINY),
        *(f"private=[{','.join(parts)}]", f"evaluation.statistics={statistics}"),
    )
    common = Shared(directory.config_text())
    config, space, trainer = common.config, common.space, common.trainer
    architecture = space.named(config.method.settings["architecture"])
    initial = space.initial_state(config.seed)
    private = {name for part in parts for name in space.parts[part]}
    shared = space.cut(initial, architecture)
    own = [dict(shared), dict(shared)]
    for server_round in (1, 2):
        for client in (0, 1):
            public = {name: array for name, array in shared.items() if name not in private}
            mine = {name: array.copy() for name, array in {**own[client], **public}.items()}
            model = space.load(architecture, mine).to(trainer.device)
            data = common.partitioned(str(client))
            trainer.train(
                model,
                data.train,
                epochs=1,
                batch_size=config.batch_size,
                lr=trainer.settings.learning_rate(server_round, 2),
                seed=(config.seed, server_round, client),
            )
            own[client] = to_arrays(model)
        # The mean of two floats as the running mean writes it, on what is public.
        shared = {
            name: array
            if name in private
            else own[0][name] - (own[0][name] - own[1][name]) * np.float32(0.5)
            for name, array in shared.items()
        }
    assert same(_server(directory, "model"), shared)
    for client in (0, 1):
        found = directory.private_states.load(str(client), 3)
        assert found is not None
        assert found[0] == 2
        kept = space.cut(initial | found[1].arrays, architecture)
        assert same(
            {name: kept[name] for name in private & kept.keys()},
            {name: own[client][name] for name in private & kept.keys()},
        )
        _, deployed = load_model(model_directory(directory.path, str(client)))
        assert same(deployed, {n: own[client][n] if n in private else a for n, a in shared.items()})
    sent = sum(array.nbytes for name, array in shared.items() if name not in private)
    for row in directory.clients():
        assert (row["bytes_down"], row["bytes_up"]) == (sent, sent)


def _recorded(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Return what will hold the names of the arrays of every message, down and up."""
    names: list[set[str]] = []
    for module in ("strategies.exchange", "clients.adapter"):

        def note(arrays: Arrays, to_record: Callable[[Arrays], ArrayRecord]) -> ArrayRecord:
            names.append(set(arrays))
            return to_record(arrays)

        from clients.wire import to_record

        monkeypatch.setattr(f"{module}.to_record", lambda arrays: note(arrays, to_record))
    return names


@pytest.mark.slow
def test_with_a_search_nothing_private_travels_and_a_resumed_run_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every client gets another architecture in every round."""
    names = _recorded(monkeypatch)
    arm = ("method=perfedrlnas", "private=[head,norm]", "method.damping=0.25", *TINY)
    arm = (*arm, "method.server_momentum=0.9", "clients_per_round=3")
    whole = run(tmp_path / "whole", *arm)
    space = Shared(whole.config_text()).space
    private = space.names_in(config_of(whole).private)
    assert len({tuple(row["architecture"]) for row in whole.clients()}) > 1
    assert names
    assert not private & set().union(*names)
    initial = space.initial_state(0)
    server = _server(whole, "supernet")
    assert same({n: server[n] for n in private}, {n: initial[n] for n in private})
    assert any(server[n].tobytes() != initial[n].tobytes() for n in server.keys() - private)
    with power_cut(2):
        run(tmp_path / "broken", *arm)
    again = resumed(tmp_path / "broken")
    assert results(again) == results(whole)
    for client in whole.saved_clients():
        paths = (model_directory(each.path, client) for each in (whole, again))
        left, right = (load_model(path)[1] for path in paths)
        assert same(left, right)
        assert private & left.keys()


def test_a_resumed_run_misses_private_parts_that_are_gone(tmp_path: Path) -> None:
    arm = ("method=fedavg", "private=[head]", *TWO, *TINY)
    with power_cut(2):
        run(tmp_path / "run", *arm)
    (folder,) = (tmp_path / "run").glob("**/+private/1")
    shutil.rmtree(folder)
    with pytest.raises(RefusedError, match=r"\+private/1.*after round 1 is missing"):
        resumed(tmp_path / "run")


def test_a_knowledge_network_has_private_parts_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FedKEMF: the clients' models have other architectures than the network that travels."""
    names = _recorded(monkeypatch)
    directory = run(
        *(tmp_path / "run", "method=fedkemf", "method.fusion=average", *TWO, *TINY),
        "private=[head]",
    )
    space = Shared(directory.config_text()).space
    private = space.names_in(["head"])
    assert not private & set().union(*names)
    knowledge = space.named(config_of(directory).method.settings["knowledge"])
    initial = space.cut(space.initial_state(0), knowledge)
    server = _server(directory, "model")
    assert same({n: server[n] for n in private}, {n: initial[n] for n in private})
    found = directory.private_states.load("0", 3)
    assert found is not None
    kept = space.cut(space.initial_state(0) | found[1].arrays, knowledge)
    assert all(kept[name].tobytes() != initial[name].tobytes() for name in private)


@pytest.mark.slow
def test_new_clients_start_from_the_initial_private_parts(tmp_path: Path) -> None:
    arm = ("method=fedavg", *TWO, *TINY, "new_clients=1", "evaluation.statistics=aggregate")
    trained = run(tmp_path / "trained", *arm, "private=[head]")
    stage = (*arm, "stage=new_clients", f"from={tmp_path / 'trained'}", "clients_per_round=1")
    with pytest.raises(RefusedError, match=r"private=\[\]: the run in .* has \['head'\]"):
        plan_run(small(*stage, f"run_dir={tmp_path / 'other'}"))
    directory = run(tmp_path / "new", *stage, "private=[head]")
    space = Shared(directory.config_text()).space
    _, deployed = load_model(model_directory(directory.path, "2"))
    shared, initial = _server(trained, "model"), space.initial_state(0)
    private = space.names_in(["head"])
    assert same(
        {n: a for n, a in deployed.items() if n in private}, {n: initial[n] for n in private}
    )
    assert all(shared[n].tobytes() == a.tobytes() for n, a in deployed.items() if n not in private)


@pytest.mark.parametrize(
    ("part", "prior"),
    # Parts, and modules by name: the classifier lies below the first.
    [("head", "auto"), ("head.", "auto"), ("stages", "client"), ("stages.0", "client")],
)
def test_a_private_classifier_knows_its_clients_classes(
    part: str, prior: str, tmp_path: Path
) -> None:
    overrides = small(f"run_dir={tmp_path}", f"private=[{part}]", "evaluation.prior=client")
    plan = plan_run(overrides)
    assert class_prior(plan.config, plan.space) == prior


@pytest.mark.parametrize(
    "method", quick(["heterofl", "ditto", "knn_per", "per_fedavg", "spider"], "heterofl")
)
def test_other_methods_keep_a_private_head_at_the_clients(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = _recorded(monkeypatch)
    directory = run(tmp_path / "run", f"method={method}", "private=[head]")
    space = Shared(directory.config_text()).space
    private = space.names_in(["head"])
    assert not private & set().union(*names)
    assert not any(row["state_restarted"] for row in directory.clients())
    server = _server(directory, "model")
    initial = space.initial_state(0)
    assert same({n: server[n] for n in private}, {n: initial[n] for n in private})
    assert all(load_model(model_directory(directory.path, c))[1] for c in directory.saved_clients())
