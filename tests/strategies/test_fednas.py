"""FedNAS and Direct FedNAS: whose alpha is averaged, on which images it is learned, and what comes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from clients.fednas import ALPHA
from clients.site import Site, site_of
from corolla.config.build import build_client
from corolla.launch import plan_run
from corolla.search.architect import ArchitectSettings, Mixed, Sampled
from corolla.spaces.darts_cells import DartsNetwork
from corolla.tasks import Answer
from tests.conftest import make_space
from tests.strategies.conftest import run, small
from tests.strategies.test_contract import _config, _replies, _strategy

EVERYBODY = ["clients=3", "clients_per_round=3"]
QUIET = ["evaluation.every=0", "evaluation.fine_tune_epochs=0"]


def test_alpha_is_the_mean_of_everybodys_not_the_first_clients() -> None:
    """FedML's server returns client 0's alpha: of 0, 1 and 2 that is 0, and the mean is 1."""
    strategy = _strategy(_config("fednas", "method.weights=uniform", *EVERYBODY))
    replies = [
        replace(
            reply,
            arrays={
                name: np.full_like(array, int(reply.client)) if name.startswith(ALPHA) else array
                for name, array in reply.arrays.items()
            },
        )
        for reply in _replies(strategy, 1, ["0", "1", "2"])
    ]
    strategy.absorb(1, replies)
    alphas = [a for n, a in strategy.state().arrays.items() if n.startswith(f"mixed/{ALPHA}")]
    assert len(alphas) == 2
    for alpha in alphas:
        np.testing.assert_allclose(alpha, 1.0)


def _searched(
    tmp_path: Path, *, spoiled: str = "", method: str = "fednas", clip: str = "null"
) -> Any:
    """Train the first client's network for a round; return what was sent and what came back."""
    settings = [f"method={method}", f"run_dir={tmp_path}", f"trainer.clip_norm={clip}"]
    plain = ["trainer.momentum=0", "trainer.weight_decay=0", "trainer.lr=1.0", "batch_size=18"]
    config = plan_run([*small(*settings), *plain]).config
    context = SimpleNamespace(run_config={"config": config.to_yaml()}, node_config={})
    site: Site = site_of(cast(Any, context), {"client": "0"})
    if spoiled:
        images = getattr(site.data, spoiled)
        turned = replace(images, pixels=255 - images.pixels, labels=9 - images.labels)
        site = replace(site, data=replace(site.data, **{spoiled: turned}))
    (order,) = _strategy(config).orders(1, ["0"])
    answer: Answer = build_client(config, site=site).fit(order.task, dict(order.arrays))
    return order.arrays, answer.arrays


