"""Ctrl-C in a backward pass leaves nothing behind that would crash the process at its end."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from corolla.training.memory import backward, saved_for_backward


def test_an_interrupted_backward_pass_leaves_no_counted_tensor_in_the_queue() -> None:
    def stop(_: Tensor) -> None:
        raise KeyboardInterrupt

    def interrupted() -> weakref.ref[Tensor]:
        weights = torch.ones(3, requires_grad=True)
        with saved_for_backward(nn.Identity()):
            kept = weights * 2
            waits, stops = kept.sin(), kept.exp() * 3  # the other branch stops first
            stops.register_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            backward((waits + stops).sum())
        return weakref.ref(kept)

    kept = interrupted()
    gc.collect()
    assert kept() is None
