"""The DARTS space: the specifications' numbers, closed forms, masks, pruning, refused settings."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from corolla.errors import RefusedError
from corolla.spaces.architecture import Architecture
from corolla.spaces.costs import count_macs, saved_bytes
from corolla.spaces.darts_cells import DartsNetwork
from corolla.spaces.darts_genotype import edge_pairs
from corolla.spaces.darts_operations import OPERATION_SETS, build_operation
from corolla.spaces.darts_operations import halves as split
from corolla.spaces.supernet import ElasticSupernet
from tests.conftest import CONF, make_space
from tests.spaces import trained_statistics

SPACES = sorted(path.stem for path in (CONF / "space").glob("darts*.yaml"))


FULL = make_space("darts")
TINY = make_space(
    "darts_small", channels=4, cells=3, resolution=8
)  # one normal cell, then two that reduce
ARCHITECTURES = st.integers(0, 2**32).map(lambda seed: TINY.sample(np.random.default_rng(seed)))
IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


STATE = trained_statistics(TINY.initial_state(0))


def _loaded(network: DartsNetwork) -> DartsNetwork:
    network.load_state_dict({name: torch.from_numpy(STATE[name]) for name in network.state_dict()})
    return network.eval()


SUPERNET = _loaded(TINY.supernet())  # tests only read it


def _random_alive(rng: np.random.Generator) -> dict[str, list[list[str]]]:
    """Return any subset of operations on every edge, the empty one included."""
    return {
        kind: [[o for o in TINY.plan.operations if rng.random() < 0.3] for _ in range(14)]
        for kind in ("normal", "reduce")
    }


ALIVE = st.integers(0, 2**32).map(lambda seed: _random_alive(np.random.default_rng(seed)))


def test_full_space_counts() -> None:
    # specs: 28 dimensions x 8, 1.9e25 architectures.
    assert len(FULL.dimensions) == 28
    assert FULL.num_logits == 28 * 8
    assert FULL.size == 8**28
    assert f"{FULL.size:.1e}" == "1.9e+25"
    names = [dimension.name for dimension in FULL.dimensions]
    assert names[:6] == [f"normal.{e}" for e in ("0-2", "1-2", "0-3", "1-3", "2-3", "0-4")]
    assert (names[13], names[14], names[27]) == ("normal.4-5", "reduce.0-2", "reduce.4-5")


@pytest.mark.parametrize(
    ("architecture", "params_m", "mmacs"),
    [(FULL.smallest(), 0.10, 20), (FULL.largest(), 0.77, 128)],
)
def test_subnets_have_the_published_costs(
    architecture: Architecture, params_m: float, mmacs: int
) -> None:
    costs = FULL.costs(architecture)
    assert round(costs.params / 1e6, 2) == params_m
    assert round(costs.macs / 1e6) == mmacs


@pytest.mark.parametrize(("num_classes", "params"), [(10, 665_466), (100, 688_596)])
def test_s2_supernet_is_the_published_one(num_classes: int, params: int) -> None:
    space = make_space("darts_s2", num_classes=num_classes)
    with torch.device("meta"):
        supernet = space.supernet()
    assert sum(p.numel() for p in supernet.parameters()) == params
    assert round(count_macs(supernet, (1, 3, 32, 32)) / 1e6, 1) == (
        100.9 if num_classes == 10 else 101.0
    )
    kinds = [type(module) for module in supernet.modules()]
    assert kinds.count(nn.Conv2d) == 499
    assert sum(issubclass(kind, nn.BatchNorm2d) for kind in kinds) == 257


def test_s2_at_4_cells_and_8_channels_is_the_published_small_one() -> None:
    space = make_space("darts_s2", channels=8, cells=4)
    costs = space.costs_of(space.all_alive())
    assert (costs.params, round(costs.macs / 1e6, 1)) == (111_202, 15.7)


def test_candidates_ascend_in_cost() -> None:
    for index, dimension in enumerate(FULL.dimensions):
        costs = [
            FULL.costs(Architecture((0,) * index + (choice,) + (0,) * (27 - index)))
            for choice in range(len(dimension))
        ]
        # The exception: at stride 2 a skip is a FactorizedReduce, dearer than the pools after it.
        strided = dimension.name.startswith("reduce") and dimension.name[7] in "01"
        listed = [(c.params, c.macs) for c in costs]
        assert sorted(listed) == (
            [*listed[:1], *listed[2:4], listed[1], *listed[4:]] if strided else listed
        )


@pytest.mark.parametrize(("name", "operations"), OPERATION_SETS.items())
def test_sets_and_lists_of_operations(name: str, operations: tuple[str, ...]) -> None:
    named = make_space("darts_small", operations=name)
    listed = make_space("darts_small", operations=list(reversed(operations)))
    assert named.dimensions[0].choices == listed.dimensions[0].choices == operations
    assert named.fingerprint() == listed.fingerprint()


@settings(max_examples=3)
@given(alive=ALIVE, affine=st.booleans())
def test_costs_of_any_choices_agree_with_the_built_module(
    alive: dict[str, list[list[str]]], affine: bool
) -> None:
    space = make_space("darts_small", channels=4, cells=4, resolution=16, affine=affine)
    with torch.device("meta"):
        module = space.network(alive)
    built = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    assert list(built.items()) == list(space.shapes_of(alive).items())
    costs = space.costs_of(alive, batch_size=4)
    assert costs.params == sum(p.numel() for p in module.parameters())
    assert costs.macs == count_macs(module, (1, 3, 16, 16))
    # A node that is nothing but a skip *is* the earlier node; we count its pooling copy twice.
    counted = saved_bytes(module, (4, 3, 16, 16))
    assert counted <= costs.activation_bytes <= 1.05 * counted  # 1.022 at most in 140 draws


def test_cell_of_skips_by_hand() -> None:
    space = make_space("darts_small", operations=["skip_connect"], channels=4, cells=3)
    cell = space.supernet().eval().cells[0]
    first, second = torch.rand(2, 2, 12, 8, 8).unbind()
    with torch.no_grad():
        x = cell.preprocess0(first) + cell.preprocess1(second)
        # Node 2 is s0 + s1 = x, node 3 is s0 + s1 + node 2 = 2x, node 4 is 4x, node 5 is 8x.
        expected = torch.cat([x, 2 * x, 4 * x, 8 * x], dim=1)
        torch.testing.assert_close(cell(first, second), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_operations_are_the_ones_of_darts(stride: int) -> None:
    """Against DARTS' own definitions, spelled out with torch.nn on the same weights."""
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for name, kernel in (("sep_conv_3x3", 3), ("sep_conv_5x5", 5)):
        op = build_operation(name, 4, stride, affine=False)
        layers: list[nn.Module] = []
        for half, step in ((op.first, stride), (op.second, 1)):
            depthwise = nn.Conv2d(4, 4, kernel, step, kernel // 2, groups=4, bias=False)
            pointwise = nn.Conv2d(4, 4, 1, bias=False)
            depthwise.weight, pointwise.weight = half.depthwise.weight, half.pointwise.weight
            layers += [nn.ReLU(), depthwise, pointwise, nn.BatchNorm2d(4, affine=False)]
        torch.testing.assert_close(op(functional.relu(x)), nn.Sequential(*layers)(x))
    for name, kernel, padding in (("dil_conv_3x3", 3, 2), ("dil_conv_5x5", 5, 4)):
        op = build_operation(name, 4, stride, affine=False)
        depthwise = nn.Conv2d(4, 4, kernel, stride, padding, 2, groups=4, bias=False)
        pointwise = nn.Conv2d(4, 4, 1, bias=False)
        depthwise.weight, pointwise.weight = op.depthwise.weight, op.pointwise.weight
        plain = nn.Sequential(nn.ReLU(), depthwise, pointwise, nn.BatchNorm2d(4, affine=False))
        torch.testing.assert_close(op(functional.relu(x)), plain(x))
    for name, pool in (
        ("max_pool_3x3", nn.MaxPool2d(3, stride, 1)),
        ("avg_pool_3x3", nn.AvgPool2d(3, stride, 1, count_include_pad=False)),
    ):
        op = build_operation(name, 4, stride, affine=False)
        plain = nn.Sequential(pool, nn.BatchNorm2d(4, affine=False))
        torch.testing.assert_close(op(x), plain(x))
    skip = build_operation("skip_connect", 4, stride, affine=False)
    if stride == 1:
        assert skip(x) is x
    else:
        y = functional.relu(x)  # even pixels through one convolution, odd ones through the other
        halves = [
            functional.conv2d(y, skip.even.weight, stride=2),
            functional.conv2d(y[:, :, 1:, 1:], skip.odd.weight, stride=2),
        ]
        expected = functional.batch_norm(torch.cat(halves, 1), None, None, training=True)
        torch.testing.assert_close(skip(split(y)), expected)


def test_noise_is_new_in_every_pass_and_repeats_with_the_seed() -> None:
    noise = build_operation("noise", 4, 2, affine=False).eval()
    x = torch.randn(8, 4, 16, 16, requires_grad=True)
    torch.manual_seed(0)
    first, second = noise(x), noise(x)
    torch.manual_seed(0)
    assert torch.equal(first, noise(x))
    assert not torch.equal(first, second)
    assert first.shape == (8, 4, 8, 8)
    assert not first.requires_grad
    assert abs(float(first.std()) - 1) < 0.1


@settings(max_examples=6)
@given(architecture=ARCHITECTURES)
def test_subnet_equals_the_supernet_with_all_else_masked(architecture: Architecture) -> None:
    subnet = TINY.load(architecture, TINY.cut(STATE, architecture)).eval()
    supernet = SUPERNET
    chosen = TINY.alive(architecture)
    with ExitStack() as stack, torch.no_grad():
        for kind, edges in chosen.items():
            for edge, (kept,) in enumerate(edges):
                for operation in set(TINY.plan.operations) - {kept}:
                    stack.enter_context(supernet.masked(kind, edge, operation))
        torch.testing.assert_close(supernet(IMAGES), subnet(IMAGES))
        masked = supernet(IMAGES)
    with torch.no_grad():  # the masks are gone again
        assert not torch.allclose(supernet(IMAGES), masked)


@settings(max_examples=6)
@given(architecture=ARCHITECTURES)
def test_one_hot_weights_choose_a_subnet(architecture: Architecture) -> None:
    one_hot = torch.from_numpy(TINY.one_hot(architecture)).float().view(2, 14, 8)
    weights = {"normal": one_hot[0], "reduce": one_hot[1]}
    subnet = TINY.load(architecture, TINY.cut(STATE, architecture)).eval()
    with torch.no_grad():
        torch.testing.assert_close(SUPERNET(IMAGES, weights), subnet(IMAGES))


def test_weights_get_gradients() -> None:
    alpha = torch.zeros(2, 14, 8, requires_grad=True)
    shares = alpha.softmax(-1)
    logits = _loaded(TINY.supernet())(IMAGES, {"normal": shares[0], "reduce": shares[1]})
    functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    assert alpha.grad is not None
    assert (alpha.grad.abs().sum(-1) > 0).all()  # every edge of either kind


@settings(max_examples=4)
@given(seed=st.integers(0, 2**32))
def test_pruning_equals_masking_and_keeps_the_other_names(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pruned, masked = copy.deepcopy(SUPERNET), SUPERNET
    with ExitStack() as stack, torch.no_grad():
        for kind in ("normal", "reduce"):
            for edge in rng.choice(14, 2, replace=False):
                keep = rng.random(8) < 0.4
                for operation in np.array(TINY.plan.operations)[~keep]:
                    before = dict(pruned.named_parameters())
                    gone = pruned.prune(kind, int(edge), str(operation))
                    left = dict(pruned.named_parameters())
                    assert gone.keys() | left.keys() == before.keys()
                    assert all(f".edges.{edge}.{operation}." in name for name in gone)
                    assert all(before[name] is tensor for name, tensor in left.items())
                    stack.enter_context(masked.masked(kind, int(edge), str(operation)))
        torch.testing.assert_close(pruned(IMAGES), masked(IMAGES), rtol=0, atol=0)
        rebuilt = TINY.network(pruned.alive())
        rebuilt.load_state_dict(pruned.state_dict())  # strict: same names
        torch.testing.assert_close(rebuilt.eval()(IMAGES), pruned(IMAGES), rtol=0, atol=0)


def test_two_inputs_a_node() -> None:
    """SPIDER's topology step: whole edges go until each node reads two others."""
    network = TINY.network(TINY.alive(TINY.largest()))
    for kind in ("normal", "reduce"):
        for edge, (source, _) in enumerate(edge_pairs(4)):
            if source > 1:
                network.prune(kind, edge)
    alive = network.alive()
    assert [len(names) for names in alive["normal"]] == [1, 1, 1, 1, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0]
    assert network(IMAGES).shape == (3, 10)
    # 8 of 14 edges are left in every cell: what is cheaper is what 6 sep_conv_5x5 cost.
    before, after = TINY.costs(TINY.largest()), TINY.costs_of(alive)
    gone = sum(6 * 2 * (25 * c + c * c) for c in (4, 8, 16))
    assert before.params - after.params == gone


def test_nodes_without_inputs_are_zero() -> None:
    network = _loaded(TINY.network({kind: [()] * 14 for kind in ("normal", "reduce")}))
    bias = network.classifier.bias.expand(3, 10)
    torch.testing.assert_close(network(IMAGES), bias, rtol=0, atol=0)
    dead = Architecture((0,) * 28)  # none everywhere
    nothing = TINY.load(dead, TINY.cut(STATE, dead)).eval()
    torch.testing.assert_close(nothing(IMAGES), bias, rtol=0, atol=0)


def test_images_of_another_size_are_resized() -> None:
    subnet = TINY.subnet(TINY.middle()).eval()
    larger = torch.rand(2, 3, 28, 28)
    resized = functional.interpolate(larger, size=(8, 8), mode="bilinear")
    torch.testing.assert_close(subnet(larger), subnet(resized))


def test_elastic_supernet_runs_trains_and_writes_statistics_back() -> None:
    architecture = TINY.middle()
    elastic = ElasticSupernet(TINY, STATE)
    subnet = TINY.load(architecture, TINY.cut(STATE, architecture)).train()
    logits = elastic(IMAGES, architecture)
    torch.testing.assert_close(logits, subnet(IMAGES), rtol=0, atol=0)
    logits.sum().backward()
    shapes = TINY.shapes(architecture)
    for name, parameter in elastic.named_parameters():
        assert (parameter.grad is not None) == (name.replace("/", ".") in shapes), name
    after = elastic.state()
    for name, array in STATE.items():
        moved = not np.array_equal(after[name], array)
        assert moved == (name in shapes and "running" in name), name


def test_cut_copies_and_refuses_a_state_of_another_space() -> None:
    part = TINY.cut(STATE, TINY.middle())
    name = "cells.0.edges.3.dil_conv_3x3.pointwise.weight"
    np.testing.assert_array_equal(part[name], STATE[name])
    assert not np.shares_memory(part[name], STATE[name])
    lacking = {key: array for key, array in STATE.items() if key != name}
    with pytest.raises(RefusedError, match=r"cells\.0\.edges\.3\.dil_conv_3x3\.pointwise\.weight"):
        TINY.cut(lacking, TINY.middle())


def test_all_faults_of_the_settings_are_shown_at_once() -> None:
    with pytest.raises(RefusedError) as refusal:
        make_space("darts", operations=["zero", "skip"], resolution=9, cells=1, nodes=0)
    keys = [fault.key for fault in refusal.value.faults]
    assert keys == ["operations", "operations", "resolution", "cells", "nodes"]


def test_nested_masks_end_one_by_one() -> None:
    with torch.no_grad(), SUPERNET.masked("normal", 0, "skip_connect"):
        outer = SUPERNET(IMAGES)
        with SUPERNET.masked("normal", 0):  # the whole edge
            assert not torch.allclose(SUPERNET(IMAGES), outer)
        torch.testing.assert_close(SUPERNET(IMAGES), outer, rtol=0, atol=0)


def test_bad_choices_are_refused() -> None:
    network = TINY.supernet()
    network.prune("normal", 3, "none")
    with pytest.raises(RefusedError, match=r"normal\.1-3='none': not alive"):
        network.prune("normal", 3, "none")
    with (
        pytest.raises(RefusedError, match=r"reduce\.edge=14: no such edge"),
        network.masked("reduce", 14),
    ):
        pass
    with pytest.raises(RefusedError, match="cell='reduction': no such kind"):
        network.prune("reduction", 0)
    network.prune("normal", 3)
    with pytest.raises(RefusedError, match=r"normal.edge=3: no such edge. Alive: \[0, 1, 2, 4,"):
        network.prune("normal", 3)


def test_bad_alive_choices_are_refused() -> None:
    alive: dict[str, Any] = {kind: [["none"]] * 14 for kind in ("normal", "reduce")}
    with pytest.raises(
        RefusedError, match=r"alive\.normal\.0-2='sep_3x3': not in this space. Did you mean"
    ):
        TINY.network(alive | {"normal": [["sep_3x3"], *[["none"]] * 13]})
    with pytest.raises(RefusedError, match=r"alive\.reduce=13: edges are not all listed"):
        TINY.network(alive | {"reduce": [["none"]] * 13})
    with pytest.raises(RefusedError, match="alive='other': no such kind of cell"):
        TINY.network(alive | {"other": []})
    with pytest.raises(RefusedError, match="named twice"):
        TINY.network(alive | {"normal": [["none", "none"], *[["none"]] * 13]})


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_of_halves_is_that_of_slices(layout: torch.memory_format) -> None:
    x = torch.randn(2, 3, 4, 6, dtype=torch.double).to(memory_format=layout).requires_grad_()
    even, odd = split(x)
    assert torch.equal(even, x[:, :, ::2, ::2])
    assert torch.equal(odd, x[:, :, 1::2, 1::2])
    (found,) = torch.autograd.grad((even**3).sum() + 2 * (odd**3).sum(), x)
    sliced = (x[:, :, ::2, ::2] ** 3).sum() + 2 * (x[:, :, 1::2, 1::2] ** 3).sum()
    assert torch.equal(found, torch.autograd.grad(sliced, x)[0])
    assert found.stride() == x.stride()
    assert torch.autograd.gradgradcheck(split, x)  # Per-FedAvg differentiates twice
