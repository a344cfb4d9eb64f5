"""HeteroFL and FedRolex: who gets which part, what is averaged, what is masked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clients.site import Site, site_of
from clients.width_sliced import ClassSettings, WidthSlicedClient
from corolla.aggregation.regions import region_shape
from corolla.config.build import build_space, build_strategy, build_trainer_settings
from corolla.federation import Federation
from corolla.launch import plan_run
from corolla.records.client_models import load_model
from corolla.spaces.architecture import Architecture
from corolla.tasks import Reply, Task
from corolla.types import Arrays
from strategies.heterofl import HeteroFL
from tests.conftest import quick
from tests.states import same
from tests.strategies.conftest import reply_to, run, small, without_times
from tests.strategies.test_reductions import weights_of

METHODS = ["heterofl", "fedrolex"]
SPACE = "space=mobilenetv2_width_8"
LIMITS = "method.assignment=limits"
FREE = ["method.mask_absent=false", "method.class_rows=false"]
ROWS = ("head.classifier.weight", "head.classifier.bias")
BIAS = "head.classifier.bias"


@cache
def _config(method: str, overrides: tuple[str, ...]) -> Any:
    config = plan_run(small(f"method={method}", "run_dir=unused", *overrides)).config
    return config, build_space(config), build_trainer_settings(config)


def _strategy(method: str, *overrides: str, caps: Mapping[str, float] | None = None) -> HeteroFL:
    config, space, trainer = _config(method, overrides)
    federation = Federation.of(config, space=space, trainer=trainer, budgets={}, caps=caps)
    strategy: HeteroFL = build_strategy(config, federation=federation)
    return strategy


def _given(strategy: HeteroFL, server_round: int, clients: int = 4) -> list[int]:
    orders = strategy.orders(server_round, [str(client) for client in range(clients)])
    return [order.task.architecture.choices[0] for order in orders]


def _reply(task: Task, arrays: Arrays, **notes: Any) -> Reply:
    return reply_to(task, arrays, notes=notes)


def _constant(strategy: HeteroFL, server_round: int, values: Mapping[str, float]) -> list[Reply]:
    return [
        _reply(
            order.task,
            {
                n: np.full(s, values[order.task.client], np.float32)
                for n, s in order.returns.items()
            },
        )
        for order in strategy.orders(server_round, list(values))
    ]


def _model(strategy: HeteroFL) -> Arrays:
    return strategy.state().part("model/")


# --- reductions -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", quick(METHODS, "heterofl"))
def test_whole_networks_without_mask_and_class_rows_are_fedavgs(
    method: str, tmp_path: Path
) -> None:
    common = [SPACE, "method.weights=examples", "rounds=2"]
    sliced = run(tmp_path / "sliced", f"method={method}", LIMITS, *FREE, *common)
    averaged = run(tmp_path / "averaged", "method=fedavg", "method.architecture=largest", *common)
    ours, theirs = (weights_of(each, "strategy/model/") for each in (sliced, averaged))
    assert same(ours, theirs)
    wanted = averaged.summary()["global"]["test_accuracy"]
    assert without_times(sliced.summary()["test_accuracy"]) == without_times(wanted)
    assert "global" not in sliced.summary()  # what clients of other rates could not run


# --- who gets which part --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", quick(METHODS, "fedrolex"))
def test_a_client_gets_the_largest_rate_within_its_limits(method: str) -> None:
    _, space, _ = _config(method, ())
    macs = [space.costs(architecture).macs for architecture in space.enumerate()]
    caps = {"0": macs[2], "1": macs[2] - 1, "2": macs[0]}  # "3" has none
    assert _given(_strategy(method, LIMITS, caps=caps), 1) == [2, 1, 0, 4]


def test_fixed_rates_are_dealt_out_in_turn_below_the_limits() -> None:
    fixed = ["method.assignment=fixed", "method.rates=[1.0,0.25,0.25]"]
    assert _given(_strategy("heterofl", *fixed), 1, clients=7) == [4, 2, 2, 4, 2, 2, 4]
    _, space, _ = _config("heterofl", ())
    cap = float(space.costs(Architecture((3,))).macs)
    strategy = _strategy("heterofl", *fixed, caps={"0": cap, "1": cap})
    assert [_given(strategy, r, clients=3) for r in (1, 2)] == [[3, 2, 2]] * 2


def test_dynamic_rates_are_drawn_every_round_from_seed_round_and_client() -> None:
    strategy = _strategy("heterofl", "method.rates=[0.5,0.5,0.5,1.0]")
    drawn = [_given(strategy, server_round) for server_round in range(1, 51)]
    assert drawn == [_given(strategy, server_round) for server_round in range(1, 51)]
    counts = np.bincount(np.array(drawn).ravel(), minlength=5)
    assert counts[:3].sum() == 0
    assert 0.7 < counts[3] / 200 < 0.8  # three of four; a deviation of 3 % is likely
    assert len({tuple(rates) for rates in drawn}) > 4


# --- what is averaged -----------------------------------------------------------------------------------


def test_every_entry_is_the_mean_of_those_who_hold_it_by_hand() -> None:
    """16 channels of the stem: 4 held by all three, 4 more by two, the other 8 by one."""
    fixed = ["method.assignment=fixed", "method.rates=[0.25,0.5,1.0]"]
    strategy = _strategy("heterofl", *fixed)
    strategy.absorb(1, _constant(strategy, 1, {"0": 1.0, "1": 2.0, "2": 6.0}))
    stem = _model(strategy)["stem.bn.weight"]
    np.testing.assert_allclose(stem, [3.0] * 4 + [4.0] * 4 + [6.0] * 8, rtol=1e-6)
    # Rows of classes whole, of 64 features 16 held by all, 16 more by two.
    row = _model(strategy)["head.classifier.weight"][9]
    np.testing.assert_allclose(row, [3.0] * 16 + [4.0] * 16 + [6.0] * 32, rtol=1e-6)


def test_windows_roll_and_what_nobody_holds_stays_by_hand() -> None:
    """Two of the stem's 8 outputs in stage 0, 4 of its 16 channels; round 14 begins at 14 and ends at 1."""
    fixed = ["method.assignment=fixed", "method.rates=[0.25]"]
    strategy = _strategy("fedrolex", *fixed)
    before = _model(strategy)
    strategy.absorb(14, _constant(strategy, 14, {"0": 7.0, "1": 9.0}))
    after = _model(strategy)
    held = np.zeros(16, bool)
    held[[14, 15, 0, 1]] = True
    np.testing.assert_array_equal(after["stem.bn.weight"][held], 8.0)
    np.testing.assert_array_equal(after["stem.bn.weight"][~held], before["stem.bn.weight"][~held])
    project = after["stages.0.0.project.conv.weight"][:, :, 0, 0]
    window = np.zeros((8, 16), bool)
    window[np.ix_([6, 7], [14, 15, 0, 1])] = True  # 14 mod 8 = 6
    np.testing.assert_array_equal(project == 8.0, window)


