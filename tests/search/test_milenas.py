"""MiLeNAS: one step of alpha against autograd, what it may not touch, and what it decides."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from corolla.search.milenas import MilenasSearch, MilenasSettings
from corolla.spaces.darts_cells import DartsNetwork
from corolla.spaces.darts_genotype import KINDS, edge_pairs
from corolla.training.settings import LoopSettings
from tests.search.judges import in_edges, nobody, tiny_space
from tests.training.conftest import PLAIN, colourful, sgd, state_of

TRAIN, VALIDATION = colourful(6, seed=1), colourful(5, seed=2)


def search(**changes: Any) -> MilenasSearch:
    values: dict[str, Any] = {
        "search_rounds": 4,
        "lr": 0.01,
        "validation_weight": 1.0,
        "clock": "participations",
        "topology": True,
        "in_edges": 2,
    }
    return MilenasSearch(settings=MilenasSettings(**(values | changes)))


def mixed(operations: str = "s2", nodes: int = 2) -> DartsNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tiny_space(operations, nodes).supernet()


def starting(network: DartsNetwork, seed: int = 0) -> dict[str, Tensor]:
    """Return alphas as they are in the middle of a search."""
    shape = (len(edge_pairs(network.plan.nodes)), len(network.plan.operations))
    rng = torch.Generator().manual_seed(seed)
    return {kind: 0.3 * torch.randn(shape, generator=rng) for kind in KINDS}


def floats(images: Any) -> Tensor:
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (images.mean, images.std))
    normalised: Tensor = (images.pixels / 255 - mean) / std
    return normalised


def validation_loss(network: nn.Module) -> Tensor:
    return functional.cross_entropy(network(floats(VALIDATION)), VALIDATION.labels)


def train(network: DartsNetwork, hook: Any, *, lr: float = 0.1, **changes: Any) -> None:
    sgd(changes.pop("loop", PLAIN), **changes).train(
        network, TRAIN, epochs=1, batch_size=8, lr=lr, seed=(0,), after_backward=hook
    )


def by_autograd(network: DartsNetwork, alphas: dict[str, Tensor], images: Any) -> list[Tensor]:
    """Return the cross-entropy's gradients with respect to alpha, BatchNorm using the batch's statistics."""
    replica = copy.deepcopy(network).train()
    replica.mixture = None
    own = [alphas[kind].detach().clone().requires_grad_() for kind in KINDS]
    weights = {kind: functional.softmax(a, dim=-1) for kind, a in zip(KINDS, own, strict=True)}
    loss = functional.cross_entropy(replica(floats(images), weights), images.labels)
    return list(torch.autograd.grad(loss, own))


# --- one step -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip_norm", [None, 1e-4])
@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_alpha_moves_against_both_gradients_at_the_weights_before_the_step(
    weight: float, clip_norm: float | None
) -> None:
    network = mixed()
    memory = starting(network)
    before = {kind: alpha.clone() for kind, alpha in memory.items()}
    on_train = by_autograd(network, before, TRAIN)
    on_validation = by_autograd(network, before, VALIDATION)
    searcher = search(lr=0.5, validation_weight=weight)
    searcher.begin(network, memory)
    train(network, searcher.hook(memory, validation_loss), clip_norm=clip_norm)
    for kind, a, b in zip(KINDS, on_train, on_validation, strict=True):
        assert float(a.abs().max()) > 1e-3  # neither of the two is nothing
        assert float(b.abs().max()) > 1e-3
        expected = before[kind] - 0.5 * (a + weight * b)
        torch.testing.assert_close(memory[kind].detach(), expected, rtol=1e-4, atol=1e-6)
        assert memory[kind].grad is None


def test_clipping_sees_the_weights_alone() -> None:
    """Were alpha's gradient part of the norm, the weights would move by less than lr * clip_norm."""
    network = mixed()
    before, memory = state_of(network), starting(network)
    searcher = search()
    searcher.begin(network, memory)
    train(network, searcher.hook(memory, validation_loss), lr=1.0, clip_norm=1e-2)
    moved = [(p.detach() - before[name]).square().sum() for name, p in network.named_parameters()]
    assert float(torch.stack(moved).sum().sqrt()) == pytest.approx(1e-2, rel=1e-3)