def _alpha(arrays: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([a.ravel() for n, a in arrays.items() if n.startswith(ALPHA)])


def test_alpha_is_learned_on_validation_and_never_on_test(tmp_path: Path) -> None:
    """FedML's alpha is fitted on the test set."""
    _, plain = _searched(tmp_path)
    _, other_test = _searched(tmp_path, spoiled="test")
    _, other_validation = _searched(tmp_path, spoiled="validation")
    assert np.array_equal(_alpha(plain), _alpha(other_test))
    assert not np.array_equal(_alpha(plain), _alpha(other_validation))
    assert np.abs(_alpha(plain)).max() == pytest.approx(3e-4, rel=0.01)  # Adam's first step


def test_clipping_is_the_weights_and_not_alphas(tmp_path: Path) -> None:
    """In its search FedML clips alpha's gradient, not the weights'."""

    def length(clip: str) -> float:
        sent, back = _searched(tmp_path, clip=clip)  # one batch, lr 1
        weights = [n for n in sent if not n.startswith(ALPHA) and "running" not in n]
        steps = [(back[name] - sent[name]).astype(np.float64) for name in weights]
        assert np.abs(_alpha(back)).max() == pytest.approx(3e-4, rel=0.01)
        return float(np.sqrt(sum((step**2).sum() for step in steps)))

    assert length("0.01") / length("0.1") == pytest.approx(0.1, rel=0.02)


def test_alphas_gradient_is_that_of_both_losses_and_it_descends() -> None:
    """By hand: 2 x 1 + 3 x 5 and 2 x 7, where the training loss has (1, 7) and validation (5, 0)."""
    alphas = {kind: torch.zeros(1, 2) for kind in ("normal", "reduce")}
    settings = ArchitectSettings(
        lr=0.1, betas=(0.5, 0.9), weight_decay=0.0, train_weight=2.0, validation_weight=3.0
    )
    architect = Mixed(alphas, settings, lambda _: 5 * sum(a[0, 0] for a in of.values()))
    of = architect.alphas
    taken: dict[str, torch.Tensor] = {}
    step = architect._step
    architect._step = taken.update  # type: ignore[method-assign]
    for alpha in of.values():
        alpha.grad = torch.tensor([[1.0, 7.0]])
    architect(torch.nn.Identity())
    assert [taken[kind].tolist() for kind in alphas] == [[[17.0, 14.0]]] * 2
    step(taken)
    torch.testing.assert_close(of["normal"].detach(), torch.full((1, 2), -0.1))  # Adam's first step


def test_direct_fednas_trains_what_was_drawn(tmp_path: Path) -> None:
    sent, back = _searched(tmp_path, method="direct_fednas")
    on_edges = [name for name in sent if ".edges." in name and "running" not in name]
    moved = {".".join(n.split(".")[:5]) for n in on_edges if not np.array_equal(sent[n], back[n])}
    # One batch: one operation of each edge at most, and of none that carries no weights.
    edges = [operation.rpartition(".")[0] for operation in moved]
    assert len(edges) == len(set(edges))
    assert moved
    assert _alpha(back).any()


def test_the_gradient_of_a_drawn_operation_by_hand() -> None:
    """(Z - softmax(alpha)) dL/dz: of two equal operations, half the gate's gradient, up and down."""
    space = make_space("darts_s2_mixed_small", resolution=8, channels=4, cells=3, nodes=1)
    network = cast(DartsNetwork, space.subnet(space.largest()))
    alphas = {kind: torch.zeros(2, 2) for kind in ("normal", "reduce")}
    settings = ArchitectSettings(
        lr=0.1, betas=(0.5, 0.9), weight_decay=0.0, train_weight=1.0, validation_weight=0.0
    )
    torch.manual_seed(0)
    architect = Sampled(network, alphas, settings)
    network.mixture = architect.mixture
    network.train()(torch.randn(4, 3, 8, 8)).square().sum().backward()
    taken: dict[str, Any] = {}
    architect._step = lambda gradients: taken.update(gradients)  # type: ignore[method-assign]
    architect(network)
    for kind, found in taken.items():
        gate = architect._gates[kind].grad
        drawn = architect._drawn[kind].bool()
        assert gate is not None
        assert drawn.sum(1).tolist() == [1, 1]
        torch.testing.assert_close(found[drawn], gate[drawn] / 2)
        torch.testing.assert_close(found[~drawn], -gate[drawn] / 2)
    # What is scored is the most probable child, the same every time.
    network.eval()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(network(images), network(images))


def test_a_search_then_a_training_of_what_it_named(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", "method=fednas", *QUIET)
    lines = directory.metrics()
    assert [line["stage"] for line in lines] == [1, 1, 2]
    assert 0 < lines[0]["alpha_entropy"] <= 1
    assert [len(line.get("decisions", [])) for line in lines] == [0, 0, 4]  # two edges of two kinds
    summary = directory.summary()
    (model,) = {tuple(entry["choices"]) for entry in summary["per_client"].values()}
    assert all(choice in (1, 2) for choice in model)  # one operation on every edge
    assert set(summary["pooled"]) == {"global"}
    assert summary["pooled"]["global"]["choices"] == list(model)
    late = directory.clients()[-1]
    assert late["architecture"] == list(model)
