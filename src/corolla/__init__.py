"""Corolla: personalised federated neural architecture search. Nothing below this package imports Flower.

From Python: `run`, `resume`, `open_run` and `compare` (`corolla.analysis`), imported when first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corolla.analysis import OpenedRun, compare, open_run, resume, run

__version__ = "0.1.0"
__all__ = ["OpenedRun", "compare", "open_run", "resume", "run"]


def __getattr__(name: str) -> Any:
    """Import torch and the rest only for those who ask for them."""
    if name not in __all__:
        raise AttributeError(f"module 'corolla' has no attribute {name!r}")
    import corolla.analysis

    return getattr(corolla.analysis, name)
