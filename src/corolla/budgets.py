"""Memory budgets of simulated clients (PerFedRLNAS, section "Awareness of Resource Budgets")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from corolla.errors import Fault, RefusedError
from corolla.spaces.supernet import Supernet
from corolla.types import ClientId, generator

_DRAW = 0xB0D6E7  # keeps the budgets' draws apart from others of the same seed


def draw_budgets(
    budget: tuple[float, float] | Literal["space"] | None,
    clients: Sequence[ClientId],
    space: Supernet,
    *,
    batch_size: int,
    seed: int,
) -> dict[ClientId, float]:
    """Return MiB per client, drawn uniformly and fixed for the run; nothing where budget-blind.

    ``space`` as budget stands for the range from the smallest to the largest architecture's need.

    Raises:
        RefusedError: a client whose budget not even the smallest architecture fits.

    """
    if budget is None:
        return {}
    smallest = space.costs(space.smallest(), batch_size=batch_size).training_memory_mib
    largest = space.costs(space.largest(), batch_size=batch_size).training_memory_mib
    low, high = (smallest, largest) if budget == "space" else budget
    rng = generator(seed, _DRAW)
    budgets = {client: float(rng.uniform(low, high)) for client in clients}
    require_room(budgets, smallest)
    return budgets


def require_room(budgets: Mapping[ClientId, float], smallest_mib: float) -> None:
    """Raise RefusedError that names every client whose budget is below the smallest architecture."""
    short = {client: mib for client, mib in budgets.items() if mib < smallest_mib}
    if short:
        named = ", ".join(f"client {client}: {mib:.1f}" for client, mib in short.items())
        raise RefusedError(
            Fault(
                "memory_budget_mib",
                named,
                f"the smallest architecture needs {smallest_mib:.1f} MiB to train",
                "Raise the lower end, or lower batch_size",
            )
        )
