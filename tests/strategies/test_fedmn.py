"""FedMN: which modules are on, what they learn, what comes back, what the server makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clients.fedmn import ROUTER, TEMPERATURE, FedMNClient
from corolla.data.images import Images
from corolla.export import load_client_model
from corolla.records.client_models import load_model
from corolla.spaces.modular import ModularSpace, ModulePool
from corolla.tasks import Answer, Reply, Task
from corolla.training.routing import chosen, drawn, router_of, summary_of, switched_on
from corolla.training.settings import LoopSettings, TrainerSettings
from corolla.training.trainer import LocalTrainer
from corolla.types import Arrays
from strategies.base import CorollaStrategy
from tests.conftest import make_space
from tests.spaces import from_values
from tests.strategies.conftest import run, without_times
from tests.strategies.test_contract import _config, _replies, _strategy
from tests.strategies.test_reductions import weights_of

OURS = "method=fedmn"
TINY = ("clients=2", "clients_per_round=2", "rounds=1", "evaluation.every=0")
FROZEN, MOVING = "method.frozen_share=1", "method.frozen_share=0"


class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * self.factor


# --- modules and gates ----------------------------------------------------------------------------------


def test_a_pool_gives_the_mean_of_the_modules_that_are_on_and_their_gradient() -> None:
    """Of 1, 2 and 4 times the input: (1 + 4) / 2 = 2.5; d/dz_j is (m_j - 2.5) / 2."""
    pool = ModulePool({0: _Times(1.0), 1: _Times(2.0), 2: _Times(4.0)})
    assert pool(torch.ones(1)).item() == pytest.approx(7 / 3)
    pool.gates = torch.tensor([1.0, 0.0, 1.0], requires_grad=True)
    found = pool(torch.ones(1))
    found.sum().backward()
    assert found.item() == 2.5
    assert pool.gates.grad is not None
    assert pool.gates.grad.tolist() == [-0.75, -0.25, 0.75]
    assert [p.grad.item() for p in pool.parameters() if p.grad is not None] == [0.5, 0.0, 0.5]


def test_one_module_is_on_at_least_and_gates_have_the_relaxations_gradient() -> None:
    logits = torch.tensor([[1.0, -1.0, 2.0], [-3.0, -1.0, -2.0]])
    assert switched_on(logits).tolist() == [[1, 0, 1], [0, 1, 0]]
    torch.manual_seed(0)
    logits = torch.full((2000, 3), 0.5, requires_grad=True)
    gates = drawn(logits, 2.0)
    assert set(gates.unique().tolist()) == {0.0, 1.0}  # exactly
    assert (gates.sum(1) >= 1).all()
    none = (1 - 1 / (1 + np.exp(-0.5))) ** 3  # such a layer has one on all the same
    share = 1 / (1 + np.exp(-0.5)) + none / 3
    assert gates.mean().item() == pytest.approx(share, abs=0.02)
    gates.sum().backward()
    torch.manual_seed(0)
    uniform = torch.rand(2000, 3).clamp(1e-6, 1 - 1e-6)
    soft = ((0.5 + uniform.log() - (1 - uniform).log()) / 2).sigmoid()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, soft * (1 - soft) / 2, atol=1e-4, rtol=1e-3)


def _space(**changes: Any) -> ModularSpace:
    base = {
        "_target_": "corolla.spaces.resnet18.ResNet18Space",
        "resolution": 8,
        "width": 2,
        "norm": "batch",
        "groups": 2,
    }
    space: ModularSpace = make_space("resnet18_modules", base=base, **changes)
    return space


def test_an_architecture_says_which_modules_are_there() -> None:
    space = _space(modules=3)
    assert space.dimensions[0].choices == ("0", "1", "2", "0+1", "0+2", "1+2", "0+1+2")
    some = space.of([[2], [1, 0]])
    assert space.on(some) == [(2,), (0, 1)]
    names = list(space.shapes(some))
    assert {n.split(".")[3] for n in names if n.startswith("layer4.0.alt")} == {"2"}
    assert space.modules_in(names) == some
    state = space.initial_state(0)
    first, second = (state[f"layer4.1.alternatives.{j}.conv1.weight"] for j in (0, 1))
    assert not np.array_equal(first, second)  # or no router could tell them apart
    for wrong in (names[:-3], [n for n in names if not n.startswith("layer4.0")], [*names, "x"]):
        with pytest.raises(ValueError, match="not whole, or of a layer without any"):
            space.modules_in(wrong)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": ["layer4.2"]}, r"layers='layer4.2': is no module. Did you mean 'layer4"),
        ({"layers": ["layer4", "layer4.0"]}, "distinct modules, none inside another"),
        ({"layers": []}, "distinct modules"),
        ({"modules": 0}, "modules=0: need 1 to 6 alternatives"),
        ({"modules": 7}, "modules=7"),
    ],
)
def test_layers_that_are_none_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _space(**changes)


# --- the router -----------------------------------------------------------------------------------------


def _summary(space: ModularSpace, classes: list[int]) -> torch.Tensor:
    """Return what a client says that has grey images of these classes alone, one of each."""
    pixels = torch.full((len(classes), 3, 8, 8), 128, dtype=torch.uint8)
    images = Images(pixels, torch.tensor(classes), (0.5,) * 3, (0.25,) * 3)
    trainer = LocalTrainer(settings=TrainerSettings(optimizer="sgd", lr=0.1), loop=LoopSettings())
    return summary_of(space, space.subnet(space.largest()), images, trainer=trainer)


def test_a_class_counts_by_how_often_it_comes_against_an_even_share() -> None:
    """Of 4 classes: 1/4 is even; 3/4 is 3 times that, so 2 above it; 0 is 1 below it."""
    space = _space(num_classes=4)
    said = _summary(space, [0, 0, 0, 1])
    assert said[-4:].tolist() == [2.0, 0.0, -1.0, -1.0]
    assert said[:-4].mean().item() == pytest.approx(0.0, abs=1e-5)


def test_clients_of_other_classes_learn_to_take_other_modules() -> None:
    """Each is best off with a module of its own; 20 steps of a router that both share tell them apart."""
    space = _space(num_classes=10, modules=2)
    summaries = [_summary(space, list(range(5))), _summary(space, list(range(5, 10)))]
    torch.manual_seed(0)
    router = router_of(space, 32)
    step = torch.optim.SGD(router.parameters(), lr=0.05)
    for _ in range(20):
        step.zero_grad()
        for number, summary in enumerate(summaries):
            gates = drawn(router(summary), 1.0)
            (gates[:, 1 - number] - gates[:, number]).sum().backward()
        step.step()
    taken = [space.on(chosen(space, router, summary)) for summary in summaries]
    assert taken == [[(0,)] * len(space.layers), [(1,)] * len(space.layers)]
    apart = (router(summaries[0]) - router(summaries[1])).detach() * torch.tensor([1.0, -1.0])
    assert apart.min() > 2  # of a draw's noise, whose deviation is 1.8; over seeds it is 2.4 to 5.4


# --- the server -----------------------------------------------------------------------------------------


def _only(strategy: CorollaStrategy, reply: Reply, on: list[list[int]], value: float) -> Reply:
    """Return a reply with these modules alone, all of whose numbers are one."""
    space = strategy.space
    assert isinstance(space, ModularSpace)
    names = [*space.shapes(space.of(on)), *(n for n in reply.arrays if n.startswith(ROUTER))]
    arrays = {name: np.full_like(reply.arrays[name], value) for name in names}
    return replace(reply, arrays=arrays)


def test_modules_are_averaged_over_those_who_had_them_on_by_hand() -> None:
    strategy = _strategy(_config("fedmn", "space.supernet.modules=3"))
    before = strategy.state().part("model/")
    one, other = _replies(strategy, 1, ["0", "2"])  # 10 and 12 images
    replies = [_only(strategy, one, [[0], [0, 1]], 1.0), _only(strategy, other, [[0, 2], [1]], 4.0)]
    outcome = strategy.absorb(1, replies[::-1])
    after = strategy.state().part("model/")
    both = (10 * 1 + 12 * 4) / 22
    wanted = {"convolutions.1": (both, None, 4.0), "hidden.0": (1.0, both, None)}
    for layer, values in wanted.items():
        for number, value in enumerate(values):
            name = f"{layer}.alternatives.{number}.weight"
            expected = before[name] if value is None else value
            np.testing.assert_allclose(after[name], expected, rtol=1e-6)
    for name in ("convolutions.0.weight", "classifier.bias", f"{ROUTER}out.bias"):
        np.testing.assert_allclose(after[name], both, rtol=1e-6)
    assert outcome.metrics == {"modules_trained": 3.0}


def test_temperatures_fall_and_the_last_rounds_draw_nothing() -> None:
    strategy = _strategy(_config("fedmn", "rounds=5", "method.frozen_share=0.4"))
    found = [strategy.orders(r, ["0"])[0].task.extra.get(TEMPERATURE) for r in range(1, 6)]
    assert found == [1.0, pytest.approx(0.1**0.5), pytest.approx(0.1), None, None]


# --- runs -----------------------------------------------------------------------------------------------


def test_with_one_module_a_layer_it_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    tiny = ("space.supernet.resolution=16", *TINY)
    fedavg = run(tmp_path / "fedavg", "method=fedavg", "space=lenet", *tiny)
    ours = run(tmp_path / "ours", OURS, "space.supernet.modules=1", FROZEN, *TINY)
    left, right = (weights_of(each, "strategy/model/") for each in (ours, fedavg))
    for name, array in right.items():
        pooled = name.replace("convolutions.1.", "convolutions.1.alternatives.0.")
        pooled = pooled.replace("hidden.0.", "hidden.0.alternatives.0.")
        assert left[pooled].tobytes() == array.tobytes(), name
    wanted = without_times(fedavg.summary()["test_accuracy"])
    assert without_times(ours.summary()["test_accuracy"]) == wanted


def test_what_is_off_stays_with_the_client_and_is_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The router does not learn: each trains its own choice, and one that never took part deploys its own."""
    returned: list[Arrays] = []
    fit = FedMNClient.fit

    def noted(self: FedMNClient, task: Task, arrays: Arrays) -> Answer:
        answer = fit(self, task, arrays)
        returned.append(answer.arrays)
        return answer

    monkeypatch.setattr(FedMNClient, "fit", noted)
    three = ("clients=3", "clients_per_round=1", "rounds=1", "evaluation.every=0")
    directory = run(
        tmp_path / "run", OURS, FROZEN, *three, "evaluation.fine_tune_epochs=0",
        "evaluation.statistics=aggregate",
    )  # fmt: skip
    strategy = _strategy(_config("fedmn"))
    before, after = strategy.state().part("model/"), weights_of(directory, "strategy/model/")
    (back,) = returned
    for name, array in before.items():
        same = after[name].tobytes() == array.tobytes()
        assert same == (name.startswith(ROUTER) or name not in back), name
    (row,) = directory.clients()
    space = strategy.space
    assert isinstance(space, ModularSpace)
    trained = space.modules_in([name for name in back if not name.startswith(ROUTER)])
    assert row["modules_trained"] == sum(len(numbers) for numbers in space.on(trained))
    assert row["bytes_up"] == sum(array.nbytes for array in back.values()) < row["bytes_down"]
    (absent, *_) = {"0", "1", "2"} - {row["client"]}
    description, kept = load_model(directory.path / "clients" / absent)
    assert list(kept) == list(space.shapes(from_values(space, description["architecture"])))
    assert all(kept[name].tobytes() == after[name].tobytes() for name in kept)
    load_client_model(directory.path, absent)


