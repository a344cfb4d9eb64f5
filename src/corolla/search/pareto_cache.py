"""A small set of architectures of all costs, each the fittest for what it costs: DeepFedNAS's Pareto cache.

2026, https://arxiv.org/abs/2601.15127: subnets that a supernet is trained on are drawn from it, and what a
device runs is chosen from it. Found by a genetic search on `corolla.search.training_free` under one budget
after the other; or read from a file.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cached_property
from operator import index
from pathlib import Path

import numpy as np

from corolla.errors import Fault, RefusedError, below
from corolla.records.atomic import write_text
from corolla.search.evolution import EvolutionSettings, Fits, draw_accepted, evolve
from corolla.search.training_free import FitnessSettings, TrainingFree
from corolla.settings import AtLeastTwo, settings
from corolla.spaces.architecture import Architecture
from corolla.spaces.base_space import network_fingerprint
from corolla.spaces.supernet import Supernet

_SEARCH = 0xCAC4E  # keeps the search's draws apart from others of the same seed


@settings
class CacheSettings:
    """How the cache is found, or where it lies."""

    entries: AtLeastTwo = 60  # budgets, evenly from the cheapest to the costliest architecture
    path: str | None = None  # of a file that `ParetoCache.write` wrote, absolute; None: it is found
    fitness: FitnessSettings = FitnessSettings()
    evolution: EvolutionSettings = EvolutionSettings(
        population=32, generations=20, mutants=16, crossovers=16
    )


class ParetoCache:
    """Architectures in the order of their costs; found, or read, when first asked for.

    Raises:
        RefusedError: no file at ``path``, one of another space or fitness, or a space without convolutions.

    """

    def __init__(self, space: Supernet, settings: CacheSettings, *, seed: int) -> None:
        self._space, self._settings, self._seed = space, settings, seed
        with below("cache"):
            self.fitness = TrainingFree(space, settings.fitness)
        if settings.path is not None:
            self.entries = self._read(Path(settings.path))

    @cached_property
    def entries(self) -> list[Architecture]:
        """The architectures: of two budgets' winners, none is both costlier and less fit than the other."""
        space, own = self._space, self._settings
        low, high = space.cost(space.smallest()), space.cost(space.largest())
        rng = np.random.default_rng([self._seed, _SEARCH])
        found: list[Architecture] = []
        best = -np.inf
        for budget in np.linspace(low, high, own.entries):

            def fits(architecture: Architecture, most: float = float(budget)) -> bool:
                return space.cost(architecture) <= most

            count = max(2, own.evolution.population // 2)
            # What won a smaller budget is a parent here.
            parents = [space.smallest(), *found[-4:]]
            parents += draw_accepted(space, count, accept=fits, rng=rng, known=parents)
            (winner, *_) = evolve(
                space, parents, self.fitness.losses, fits=fits, settings=own.evolution, rng=rng
            )
            if self.fitness(winner) > best:
                best = self.fitness(winner)
                found.append(winner)
        return sorted(found, key=lambda one: (space.cost(one), one))

    def fitting(self, fits: Fits) -> list[Architecture]:
        """Return the entries within a client's limits; where none is, the smallest architecture."""
        return [one for one in self.entries if fits(one)] or [self._space.smallest()]

    def best(self, fits: Fits) -> Architecture:
        """Return the fittest entry that fits; of equals the cheaper."""
        return max(self.fitting(fits), key=self.fitness)

    def write(self, path: Path) -> None:
        """Write the cache to a file, for other runs."""
        content = {
            "space": self._space.name,
            "fingerprint": self._fingerprint(),
            "fitness": asdict(self._settings.fitness),
            "entries": [one.to_list() for one in self.entries],
        }
        write_text(path, json.dumps(content))

    def _fingerprint(self) -> str:
        """Of all that costs and fitness depend on: choices, tensors, pixels."""
        space = self._space
        return network_fingerprint(space.fingerprint(), space.supernet_shapes, space.resolution)

    def _read(self, path: Path) -> list[Architecture]:
        space = self._space

        def refuse(problem: str, remedy: str) -> RefusedError:
            return RefusedError(Fault("cache.path", str(path), problem, remedy))

        if not path.is_absolute():
            raise refuse("is no absolute path", f"Write {path.absolute()}")
        unread = "Give a file of ParetoCache.write, or null: then the cache is found"
        try:
            content = json.loads(path.read_text())
            name, fingerprint = content["space"], content["fingerprint"]
            fitness, entries = content["fitness"], content["entries"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise refuse(f"cannot be read as a cache: {error}", unread) from error
        found = "cache.path=null: then the cache is found"
        if fingerprint != self._fingerprint():
            problem, remedy = (
                f"holds architectures of space {name!r}",
                f"Use space={name}, or {found}",
            )
            if name == space.name:
                problem += ", of another resolution, other widths, classes or choices"
                remedy = f"Use the space's settings of that run, or {found}"
            raise refuse(f"{problem}: not of this {space.name!r}", remedy)
        if fitness != asdict(self._settings.fitness):
            problem = f"was found for the fitness {fitness}, not {asdict(self._settings.fitness)}"
            raise refuse(problem, f"Use these as cache.fitness, or {found}")
        try:
            rows = [space.check(Architecture(tuple(map(index, row)))) for row in entries]
        except (ValueError, TypeError) as error:
            raise refuse(f"holds what is no architecture: {error}", unread) from error
        if not rows:
            raise refuse("holds no architectures", "Use cache.path=null: then the cache is found")
        return rows