@pytest.mark.parametrize("loop", [PLAIN, LoopSettings()])
def test_the_validation_pass_changes_no_gradient_and_no_buffer_of_the_weights(
    loop: LoopSettings,
) -> None:
    network = mixed()
    searcher, memory = search(), starting(network)
    searcher.begin(network, memory)
    move = searcher.hook(memory, validation_loss)
    calls: list[int] = []

    def watching(model: nn.Module) -> None:
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        modes = [module.training for module in model.modules()]
        assert len(gradients) == len(list(model.parameters()))
        move(model)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, gradients[name]), name
        assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
        assert [module.training for module in model.modules()] == modes
        calls.append(1)

    train(network, watching, loop=loop)
    assert calls == [1]


def test_weights_train_as_if_the_mixture_stood_still() -> None:
    """The step of w is that of the mixed network; alpha's own step does not come into it."""
    network, reference = mixed(), mixed()
    memory = starting(network)
    fixed = {kind: alpha.softmax(1) for kind, alpha in starting(network).items()}
    searcher = search(lr=0.5)
    searcher.begin(network, memory)
    train(network, searcher.hook(memory, validation_loss))
    reference.mixture = lambda: fixed
    train(reference, None)
    expected = reference.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state_of(network).items())


def test_every_batch_looks_at_one_validation_batch() -> None:
    network, seen = mixed(), 0

    def loss(model: nn.Module) -> Tensor:
        nonlocal seen
        seen += 1
        return validation_loss(model)

    searcher, memory = search(), starting(network)
    searcher.begin(network, memory)
    sgd().train(
        network,
        TRAIN,
        epochs=2,
        batch_size=2,
        lr=0.1,
        seed=(0,),
        after_backward=searcher.hook(memory, loss),
    )
    assert seen == 6


# --- the mixture ----------------------------------------------------------------------------------------


def test_an_undecided_network_mixes_by_softmax_of_alpha_from_equal_shares_on() -> None:
    network, memory = mixed().eval(), {}
    images = floats(TRAIN)
    search().begin(network, memory)
    assert {kind: alpha.tolist() for kind, alpha in memory.items()} == dict.fromkeys(
        KINDS, [[0.0, 0.0]] * 5
    )
    with torch.no_grad():
        half = network(images)
        plain = mixed().eval()
        shares = torch.full((5, 2), 0.5)
        torch.testing.assert_close(half, plain(images, dict.fromkeys(KINDS, shares)))
        memory["normal"][0, 1] += 2.0
        assert not torch.allclose(network(images), half)  # the present alpha, not a copy
        assert not torch.allclose(plain(images), half)


def test_alpha_goes_on_from_where_it_was() -> None:
    network = mixed()
    memory = starting(network)
    before = {kind: alpha.tolist() for kind, alpha in memory.items()}
    search().begin(network, memory)
    assert {kind: alpha.tolist() for kind, alpha in memory.items()} == before
    assert all(alpha.is_leaf and alpha.requires_grad for alpha in memory.values())


# --- the decisions --------------------------------------------------------------------------------------


def decide(searcher: MilenasSearch, network: DartsNetwork, memory: dict[str, Tensor]) -> Any:
    rng = np.random.default_rng(0)
    return searcher.step(network, memory=memory, judge=nobody, rng=rng, round=4)


