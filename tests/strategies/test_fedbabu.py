"""FedBABU: a head that nothing moves, one for all, until a client fine-tunes."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from clients.deploy import scores
from clients.fedbabu import FedBabuClient
from corolla.config.build import build_space
from corolla.launch import plan_run
from corolla.records.client_models import load_model, model_directory
from corolla.spaces.supernet import to_arrays
from tests.strategies.conftest import run, small
from tests.strategies.test_fedrep import HEAVY, TINY, changed, client_alone, model_and_task
from tests.strategies.test_reductions import weights_of

BOTH = (*TINY, "clients=2", "clients_per_round=2", "rounds=1", "evaluation.every=0")


def test_nothing_moves_the_head_and_it_is_the_same_for_all(tmp_path: Path) -> None:
    """Momentum and decay on, two rounds: at the server, on the clients' disks, in what is deployed."""
    directory = run(
        tmp_path / "run",
        *("method=fedbabu", "method.adapt_epochs=0", *HEAVY, *BOTH, "rounds=2"),
        "evaluation.fine_tune_epochs=0",
    )
    config = plan_run(small("method=fedbabu", "run_dir=unused", *BOTH)).config
    space = build_space(config)
    initial, head = space.initial_state(0), space.names_in(["head"])
    server = weights_of(directory, "strategy/model/")
    assert all(server[name].tobytes() == initial[name].tobytes() for name in head)
    for client in ("0", "1"):
        found = directory.private_states.load(client, 3)
        assert found is not None
        _, deployed = load_model(model_directory(directory.path, client))
        for name in head:
            assert found[1].arrays[name].tobytes() == initial[name].tobytes()
            assert deployed[name].tobytes() == initial[name].tobytes()
    payload = sum(array.nbytes for name, array in server.items() if name not in head)
    assert {(row["bytes_down"], row["bytes_up"]) for row in directory.clients()} == {
        (payload, payload)
    }


@pytest.mark.parametrize("private", ["head", "head."])  # the part; the module
def test_training_moves_all_but_the_head(private: str, tmp_path: Path) -> None:
    client: FedBabuClient = client_alone(tmp_path, "fedbabu", *HEAVY, f"private=['{private}']")
    model, task = model_and_task(client)
    start = deepcopy(model)
    client._train(model, task)
    assert changed(start, model) == to_arrays(model).keys() - client._head


@pytest.mark.parametrize("adapts", ["all", "body", "head"])
def test_a_client_fine_tunes_what_it_is_told_to(adapts: str, tmp_path: Path) -> None:
    client: FedBabuClient = client_alone(tmp_path, "fedbabu", *HEAVY, f"method.adapts={adapts}")
    model, task = model_and_task(client)
    start = deepcopy(model)
    alone = scores(client._site, model, shared=True, prefix="global_")
    samples, _, _ = client._personal(model, task)
    statistics = {name for name, _ in model.named_buffers()}
    body = to_arrays(model).keys() - client._head - statistics
    moved = {"all": body | client._head, "body": body, "head": client._head}[adapts]
    assert changed(start, model) == moved | statistics
    assert samples == 5 * 12
    # What came is scored before, and both are told: F = 0 and F.
    told = client.evaluate(replace(task, epochs=0), to_arrays(start)).metrics
    assert {key: told[key] for key in alone} == alone
    assert told["test_loss"] != told["global_test_loss"]
