"""A method that is left no freedom equals the simpler one it contains, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corolla.records.run_directory import RunDirectory
from tests.states import same
from tests.strategies.conftest import own_models, run, saved_state, without_times
from tests.strategies.test_contract import BLOCKS

ONE = (  # a space with a single architecture
    "space.supernet.stages=["
    "{width:[8],depth:[1],kernel:[3],expand:[1],stride:1,se:false},"
    "{width:[16],depth:[1],kernel:[3],expand:[2],stride:2,se:true}]"
)


# Two clients of the smallest network in every round, a few batches each: of one, no pull shows.
PAIR = " ".join(
    (*BLOCKS["mobilenetv3_8"], "clients=2 clients_per_round=2 evaluation.every=0 batch_size=8")
)
FIRST, BOTH = (
    f"{PAIR} rounds=1",
    f"{PAIR} rounds=2",
)  # some are FedAvg as long as they know nothing yet
SERVER = f"{BOTH} server_set=held_out server_set.images=50"
UNIFORM = "fedavg method.weights=uniform"
LOCAL, SMALLEST = "local", "local method.architecture=smallest"
BALANCED = "trainer.loss=balanced_softmax_client"
ALPHA_1 = {UNIFORM: "model global", LOCAL: "own test_accuracy val_accuracy fine_tuned"}
ALPHA_0 = {UNIFORM: "test_accuracy=global.test_accuracy global"}
# The method, what both runs share, and what it has in common with which others: a part of the server's
# state, the clients' `own` or `deployed` models, what the summary says. `!`: here it is another.
# fmt: off
REDUCTIONS: list[Any] = [
    ("apfl method.alpha=1.0 method.mix=weights", BOTH, ALPHA_1),
    ("apfl method.alpha=1.0 method.mix=outputs", BOTH, ALPHA_1),
    ("apfl method.alpha=0.0 method.mix=weights", BOTH, ALPHA_0),
    ("apfl method.alpha=0.0 method.mix=outputs", BOTH, ALPHA_0),
    ("corolla method/proposals=costliest method.inner_share=0 method.head_l2=null method.server_momentum=0"
     " trainer.absent_count=1", BOTH,
     {f"fedavg method.architecture=largest {BALANCED}": "supernet=model test_accuracy"}),
    ("ditto method.lambda_local=0.0", BOTH, {LOCAL: "deployed test_accuracy", "fedavg": "model"}),
    ("ditto method.lambda_local=5", BOTH, {LOCAL: "!deployed", "fedavg": "model"}),
    ("fedbabu private=[] method.adapt_epochs=0", FIRST,
     {"fedavg": "model test_accuracy global fine_tuned global.test_accuracy=test_accuracy"}),
    ("feddyn method.alpha=0.0", FIRST, {UNIFORM: "model"}),
    ("fedkemf method.alpha=0 method.fusion=average method.architectures=middle", SERVER,
     {LOCAL: "own test_accuracy", "fedavg method.architecture=smallest": "model global"}),
    ("fedmd method.digest_epochs=0 method.architectures=smallest", SERVER,
     {SMALLEST: "own test_accuracy fine_tuned val_accuracies"}),
    ("fedprox method.mu=0.0", BOTH, {"fedavg": "model"}),
    ("fedrep private=[]", FIRST, {"fedavg": "model test_accuracy global fine_tuned"}),
    ("fedrod", FIRST, {f"fedavg {BALANCED} evaluation.prior=none": "model global"}),
    ("fiarse method.sizes=[1.0] method.weights=examples", BOTH,
     {"fedavg": "model test_accuracy global.test_accuracy"}),
    ("fml method.labels_own=1.0 method.labels_shared=0.5", BOTH,
     {LOCAL: "own test_accuracy", UNIFORM: "!model"}),
    ("fml method.labels_own=0.5 method.labels_shared=1.0", BOTH,
     {LOCAL: "!own", UNIFORM: "model global"}),
    ("l2gd method.beta=0.0 method.optimizer=keep", BOTH, {LOCAL: "own test_accuracy fine_tuned"}),
    ("l2gd method.beta=1.0", BOTH,
     {UNIFORM: "model test_accuracy global.test_accuracy=test_accuracy"}),
    ("perfed_ckt method.lambda_public=0 method.architectures=smallest", SERVER,
     {SMALLEST: "own test_accuracy"}),
    ("perfed_ckt method.lambda_public=5 method.architectures=smallest", SERVER, {SMALLEST: "!own"}),
    ("perfedrlnas method.weights=examples", ONE,
     {"fedavg": "supernet=model test_accuracy=global.test_accuracy cohorts", LOCAL: "cohorts"}),
    pytest.param("perfedrlnas method.weights=uniform", ONE,
                 {UNIFORM: "supernet=model test_accuracy=global.test_accuracy"}, marks=pytest.mark.slow),
    ("scaffold", FIRST, {UNIFORM: "model"}),
    # Local's clients keep momentum from round to round.
    ("sfl method.alpha=0 method.lambda_global=0 method.lambda_graph=0",
     f"{BOTH} trainer.momentum=0 evaluation.fine_tune_epochs=0", {LOCAL: "deployed"}),
]
# fmt: on


def weights_of(directory: RunDirectory, prefix: str) -> dict[str, np.ndarray]:
    return saved_state(directory).part(prefix)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunDirectory]:
    """Return what makes each run once, however many methods are compared with it."""

    @cache
    def of(text: str) -> RunDirectory:
        method, *settings = text.split()
        return run(tmp_path_factory.mktemp(method) / "run", f"method={method}", *settings)

    return of


def _found(directory: RunDirectory, what: str) -> Any:
    """Return networks, name by name, or what the summary says."""
    if what in ("model", "supernet"):
        return {"": weights_of(directory, f"strategy/{what}/")}
    if what == "own":
        return own_models(directory)
    if what == "deployed":
        return {c: directory.client_model(c)[1] for c in directory.saved_clients()}
    if what == "cohorts":
        return [line["participants"] for line in directory.metrics()]
    if what == "val_accuracies":
        return [row["val_accuracy"] for row in directory.clients()]
    said = directory.summary()
    for key in what.split("."):
        said = said[key]
    return without_times(said)


def _alike(left: Any, right: Any) -> bool:
    if isinstance(left, dict) and any(isinstance(entry, dict) for entry in left.values()):
        return left.keys() == right.keys() and all(_alike(left[key], right[key]) for key in left)
    if isinstance(left, dict) and any(isinstance(entry, np.ndarray) for entry in left.values()):
        return same(left, right)
    return bool(left == right)


@pytest.mark.parametrize(("method", "common", "others"), REDUCTIONS)
def test_a_method_equals_the_one_it_contains(
    method: str, common: str, others: dict[str, str], finished: Callable[[str], RunDirectory]
) -> None:
    ours = finished(f"{method} {common}")
    for plain, compared in others.items():
        theirs = finished(f"{plain} {common}")
        for text in compared.split():
            mine, _, other = text.removeprefix("!").partition("=")
            left, right = _found(ours, mine), _found(theirs, other or mine)
            assert left, mine
            assert _alike(left, right) is not text.startswith("!"), f"{text} of {plain}"


def test_budgets_are_kept_by_every_deployed_architecture(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", "memory_budget_mib=space", "batch_size=32", "rounds=4")
    for entry in directory.summary()["per_client"].values():
        assert entry["training_memory_mib"] <= entry["memory_budget_mib"]
    for row in directory.clients():
        assert row["memory_mib"] <= row["memory_budget_mib"]


def test_local_trained_to_convergence_reaches_everybody_once(tmp_path: Path) -> None:
    directory = run(
        tmp_path / "run", "method=local", "method.budget=converged", "method.max_epochs=3"
    )
    participants = [client for line in directory.metrics() for client in line["participants"]]
    assert sorted(participants) == ["0", "1", "2", "3"]
    assert len(directory.metrics()) == 2  # of 3 rounds: nobody was left
