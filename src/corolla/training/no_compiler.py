"""torch's optimisers without torch's compiler, which they import and do not use.

The first optimiser of a process imports ``torch._dynamo``, with it sympy and ``torch._inductor``: 1.7 s of
CPU in every client process, and for every message of a real node. All that optimisers want of it does
nothing outside a compiled model.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

_NAME = "torch._dynamo"


class _Later(ModuleType):
    """Stands for ``torch._dynamo`` until somebody wants more of it; then it makes way."""

    @staticmethod
    def graph_break(*_: object) -> None:
        """Do nothing: nothing is being compiled."""

    @staticmethod
    def disable(fn: Callable[..., Any], *_: object, **__: object) -> Callable[..., Any]:
        """Return ``fn``: nothing is being compiled."""
        return fn

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # asked of any module
            raise AttributeError(name)
        if sys.modules.get(_NAME) is self:
            del sys.modules[_NAME]
            vars(torch).pop("_dynamo", None)
        return getattr(importlib.import_module(_NAME), name)


def do_without_compiler() -> None:
    """Spare this process the import, unless it has it already."""
    if _NAME not in sys.modules:
        sys.modules[_NAME] = _Later(_NAME)