def test_a_router_learns_and_a_lacking_array_is_its_clients_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = FedMNClient.fit

    def lie(self: FedMNClient, task: Task, arrays: Arrays) -> Answer:
        answer = fit(self, task, arrays)
        kept = dict(answer.arrays)
        if task.client == "0":
            del kept["convolutions.0.weight"]
        if task.client == "1":
            del kept[next(name for name in kept if "hidden.0.alternatives" in name)]
        return replace(answer, arrays=kept)

    monkeypatch.setattr(FedMNClient, "fit", lie)
    everybody = ("clients=3", "clients_per_round=3", "rounds=1", "evaluation.every=0")
    directory = run(tmp_path / "run", OURS, MOVING, *everybody, "evaluation.fine_tune_epochs=0")
    (line,) = directory.metrics()
    assert line["participants"] == ["2"]
    reasons = {failed["client"]: failed["reason"] for failed in line["failed"]}
    assert "1 wrong array names, the first: 'convolutions.0.weight'" in reasons["0"]
    assert "arrays of modules that are not whole" in reasons["1"]
    before, after = (
        state[f"{ROUTER}out.weight"]
        for state in (
            _strategy(_config("fedmn")).state().part("model/"),
            weights_of(directory, "strategy/model/"),
        )
    )
    assert not np.array_equal(before, after)
    json.dumps(directory.summary())