@pytest.mark.parametrize("method", METHODS)
def test_entries_held_count_as_the_parts_sent(method: str) -> None:
    """The sum over entries of their holders is the sum over clients of their parts' sizes."""
    strategy = _strategy(method)
    model = _model(strategy)
    count = {name: np.zeros(array.shape, int) for name, array in model.items()}
    sent = 0
    for order in strategy.orders(5, ["0", "1", "2", "3"]):
        sent += sum(array.size for array in order.arrays.values())
        regions = strategy._regions(5, order.task.architecture)
        for name, place in regions.places.items():
            count[name][place.key] += 1
            assert region_shape(regions[name], model[name].shape) == order.arrays[name].shape
            np.testing.assert_array_equal(order.arrays[name], model[name][place.key])
            assert order.returns[name] == order.arrays[name].shape
    assert sum(int(held.sum()) for held in count.values()) == sent
    strategy.absorb(5, _constant(strategy, 5, dict.fromkeys("0123", 77.0)))
    for name, array in _model(strategy).items():
        np.testing.assert_array_equal(array == 77.0, count[name] > 0, name)


def _told(told: dict[str, Any], *overrides: str) -> tuple[Arrays, Arrays]:
    """Return the rows of classes before and after clients with ``told`` classes returned 0, 1, ..."""
    whole = ["method.assignment=fixed", "method.rates=[1.0]"]
    strategy = _strategy("heterofl", *whole, *overrides)
    before = _model(strategy)
    replies = _constant(strategy, 1, {client: float(client) for client in told})
    replies = [replace(reply, notes={"classes": told[reply.client]}) for reply in replies]
    strategy.absorb(1, replies)
    return before, _model(strategy)


