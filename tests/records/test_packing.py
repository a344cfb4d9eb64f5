from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from corolla.records.client_store import ClientStore
from corolla.records.packing import pack_tensors, unpack_tensors
from corolla.state import State


def assert_same(a: Any, b: Any) -> None:
    """Check value, type, dtype, shape, strides and bits, all the way down."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        one, two = (t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
        assert torch.equal(one, two)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        assert [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.ndarray | np.generic):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b or (a != a and b != b)


def through_json(state: State) -> State:
    return State(state.arrays, json.loads(json.dumps(state.meta, allow_nan=False)))


_OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, amsgrad=True),
    "lr tensor": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-3)),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True),
}


def network(channels_last: bool) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(128, 2)
    )
    images = torch.randn(4, 3, 8, 8)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    return model, images


def train(model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", _OPTIMIZERS)
def test_an_optimizer_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, name: str, channels_last: bool
) -> None:
    make: Any = _OPTIMIZERS[name]
    model, images = network(channels_last)
    optimizer = make(model.parameters())
    train(model, optimizer, images)
    whole = optimizer.state_dict()
    store = ClientStore(tmp_path)
    store.save("0", 1, pack_tensors(whole))
    found = store.load("0", before_round=2)
    assert found is not None
    back = unpack_tensors(found[1])
    assert_same(back, whole)

    twin, _ = network(channels_last)
    twin.load_state_dict(model.state_dict())
    resumed = make(twin.parameters())
    resumed.load_state_dict(back)
    train(model, optimizer, images)
    train(twin, resumed, images)
    assert_same(dict(twin.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(2.5),
        torch.tensor(3, dtype=torch.int64),
        torch.zeros(0, 3),
        torch.randn(3, 4).t(),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(8, 1, 3, 3).to(memory_format=torch.channels_last),
        torch.randn(4, dtype=torch.bfloat16),
        torch.randn(2, 3, dtype=torch.complex64),
        torch.randn(3).to(torch.float8_e4m3fn),
        torch.tensor([True, False]),
        torch.tensor([float("nan"), -0.0]),
    ],
    ids=lambda t: f"{t.dtype}{tuple(t.shape)}",
)
def test_any_dense_tensor_comes_back_to_the_bit(tensor: torch.Tensor) -> None:
    assert_same(unpack_tensors(through_json(pack_tensors([tensor]))), [tensor])


def test_views_come_back_with_their_values() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    for view in (base[:, 1:3], base[1].expand(2, 4), base[::2]):
        back = unpack_tensors(pack_tensors(view))
        assert torch.equal(back, view)
        assert back.is_contiguous()
    conjugate = torch.tensor([1 + 2j]).conj()
    assert unpack_tensors(pack_tensors(conjugate)).tolist() == [1 - 2j]


def test_what_is_packed_does_not_change_with_the_tensors() -> None:
    momentum = torch.ones(3)
    packed = pack_tensors({"momentum": momentum})
    momentum += 1
    assert unpack_tensors(packed)["momentum"].tolist() == [1, 1, 1]


def test_a_parameter_comes_back_as_a_plain_tensor_of_its_own() -> None:
    parameter = nn.Parameter(torch.ones(2))
    packed = pack_tensors({"p": parameter})
    first, second = unpack_tensors(packed)["p"], unpack_tensors(packed)["p"]
    assert type(first) is torch.Tensor
    assert not first.requires_grad
    first += 1
    assert torch.equal(second, torch.ones(2))
    assert torch.equal(parameter, torch.ones(2))


_KEYS = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.floats(allow_nan=False)
_LEAVES = _KEYS | st.floats() | st.just(np.float32(1.5)) | st.just(np.arange(3))


@given(
    st.recursive(
        _LEAVES,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(_KEYS, inner, max_size=3)
        ),
        max_leaves=10,
    )
)
def test_any_nesting_comes_back(value: Any) -> None:
    assert_same(unpack_tensors(through_json(pack_tensors(value))), value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": [1, {2}]}, r"value\['a'\]\[1\] is a set"),
        ({(1, 2): 0}, r"value has the key \(1, 2\)"),
        ([torch.zeros(2, 2).to_sparse()], r"value\[0\] is a tensor of layout torch\.sparse_coo"),
    ],
)
def test_what_cannot_be_packed_is_named(value: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        pack_tensors(value)
