"""The control by lot of a search: its sizes, but architectures and who gets which size by chance.

A search that deploys larger networks than uniform draws are is better for that alone. Here every draw has the
multiply-accumulates of one that the search made, or deployed, in a finished run: what is left of its lead is
what it knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import Field

from corolla.errors import Fault, RefusedError
from corolla.records.run_directory import RunDirectory
from corolla.search.equal_cost import draw_of_cost
from corolla.search.evolution import Fits
from corolla.search.proposals.protocol import SearchContext, Unlearning
from corolla.settings import settings
from corolla.spaces.architecture import Architecture
from corolla.types import ClientId, client_order, client_seed, generator

# Keep these draws apart from others of the same seed and client.
_DEAL, _DRAW = 0xDEA1, 0x517E


@settings
class LikeSizesSettings:
    """Settings of `LikeSizes`."""

    run: str | None  # folder of the search's finished run: same clients, same space
    tolerance: Annotated[float, Field(gt=0, lt=1)]  # share by which a draw may miss its size
    # Of a search that deploys one for all: clients of one size deploy the same draw.
    same_for_all: bool = False


class LikeSizes(Unlearning):
    """Draws of the sizes that another run's search proposed; deploys draws of the sizes that it deployed.

    Among clients of the same cap, proposed sizes are drawn anew in every round, and deployed sizes are dealt
    out once, each to one client. A client that was not in that run draws from all.

    Raises:
        RefusedError: no run there, an unfinished one, or one of another space.

    """

    settings: LikeSizesSettings

    def __init__(self, *, settings: LikeSizesSettings, context: SearchContext) -> None:
        self._alone = not settings.same_for_all
        if settings.run is None:
            remedy = "Set method.proposals.run=RUN_DIR, the folder of a finished run"
            problem = "no run is given whose architectures' sizes are to be repeated"
            raise RefusedError(Fault("proposals.run", None, problem, remedy))
        self._context, self._tolerance = context, settings.tolerance
        try:
            run = RunDirectory.open(Path(settings.run).expanduser())
        except RefusedError as error:
            raise RefusedError(
                [replace(fault, key="proposals.run") for fault in error.faults]
            ) from error
        if not run.finished:
            remedy = f"Finish it first: corolla resume {run.path}"
            raise RefusedError(
                Fault("proposals.run", settings.run, "that run has not ended", remedy)
            )
        summary = run.summary()
        if summary["dimensions"] != context.space.describe():
            remedy = f"Take space={summary['space']}, or another run"
            problem = "its space is not that of this run"
            raise RefusedError(Fault("proposals.run", settings.run, problem, remedy))
        self._group = {c: entry.get("macs_cap") for c, entry in summary["per_client"].items()}
        self._proposed = self._grouped(_proposed(run))
        self._deployed = _dealt(summary["per_client"], self._group, seed=context.seed)

    def _grouped(self, sizes: Sequence[tuple[ClientId, int]]) -> dict[float | None, list[int]]:
        found: dict[float | None, list[int]] = {}
        for client, size in sizes:
            found.setdefault(self._group.get(client), []).append(size)
        return found

    def draws(
        self, client: ClientId, rng: np.random.Generator, *, fits: Fits
    ) -> list[Architecture]:
        """Return a random architecture of one of the proposed sizes."""
        every = [size for sizes in self._proposed.values() for size in sizes]
        known = self._proposed.get(self._group[client], every) if client in self._group else every
        return [self._near(float(rng.choice(known)), fits, rng)]

    def chosen(self, client: ClientId, *, fits: Fits) -> Architecture:
        """Return the same random architecture whenever it is asked, of the size that was dealt out."""
        own = generator(self._context.seed, client_seed(client) if self._alone else 0, _DRAW)
        size = self._deployed.get(client) or float(own.choice(list(self._deployed.values())))
        return self._near(size, fits, own)

    def _near(self, size: float, fits: Fits, rng: np.random.Generator) -> Architecture:
        space = self._context.space
        return draw_of_cost(space, size, fits=fits, rng=rng, tolerance=self._tolerance)


def _proposed(run: RunDirectory) -> list[tuple[ClientId, int]]:
    """Return whose proposal had how many multiply-accumulates, in the rounds in which it still searched."""
    config: dict[str, Any] = yaml.safe_load(run.config_text())
    rounds = int(config["rounds"])
    searched = rounds - round(float(config["method"].get("settle") or 0) * rounds)
    rows = [row for row in run.clients() if row.get("macs") and row["round"] <= max(1, searched)]
    return [(str(row["client"]), int(row["macs"])) for row in rows]


def _dealt(
    entries: Mapping[ClientId, Mapping[str, Any]],
    group: Mapping[ClientId, float | None],
    *,
    seed: int,
) -> dict[ClientId, int]:
    """Return a client's deployed size for each client: all of them, permuted among those of a cap."""
    dealt: dict[ClientId, int] = {}
    for cap in sorted(set(group.values()), key=lambda cap: cap or 0):
        clients = sorted((c for c in entries if group[c] == cap), key=client_order)
        order = generator(seed, _DEAL).permutation(len(clients))
        sizes = [int(entries[clients[place]]["macs"]) for place in order]
        dealt |= dict(zip(clients, sizes, strict=True))
    return dealt