def test_rows_of_classes_are_averaged_over_those_who_have_the_class() -> None:
    before, after = _told({"1": [0, 2], "2": [2], "6": list(range(4))})
    # Class 0: clients 1 and 6; 1: 6 alone; 2: 1, 2 and 6; 3: 6 alone; the other six: nobody.
    np.testing.assert_allclose(after[BIAS][:4], [3.5, 6.0, 3.0, 6.0], rtol=1e-6)
    for name in ROWS:
        np.testing.assert_array_equal(after[name][4:], before[name][4:])
    np.testing.assert_allclose(after["head.classifier.weight"][0], 3.5, rtol=1e-6)
    np.testing.assert_allclose(after["head.last.bn.weight"], 3.0, rtol=1e-6)  # all three


def test_who_tells_no_classes_counts_for_all_rows(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "corolla"):
        _, after = _told({"1": [0], "3": [0, 10], "5": None})
    np.testing.assert_allclose(after[BIAS], [3.0] + [4.0] * 9, rtol=1e-6)
    assert "client 3: classes=[0, 10] are not classes of this data set" in caplog.text
    _, after = _told({"1": [0], "3": [1]}, "method.class_rows=false")
    np.testing.assert_allclose(after[BIAS], 2.0, rtol=1e-6)


@pytest.mark.parametrize("told", [[], [1, 1], [-1], ["0"], [0.5], 3, [[1]]])
def test_what_is_no_list_of_classes_counts_for_all_rows(told: Any) -> None:
    _, after = _told({"1": told, "3": None})
    np.testing.assert_allclose(after[BIAS], 2.0, rtol=1e-6)


def test_deployed_is_the_window_of_the_last_round_that_trained() -> None:
    fixed = ["method.assignment=fixed", "method.rates=[0.25]"]
    strategy, other = (_strategy("fedrolex", *fixed) for _ in range(2))
    strategy.absorb(3, _constant(strategy, 3, {"0": 7.0}))
    strategy.absorb(4, [])  # nobody answered
    other.load_state(strategy.state())
    for each in (strategy, other):
        part = each.deployed("1").arrays
        assert all((array == 7.0).all() for array in part.values())


# --- the client -----------------------------------------------------------------------------------------


def _site(*overrides: str, labels: int = 4, model_dir: Path | None = None) -> Site:
    """Return a client that trains on images of the first ``labels`` classes alone."""
    few = ["partition.balanced=true", "partition.images_per_client=120"]
    plain = ["trainer.weight_decay=0"]  # which would shrink the rows of absent classes
    texts = small("method=heterofl", "run_dir=unused", *few, *plain, *overrides)
    context: Any = SimpleNamespace(
        run_config={"config": plan_run(texts).config.to_yaml()}, node_config={"partition-id": 1}
    )
    site = site_of(context, {"client": "1"})
    train = site.data.train
    keep = (train.labels < labels).nonzero()[:, 0]
    data = replace(site.data, train=train.select(keep.numpy()))
    return replace(site, data=data, model_dir=model_dir)


