"""What clients can do at most: memory to train in, multiply-accumulates of one image's forward pass.

Wherever limits come from (drawn, a rule of `corolla.limits.caps`, a node's own word), they are entries of a
client's facts, and are read back here alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corolla.errors import Fault, refuse
from corolla.spaces.architecture import Architecture
from corolla.spaces.supernet import Supernet
from corolla.types import ClientId

BUDGET = "memory_budget_mib"
CAP = "macs_cap"

_RAISE_BUDGET = "Raise the lower end of memory_budget_mib, or lower batch_size"
_RAISE_CAP = "Raise max-macs in its --node-config, or take a space with smaller architectures"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """One client's limits; None: it has no such limit."""

    memory_budget_mib: float | None = None
    macs_cap: float | None = None

    @classmethod
    def from_extra(cls, known: Mapping[str, Any]) -> Limits:
        """Read the limits out of facts, or out of what `to_extra` gave."""
        return cls(**{key: float(known[key]) for key in (BUDGET, CAP) if key in known})

    def to_extra(self) -> dict[str, float]:
        """Return the limits that are set: for facts, tasks and records."""
        both = {BUDGET: self.memory_budget_mib, CAP: self.macs_cap}
        return {key: value for key, value in both.items() if value is not None}

    def fit(self, space: Supernet, architecture: Architecture, *, batch_size: int) -> bool:
        """Tell whether training ``architecture`` in such batches stays within both limits.

        A dead architecture fits no client: there is nothing to train.
        """
        if not space.is_live(architecture):
            return False
        if self.memory_budget_mib is None and self.macs_cap is None:
            return True
        # A search asks this thousands of times: all costs take eight times as long as this one.
        if self.macs_cap is not None and space.known_macs(architecture) > self.macs_cap:
            return False
        if self.memory_budget_mib is None:
            return True
        costs = space.costs(architecture, batch_size=batch_size)
        return costs.training_memory_mib <= self.memory_budget_mib


@dataclass(frozen=True, kw_only=True)
class ClientLimits:
    """The limits of many clients; one that is absent has no such limit."""

    budgets: Mapping[ClientId, float] = field(default_factory=dict)  # MiB
    caps: Mapping[ClientId, float] = field(default_factory=dict)  # multiply-accumulates


def limits_of(facts: Mapping[ClientId, Mapping[str, Any]]) -> ClientLimits:
    """Return the limits that the clients' facts hold."""
    limits = {client: Limits.from_extra(known) for client, known in facts.items()}
    budgets = {client: one.memory_budget_mib for client, one in limits.items()}
    caps = {client: one.macs_cap for client, one in limits.items()}
    return ClientLimits(
        budgets={client: mib for client, mib in budgets.items() if mib is not None},
        caps={client: cap for client, cap in caps.items() if cap is not None},
    )


@dataclass(frozen=True)
class Shortfall:
    """A limit under which a client can train not even the smallest architecture."""

    client: ClientId
    key: str  # BUDGET or CAP
    value: float
    needed: float

    def __str__(self) -> str:
        """Return the limit and what is needed, for the log."""
        has, needs = _said(self.key, self.value), _said(self.key, self.needed)
        return f"{self.key} is {has}, the smallest architecture takes {needs}"


def shortfalls(limits: ClientLimits, space: Supernet, *, batch_size: int) -> list[Shortfall]:
    """Return every limit that is below what the smallest architecture takes, budgets first."""
    smallest = space.costs(space.smallest(), batch_size=batch_size)
    return [
        Shortfall(client, key, value, needed)
        for key, values, needed in (
            (BUDGET, limits.budgets, smallest.training_memory_mib),
            (CAP, limits.caps, float(smallest.macs)),
        )
        for client, value in values.items()
        if not value >= needed  # so that a node's NaN is short, too
    ]


def refuse_shortfalls(short: Sequence[Shortfall], *, cap_remedy: str | None = None) -> None:
    """Raise RefusedError that names every client in ``short``; do nothing where there is none.

    ``cap_remedy``: what to do about too small a cap, where a rule of the configuration set it.
    """
    faults = []
    for key in (BUDGET, CAP):
        those = [one for one in short if one.key == key]
        if not those:
            continue
        needed = those[0].needed
        if key == BUDGET:
            named = ", ".join(f"client {one.client}: {one.value:.1f}" for one in those)
            problem = f"the smallest architecture needs {needed:.1f} MiB to train"
            faults.append(Fault(BUDGET, named, problem, _RAISE_BUDGET))
            continue
        named = ", ".join(f"client {one.client}: {one.value:,.0f}" for one in those)
        problem = f"the smallest architecture needs {needed:,.0f} multiply-accumulates for an image"
        where = "max-macs" if cap_remedy is None else "cap"
        faults.append(Fault(where, named, problem, cap_remedy or _RAISE_CAP))
    refuse(faults)


def _said(key: str, value: float) -> str:
    return f"{value:.1f} MiB" if key == BUDGET else f"{value:,.0f} multiply-accumulates"
