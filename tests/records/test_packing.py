from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from corolla.records.client_store import ClientStore
from corolla.records.packing import pack_optimizer, unpack_optimizer
from corolla.state import State
from corolla.training.optimizers import export_state
from corolla.training.results import OptimizerState


def through_a_store(saved: OptimizerState | None, root: Path) -> OptimizerState | None:
    """Save and load beside another optimiser's state, as Ditto's client does."""
    one, other = pack_optimizer(saved, "own/"), pack_optimizer(_state(torch.ones(5)), "other/")
    store = ClientStore(root)
    store.save("0", 1, State(one.arrays | other.arrays, {"own": one.meta}))
    found = store.load("0", before_round=2)
    assert found is not None
    return unpack_optimizer(found[1], "own/", found[1].meta["own"])


def _state(tensor: torch.Tensor) -> OptimizerState:
    return {"layer.weight": {"momentum_buffer": tensor}}


def assert_same(a: OptimizerState, b: OptimizerState) -> None:
    """Check order, value, dtype, shape, strides and bits."""
    assert list(a) == list(b)
    for name in a:
        assert list(a[name]) == list(b[name])
        for one, two in zip(a[name].values(), b[name].values(), strict=True):
            assert type(one) is type(two)
            if not isinstance(one, torch.Tensor):
                assert one == two
                continue
            assert (one.dtype, one.shape, one.stride()) == (two.dtype, two.shape, two.stride())
            bits = [tensor.reshape(-1).view(torch.uint8) for tensor in (one, two)]
            assert torch.equal(*bits)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
def test_an_optimizer_s_state_comes_back_to_the_bit(tmp_path: Path, name: str) -> None:
    makers: dict[str, Any] = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, amsgrad=True),
    }
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 2))
    model = model.to(memory_format=torch.channels_last)
    optimizer = makers[name](model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    saved = export_state(model, optimizer)
    assert len(saved) == (0 if name == "sgd" else 6)
    back = through_a_store(saved, tmp_path)
    if saved:
        assert back is not None
        assert_same(back, saved)
    else:
        assert back is None


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(2.5),
        torch.tensor(3, dtype=torch.int64),
        torch.zeros(0, 3),
        torch.randn(4, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.tensor([float("nan"), -0.0]),
    ],
    ids=lambda t: f"{t.dtype}{tuple(t.shape)}",
)
def test_any_type_and_shape_comes_back(tmp_path: Path, tensor: torch.Tensor) -> None:
    back = through_a_store(_state(tensor), tmp_path)
    assert back is not None
    assert_same(back, _state(tensor))


def test_what_is_no_tensor_comes_back_too(tmp_path: Path) -> None:
    saved: OptimizerState = {"w": {"step": 3, "momentum_buffer": None}, "b": {}}
    assert through_a_store(saved, tmp_path) == saved


def test_other_layouts_come_back_plain() -> None:
    tensor = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    packed = pack_optimizer(_state(tensor), "")
    back = unpack_optimizer(packed, "", packed.meta)
    assert back is not None
    assert_same(back, _state(tensor.contiguous()))


def test_neither_side_changes_with_what_was_packed() -> None:
    momentum = nn.Parameter(torch.ones(3))
    packed = pack_optimizer(_state(momentum), "")
    with torch.no_grad():
        momentum += 1
    first, second = (unpack_optimizer(packed, "", packed.meta) for _ in range(2))
    assert first is not None
    assert second is not None
    first["layer.weight"]["momentum_buffer"] += 1
    assert second["layer.weight"]["momentum_buffer"].tolist() == [1, 1, 1]


def test_a_file_of_another_release_reads() -> None:
    """What is on the disk: one tensor, written out by hand."""
    tree = ["dict", [["w", ["dict", [["step", ["tensor", "000000", "float32", [], []]]]]]]]
    one = torch.tensor(1.5).reshape(1).view(torch.uint8).numpy()
    assert one.tolist() == [0, 0, 192, 63]
    back = unpack_optimizer(State({"o/000000": one}), "o/", {"tree": tree})
    assert back == {"w": {"step": torch.tensor(1.5)}}
    assert pack_optimizer(back, "o/").meta == {"tree": tree}
    with pytest.raises(KeyError, match="000000"):
        unpack_optimizer(State(), "o/", {"tree": tree})