def _message(site: Site, **settings: Any) -> tuple[Task, Arrays]:
    architecture = Architecture((2,))
    arrays = site.space.cut(site.space.initial_state(3), architecture)
    rng = np.random.default_rng(0)
    arrays[BIAS] = rng.normal(0, 1, 10).astype(np.float32)
    values = {"epochs": 1, "lr": 0.05, **settings}
    return Task(client="1", round=2, architecture=architecture, **values), arrays


def _copies(arrays: Arrays) -> Arrays:
    return {name: array.copy() for name, array in arrays.items()}


class _Masked(nn.Module):
    """The mask as HeteroFL's public code writes it."""

    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(images)
        return logits.masked_fill(torch.arange(10) >= self.classes, 0.0)


def test_scores_are_those_of_logits_with_the_mask() -> None:
    site = _site("evaluation.statistics=aggregate")
    task, arrays = _message(site)
    client = WidthSlicedClient(site=site, settings=ClassSettings(mask_absent=True, class_rows=True))
    metrics = client.evaluate(task, _copies(arrays)).metrics
    data = site.data
    model = site.space.load(Architecture((2,)), arrays)
    for split, images in (("val", data.validation), ("test", data.test)):
        found = site.trainer.evaluate(_Masked(model, 4), images)
        assert metrics[f"{split}_accuracy"] == found.accuracy
        assert metrics[f"{split}_loss"] == pytest.approx(found.loss, rel=1e-6)


def test_training_sends_back_absent_rows_as_they_came_and_tells_the_classes() -> None:
    site = _site()
    task, arrays = _message(site)
    client = WidthSlicedClient(site=site, settings=ClassSettings(mask_absent=True, class_rows=True))
    answer = client.fit(task, _copies(arrays))
    trained = answer.arrays
    for name in ROWS:
        np.testing.assert_array_equal(trained[name][4:], arrays[name][4:])
        assert not np.isclose(trained[name][:4], arrays[name][:4], atol=1e-6).all()
    assert not np.array_equal(trained["stem.conv.weight"], arrays["stem.conv.weight"])
    assert answer.metrics["classes"] == [0, 1, 2, 3]
    again = WidthSlicedClient(
        site=site, settings=ClassSettings(mask_absent=False, class_rows=False)
    )
    answer = again.fit(*_message(site))
    assert not np.isclose(answer.arrays[BIAS][4:], arrays[BIAS][4:], atol=1e-6).any()
    assert "classes" not in answer.metrics


def test_scores_before_training_do_not_change_the_training() -> None:
    with_scores, without = (
        WidthSlicedClient(
            site=_site(f"evaluation.received={flag}"),
            settings=ClassSettings(mask_absent=True, class_rows=True),
        )
        for flag in ("true", "false")
    )
    site = _site()
    first, second = (each.fit(*_message(site)) for each in (with_scores, without))
    assert first.arrays.keys() == second.arrays.keys()
    assert all(np.array_equal(array, second.arrays[n]) for n, array in first.arrays.items())
    assert "received_val_accuracy" in first.metrics
    assert "received_val_accuracy" not in second.metrics


@pytest.mark.parametrize("deploy", ["as_trained", "fine_tuned"])
def test_the_model_that_is_kept_has_the_mask_in_it(deploy: str, tmp_path: Path) -> None:
    site = _site(f"evaluation.deploy={deploy}", model_dir=tmp_path)
    client = WidthSlicedClient(site=site, settings=ClassSettings(mask_absent=True, class_rows=True))
    metrics = client.deploy(*_message(site, extra={"deploy": True, "keep": True})).metrics
    _, kept = load_model(tmp_path)
    for name in ROWS:
        assert not kept[name][4:].any()
        assert kept[name][:4].all()
    model = site.space.load(Architecture((2,)), kept)
    data = site.data
    found = site.trainer.evaluate(model, data.test)
    prefix = "" if deploy == "as_trained" else "fine_tuned_"
    assert metrics[f"{prefix}test_accuracy"] == found.accuracy
