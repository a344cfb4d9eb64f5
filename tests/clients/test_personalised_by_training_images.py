"""Clients that fit a received model to their images: what they score, keep, and never look at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clients.client import Client
from clients.per_fedavg import PerFedAvgClient
from clients.site import Site, site_of
from clients.subnet import SubnetClient
from corolla.config.build import build_client
from corolla.errors import RefusedError
from corolla.launch import plan_run
from corolla.records.client_models import load_model
from corolla.tasks import Task
from corolla.types import Arrays
from tests.strategies.conftest import SMALL

FEW = ["partition.images_per_client=60"]
METHODS = ["knn_per", "per_fedavg", "fedbabu"]
SCORES = ["val_accuracy", "val_loss", "test_accuracy", "test_loss"]


def _site(method: str, *overrides: str, model_dir: Path | None = None) -> Site:
    config = plan_run([*SMALL, *FEW, f"method={method}", "run_dir=unused", *overrides]).config
    context: Any = SimpleNamespace(run_config={"config": config.to_yaml()}, node_config={})
    context.node_config["partition-id"] = 1
    return replace(site_of(context, {"client": "1"}), model_dir=model_dir)


def _message(site: Site, **settings: Any) -> tuple[Task, Arrays]:
    """Return a task and the slightly trained model that comes with it."""
    architecture = site.space.named("middle")
    arrays = site.space.cut(site.space.initial_state(3), architecture)
    model = site.space.load(architecture, {n: a.copy() for n, a in arrays.items()})
    data = site.data
    site.trainer.train(model, data.train, epochs=2, batch_size=16, lr=0.02, seed=(5,))
    found = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    task = Task(client="1", round=2, architecture=architecture, lr=0.02, **settings)
    return task, found


def _deploying(**settings: Any) -> dict[str, Any]:
    return {"epochs": 1, "extra": {"deploy": True, "keep": True}, **settings}


def _strange_test_images(site: Site) -> Site:
    test = site.data.test
    other = replace(test, pixels=255 - test.pixels, labels=(test.labels + 1) % 10)
    return replace(site, data=replace(site.data, test=other))


def _client(site: Site) -> Client:
    client: Client = build_client(site.config, site=site)
    return client


@pytest.mark.parametrize("method", METHODS)
def test_the_global_model_is_scored_as_fedavg_scores_it(method: str) -> None:
    site = _site(method)
    metrics = _client(site).evaluate(*_message(site)).metrics
    plain = SubnetClient(site=site).evaluate(*_message(site)).metrics
    assert {key: metrics[f"global_{key}"] for key in SCORES} == {key: plain[key] for key in SCORES}
    assert metrics["val_loss"] != plain["val_loss"]
    deployed = _client(site).deploy(*_message(site, **_deploying())).metrics
    for key in SCORES:
        assert deployed[f"global_{key}"] == plain[key]
        assert deployed[key] == metrics[key]  # the same personalised model, by the same seed
    assert deployed["fine_tuned_val_loss"] != deployed["val_loss"]


@pytest.mark.parametrize("method", [*METHODS, "fedrep"])
def test_test_images_decide_nothing(method: str) -> None:
    site = _site(method)
    strange = _strange_test_images(site)
    for settings in ({}, _deploying(return_arrays=True)):
        found = []
        for own in (site, strange):
            client = _client(own)
            answer = client.deploy if settings else client.evaluate
            found.append(answer(*_message(own, **settings)))
        first, second = (answer.metrics for answer in found)
        kept = {key for key in first if "test_" not in key and not key.endswith("_s")}
        assert {key: first[key] for key in kept} == {key: second[key] for key in kept}
        assert first["test_loss"] != second["test_loss"]
        left, right = (answer.arrays for answer in found)
        assert left.keys() == right.keys()
        assert bool(left) is bool(settings)
        assert all(left[name].tobytes() == right[name].tobytes() for name in left)


def test_knn_per_chooses_lambda_per_model_and_keeps_the_networks_weights(tmp_path: Path) -> None:
    site = _site("knn_per", model_dir=tmp_path / "model")
    client = build_client(site.config, site=site)
    answer = client.deploy(*_message(site, **_deploying(return_arrays=True)))
    metrics, sent = answer.metrics, answer.arrays
    assert 0 <= metrics["knn_lambda"] <= 1
    assert 0 <= metrics["fine_tuned_knn_lambda"] <= 1
    assert metrics["val_accuracy"] >= metrics["global_val_accuracy"]  # 0 is among the lambdas
    _, saved = load_model(tmp_path / "model")
    _, received = _message(site)
    for name, array in received.items():
        if "running" not in name:  # statistics are recalibrated before the model is scored
            assert array.tobytes() == saved[name].tobytes() == sent[name].tobytes()


def test_knn_per_where_validation_images_are_in_the_datastore_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"train_on_validation=True: validation images choose"):
        plan_run(["method=knn_per", "train_on_validation=true", "engine=inline", "run_dir=unused"])


def test_per_fedavg_keeps_and_sends_the_adapted_model(tmp_path: Path) -> None:
    site = _site("per_fedavg", model_dir=tmp_path / "model")
    answer = _client(site).deploy(*_message(site, **_deploying(return_arrays=True)))
    metrics, sent = answer.metrics, answer.arrays
    _, saved = load_model(tmp_path / "model")
    assert all(sent[name].tobytes() == saved[name].tobytes() for name in saved)
    _, received = _message(site)
    assert any((received[name] != saved[name]).any() for name in saved if "running" not in name)
    model = site.space.load(site.space.named("middle"), saved)
    score = site.trainer.evaluate(model, site.data.test)
    assert metrics["test_accuracy"] == score.accuracy
    images = len(site.data.train)
    assert metrics["samples_processed"] == pytest.approx(2 * images, abs=2)  # adapted, fine-tuned


@pytest.mark.parametrize("variant", ["fo", "hf", "exact"])
def test_per_fedavg_trains_with_every_variant(variant: str) -> None:
    overrides = ["method.alpha=0.05", "evaluation.received=true"]
    site = _site("per_fedavg", f"method.variant={variant}", *overrides)
    client = _client(site)
    assert isinstance(client, PerFedAvgClient)
    answer = client.fit(*_message(site, epochs=1))
    assert answer.num_examples == len(site.data.train)
    assert answer.metrics["samples_processed"] >= answer.num_examples
    assert answer.metrics["received_val_accuracy"] >= 0
    assert all(torch.from_numpy(array).isfinite().all() for array in answer.arrays.values())
