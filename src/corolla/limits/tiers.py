"""A cap by tiers of devices: equally many clients may run each of a few shares of the largest network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from corolla.limits.caps import LAST_RESORT, CapRule, Facts
from corolla.settings import Seed, settings
from corolla.spaces.supernet import Supernet
from corolla.types import ClientId, client_seed, generator

_DRAW = 0x71E5  # keeps these draws apart from others of the same seed
Shares = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]


@settings
class TiersCap(CapRule):
    """Tiers of as equal sizes as can be, drawn once; as in FIARSE (Wu et al., NeurIPS 2024) and HeteroFL.

    Their tiers are shares of the network's parameters, here of its multiply-accumulates. A client that joins
    later draws its tier by itself: nobody else's changes.
    """

    remedy: ClassVar[str] = f"Raise the smallest of cap.shares, {LAST_RESORT}"

    shares: Shares  # of the largest architecture's multiply-accumulates, one per tier
    seed: Seed

    def caps(
        self, facts: Mapping[ClientId, Facts], *, space: Supernet, sizes: Mapping[ClientId, int]
    ) -> dict[ClientId, float]:
        """Return the share of each client's tier, in multiply-accumulates."""
        largest = float(space.costs(space.largest()).macs)
        drawn = {client: self._draw(client) for client in {*(sizes or facts)}}
        in_turn = sorted(drawn, key=lambda client: (drawn[client], client))
        tiers = {c: place * len(self.shares) // len(in_turn) for place, c in enumerate(in_turn)}
        tiers |= {c: int(self._draw(c) * len(self.shares)) for c in facts if c not in tiers}
        return {client: self.shares[tiers[client]] * largest for client in facts}

    def _draw(self, client: ClientId) -> float:
        return float(generator(self.seed, _DRAW, client_seed(client)).uniform())