@pytest.mark.parametrize("operations", ["s2", "s3", "full"])
@pytest.mark.parametrize("seed", range(3))
def test_the_strongest_operation_and_then_the_strongest_edges_stay(
    operations: str, seed: int
) -> None:
    network = mixed(operations, 3)
    memory = starting(network, seed)
    names, pairs = network.plan.operations, edge_pairs(3)
    expected = {}
    for kind in KINDS:
        shares = memory[kind].softmax(1).numpy().copy()
        if "none" in names:  # it takes its share, but is not chosen
            shares[:, names.index("none")] = -1
        best, strength = shares.argmax(1), shares.max(1)
        alive = [(names[index],) for index in best]
        for node in (3, 4):
            edges = [edge for edge, pair in enumerate(pairs) if pair[1] == node]
            for edge in sorted(edges, key=lambda e: strength[e])[: len(edges) - 2]:
                alive[edge] = ()
        expected[kind] = tuple(alive)
    searcher = search()
    searcher.begin(network, memory)
    assert searcher.undecided(network) == 2 * (9 + 2)
    made = decide(searcher, network, memory)
    assert network.alive() == expected
    assert searcher.undecided(network) == 0
    assert [in_edges(network, kind) for kind in KINDS] == [{2: 2, 3: 2, 4: 2}] * 2
    assert (network.mixture, memory) == (None, {})
    assert network(floats(TRAIN)).shape == (6, 4)
    assert [d.where for d in made[:9]] == [f"{a}-{b}" for a, b in pairs]
    assert [(d.cell, d.where) for d in made if "-" not in d.where] == [
        (kind, node) for kind in KINDS for node in "34"
    ]
    assert all(decision.round == 4 and not decision.scores for decision in made)


def test_decisions_tell_the_distance_in_softmax() -> None:
    network = mixed("s2", 2)
    memory = {kind: torch.zeros(5, 2) for kind in KINDS}
    memory["normal"][:, 1] = torch.tensor([1.0, 3.0, 2.0, -4.0, 1.5])
    share = memory["normal"].softmax(1)[:, 1].tolist()
    searcher = search()
    searcher.begin(network, memory)
    made = decide(searcher, network, memory)
    assert [d.kept for d in made[:5]] == ["sep_conv_3x3"] * 3 + ["skip_connect", "sep_conv_3x3"]
    margins = [2 * s - 1 for s in share[:3]] + [1 - 2 * share[3], 2 * share[4] - 1]
    assert [d.margin for d in made[:5]] == pytest.approx(margins, abs=1e-6)
    # Node 3 reads 0-3 (0.88), 1-3 (skip_connect, 0.98) and 2-3 (0.82).
    node = made[5]
    assert (node.where, node.kept, node.removed) == ("3", "0-3+1-3", ("2-3",))
    assert node.margin == pytest.approx(share[2] - share[4], abs=1e-6)
    assert network.alive()["normal"] == (
        ("sep_conv_3x3",),
        ("sep_conv_3x3",),
        ("sep_conv_3x3",),
        ("skip_connect",),
        (),
    )


def test_noise_that_outweighs_everything_leaves_every_node_one_real_input() -> None:
    network = mixed("s4", 3)
    # Noise first, sep_conv_3x3 the stronger the later the edge: 1-2, 2-3 and 3-4 are the nodes' strongest.
    alpha = torch.stack([torch.full((9,), 5.0), 0.1 * torch.arange(9)], dim=1)
    memory = {kind: alpha.clone() for kind in KINDS}
    searcher = search()
    searcher.begin(network, memory)
    made = decide(searcher, network, memory)
    noise, sep = ("noise",), ("sep_conv_3x3",)
    # Of the edges into nodes 3 and 4 the strongest noise stays beside it.
    kept = (noise, sep, noise, (), sep, noise, (), (), sep)
    assert network.alive() == dict.fromkeys(KINDS, kept)
    assert {(d.by, d.unit) for d in made} == {("alpha", "weight")}


def test_without_topology_all_edges_stay() -> None:
    network, memory = mixed("s2", 3), starting(mixed("s2", 3))
    searcher = search(topology=False)
    searcher.begin(network, memory)
    assert searcher.undecided(network) == 18
    decide(searcher, network, memory)
    assert {len(names) for kind in KINDS for names in network.alive()[kind]} == {1}


def test_a_decided_network_is_left_alone() -> None:
    network, memory = mixed("s2", 1), starting(mixed("s2", 1))
    searcher = search()
    searcher.begin(network, memory)
    decide(searcher, network, memory)
    searcher.begin(network, memory)
    assert (network.mixture, memory) == (None, {})


# --- schedule and settings ------------------------------------------------------------------------------


def test_all_is_decided_after_the_search_rounds() -> None:
    searcher = search(search_rounds=4)
    assert [elapsed for elapsed in range(7) if searcher.due(elapsed, None)] == [4, 5, 6]
    assert searcher.rounds_needed(tiny_space().plan) == 5
