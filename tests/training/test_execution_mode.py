"""Layouts: what torch cannot train in channels_last is never given to it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from corolla.training.execution_mode import lay_out
from corolla.training.sandwich import SandwichSettings, SupernetTrainer
from corolla.training.settings import LoopSettings
from tests.conftest import make_space
from tests.training.conftest import colourful, sgd

CPU = torch.device("cpu")

# Without the guard this dies of a damaged heap (torch 2.15.0, oneDNN 3.13.3) on every x86 CPU with
# AVX2: ONEDNN_MAX_CPU_ISA leaves AVX-512 out, whose kernels are sound. 4 channels: 128 bytes too far.
_TRAIN_NARROW = """
import torch
from torch import nn
from corolla.training.execution_mode import lay_out
from corolla.training.settings import LoopSettings

for inputs in range(1, 8):
    for outputs in (2, 8, 24):
        layer = nn.Conv2d(inputs, outputs, 1, 2, bias=False)
        lay_out(layer, LoopSettings(), torch.device("cpu"))
        for _ in range(20):
            images = torch.rand(8, inputs, 8, 8).to(memory_format=torch.channels_last)
            layer(images).sum().backward()
print("lives")
"""


@pytest.mark.slow
def test_a_narrow_shortcut_trains_without_damage() -> None:
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _TRAIN_NARROW]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "lives\n"), done.stderr


@pytest.mark.parametrize(("stride", "bias"), [(2, False), (3, True), ((1, 2), False)])
def test_a_guarded_layer_computes_the_same(stride: int | tuple[int, int], bias: bool) -> None:
    plain = nn.Conv2d(4, 6, 1, stride, bias=bias)
    guarded = nn.Conv2d(4, 6, 1, stride, bias=bias)
    guarded.load_state_dict(plain.state_dict())
    lay_out(guarded, LoopSettings(), CPU)
    lay_out(guarded, LoopSettings(), CPU)  # again, as every call of a trainer does
    images = torch.rand(3, 4, 7, 8)
    found = []
    for layer in (plain, guarded):
        own = images.clone().requires_grad_()
        output = layer(own)
        (output**2).sum().backward()
        found.append([output, own.grad, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(found[1], found[0])
    assert guarded.state_dict().keys() == plain.state_dict().keys()


def test_only_what_would_overrun_is_guarded() -> None:
    def kinds(loop: LoopSettings, device: torch.device) -> list[bool]:
        layers = [
            nn.Conv2d(7, 8, 1, 2),
            nn.Conv2d(8, 8, 1, 2),  # a whole vector of channels
            nn.Conv2d(4, 8, 1),
            nn.Conv2d(4, 8, 3, 2, padding=1),
            nn.Conv2d(4, 8, 1, 2, padding=1),
        ]
        lay_out(nn.Sequential(*layers), loop, device)
        return [type(layer) is not nn.Conv2d for layer in layers]

    assert kinds(LoopSettings(), CPU) == [True, False, False, False, False]
    assert not any(kinds(LoopSettings(channels_last=False), CPU))
    assert not any(kinds(LoopSettings(), torch.device("meta")))


class _NoNarrowStrides(TorchFunctionMode):
    """Refuses the convolutions that overrun, whoever asks for them."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d:
            strided = len(args) > 3 and args[3] == (2, 2)
            assert not (strided and tuple(args[1].shape[1:]) == (4, 1, 1))
        return func(*args, **(kwargs or {}))


def test_so_is_every_subnet_of_a_supernet_in_training() -> None:
    space = make_space("elastic_resnet", resolution=8, widths=[[4, 8], [8, 16]], depths=[1])
    loop, state = LoopSettings(channels_last=True), space.initial_state(0)
    trainer = SupernetTrainer(space, sgd(loop), SandwichSettings())
    with _NoNarrowStrides():
        trainer.train(state, colourful(8), epochs=1, batch_size=4, lr=0.1, seed=(0,))
