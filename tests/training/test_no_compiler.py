"""An optimiser of this project takes nothing of torch's compiler, and leaves it to whoever wants it."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
import torch
from torch import nn
from corolla.training.optimizers import build_optimizer
from corolla.training.settings import LoopSettings, TrainerSettings

model = nn.Linear(2, 1)
settings = TrainerSettings(optimizer="sgd", lr=0.5)
optimizer = build_optimizer(model, settings=settings, loop=LoopSettings(), lr=0.5)
optimizer.zero_grad()
model(torch.ones(1, 2)).sum().backward()
before = model.weight.detach().clone()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
assert torch.equal(model.weight, before - 0.5)
assert "torch._inductor" not in sys.modules and "sympy" not in sys.modules
import torch._dynamo.config  # who wants more of it gets it
assert torch._dynamo.config.cache_size_limit > 0
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item() == 2.0
"""


@pytest.mark.slow
def test_a_step_imports_no_compiler_and_one_can_be_had_afterwards() -> None:
    code = CODE
    subprocess.run([sys.executable, "-c", code], check=True)
