"""Search guided by a predictor: measure a random population, evolve on predictions, measure the front.

HAPFNAS: Yang & Liu, Entropy 2025, 27(7), 759, algorithm 2. Departures from the public code: what is
measured comes from validation images (the caller's choice; there: test), and the evolved front is measured
before the winner is chosen (there switched off, so that the winner is the best of the first random
population; ``front=0`` does that).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from corolla.errors import Fault, RefusedError, is_number, nearest
from corolla.search.evolution import (
    EvolutionSettings,
    Fits,
    draw_accepted,
    evolve,
    require_smallest,
)
from corolla.search.measured import Measured, distinct, finite
from corolla.search.predictor import (
    ForestPredictor,
    ForestSettings,
    RankCorrelation,
    compare,
    held_out_correlation,
)
from corolla.spaces.architecture import Architecture
from corolla.spaces.space import SearchSpace
from corolla.types import ClientId, client_seed

_DRAW, _EVOLVE, _FOREST, _HELD_OUT = range(4)  # independent streams of one seed
_CLIENT = 0x5EA2C4  # keeps a client's search apart from other draws of the same seed and client


def search_seed(seed: int, client: ClientId) -> tuple[int, ...]:
    """Return the seed of one client's search in a run: the same at the client and at the server."""
    return (seed, client_seed(client), _CLIENT)


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found."""

    best: Measured  # lowest measured loss
    measured: tuple[Measured, ...]  # one pair per architecture, in the order of their choices
    predictor: RankCorrelation | None  # on held-out pairs of the initial population
    front: (
        RankCorrelation | None
    )  # predicted against measured, of all beyond the initial population

    @property
    def architecture(self) -> Architecture:
        """The winner."""
        return self.best.architecture


class PredictorSearch:
    """Says what to measure next and, at the end, what was best; keeps nothing that matters.

    Args:
        space: what is searched.
        initial: architectures of the random population that the forest learns from.
        front: best predicted new architectures to measure after that; 0: none.
        held_out: share of the initial population that the predictor's quality is measured on.
        evolution: settings of the search on predictions, by name or as an object.
        forest: settings of the predictor, likewise.

    Raises:
        RefusedError: values out of range, all at once.

    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        initial: int = 256,
        front: int = 32,
        held_out: float = 0.2,
        evolution: EvolutionSettings | Mapping[str, Any] | None = None,
        forest: ForestSettings | Mapping[str, Any] | None = None,
    ) -> None:
        faults: list[Fault] = []
        evolved = _settings("evolution", EvolutionSettings, evolution, faults)
        grown = _settings("forest", ForestSettings, forest, faults)
        for key, value, least in (("initial", initial, 1), ("front", front, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                remedy = f"Use a whole number, {least} or more"
                faults.append(Fault(key, value, "is out of range", remedy))
            elif key == "initial" and grown is not None and value < grown.min_pairs:
                problem = f"is fewer than the forest needs (forest.min_pairs={grown.min_pairs})"
                remedy = f"Use {grown.min_pairs} or more, or lower forest.min_pairs"
                faults.append(Fault(key, value, problem, remedy))
        if not is_number(held_out) or not 0 <= held_out < 1:
            remedy = "Use a number from 0 (quality not measured) to below 1"
            faults.append(Fault("held_out", held_out, "is no share of the pairs", remedy))
        if faults or evolved is None or grown is None:
            raise RefusedError(faults)
        self.space, self.initial, self.front, self.held_out = space, initial, front, held_out
        self.evolution, self.forest = evolved, grown
        # A search asks for both again at every call until all is measured.
        self._population_of = lru_cache(maxsize=64)(self._draw)
        self._front_of = lru_cache(maxsize=64)(self._find_front)

    def wanted(
        self, known: Sequence[Measured], *, fits: Fits, seed: Sequence[int]
    ) -> list[Architecture]:
        """Return the architectures to measure next; none when the search is over.

        First the initial population, then the front; of both, those that ``known`` does not hold yet.
        A pure function of its arguments: a search in one go, one over several exchanges and one that
        was restarted half-way ask for the same. The forest learns from the initial population alone,
        so pairs of the front or from elsewhere do not move the front. A subnet that diverged counts as
        measured. There is no front where every architecture that fits was in the initial population,
        or where fewer than ``forest.min_pairs`` of that have a finite loss.

        Args:
            known: what is measured so far, in any order.
            fits: the client's limits; hashable, and best the same object at every call.
            seed: such as ``(run's seed, client_seed(client))``.

        Raises:
            RefusedError: not even the smallest architecture fits.

        """
        require_smallest(self.space, fits)
        measured = distinct(known)
        population = self._population_of(fits, tuple(seed))
        missing = [architecture for architecture in population if architecture not in measured]
        if missing or not self.front:
            return missing
        pairs = tuple(measured[architecture] for architecture in population)
        if sum(math.isfinite(pair.loss) for pair in pairs) < self.forest.min_pairs:
            return []
        front = self._front_of(pairs, fits, tuple(seed))
        return [architecture for architecture in front if architecture not in measured]

    def result(
        self, known: Sequence[Measured], *, seed: Sequence[int], fits: Fits | None = None
    ) -> SearchResult:
        """Return the best measured architecture and how good the predictor was.

        Of equal losses the higher accuracy wins, then the order of the choices. The order of
        ``known`` does not matter.

        Args:
            known: all that was measured, at least what `wanted` asked for.
            seed: that of `wanted`.
            fits: that of `wanted`; None: all of ``known`` is within the limits.

        Raises:
            RefusedError: nothing in ``known`` that fits has a finite loss.

        """
        if fits is not None:
            known = [pair for pair in known if fits(pair.architecture)]
        measured = distinct(known)
        usable = finite(known)
        if not usable:
            raise RefusedError(
                Fault(
                    "measured architectures",
                    len(measured),
                    "none of them has a finite loss, so none can be chosen",
                    "Look at the supernet's training (lower its learning rate), or raise the limits",
                )
            )
        # What the initial draw tried and took is known, what it tried and refused did not fit.
        population = (
            self._draw(measured.__contains__, tuple(seed))
            if fits is None
            else self._population_of(fits, tuple(seed))
        )
        initial = [
            measured[architecture] for architecture in population if architecture in measured
        ]
        started = set(population)
        return SearchResult(
            best=min(usable, key=lambda pair: pair.rank),
            measured=tuple(measured.values()),
            predictor=held_out_correlation(
                self.space,
                initial,
                share=self.held_out,
                settings=self.forest,
                seed=_number(seed, _HELD_OUT),
            ),
            front=self._compare_rest(
                initial, [pair for pair in usable if pair.architecture not in started], seed
            ),
        )

    def _draw(self, fits: Fits, seed: tuple[int, ...]) -> tuple[Architecture, ...]:
        rng = np.random.default_rng(_sequence(seed, _DRAW))
        return tuple(draw_accepted(self.space, self.initial, accept=fits, rng=rng))

    def _find_front(
        self, pairs: tuple[Measured, ...], fits: Fits, seed: tuple[int, ...]
    ) -> list[Architecture]:
        population = [pair.architecture for pair in pairs]
        evolved = evolve(
            self.space,
            population,
            self._predictor(pairs, seed).predict,
            fits=fits,
            settings=self.evolution,
            rng=np.random.default_rng(_sequence(seed, _EVOLVE)),
        )
        started = set(population)
        return [found for found in evolved if found not in started][: self.front]

    def _compare_rest(
        self, initial: Sequence[Measured], rest: Sequence[Measured], seed: Sequence[int]
    ) -> RankCorrelation | None:
        if len(rest) < 2 or len(finite(initial)) < self.forest.min_pairs:
            return None
        return compare(self._predictor(initial, seed), rest)

    def _predictor(self, pairs: Sequence[Measured], seed: Sequence[int]) -> ForestPredictor:
        predictor = ForestPredictor(self.space, self.forest, seed=_number(seed, _FOREST))
        predictor.fit(pairs)
        return predictor


_S = TypeVar("_S", EvolutionSettings, ForestSettings)


def _settings(
    name: str, kind: type[_S], given: _S | Mapping[str, Any] | None, faults: list[Fault]
) -> _S | None:
    """Return the settings object; None, with all that is wrong added to ``faults``."""
    if isinstance(given, kind):
        return given
    values = {} if given is None else given
    known = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(values, Mapping):
        remedy = f"Use a mapping with any of: {', '.join(known)}"
        faults.append(Fault(name, given, "is no mapping of settings", remedy))
        return None
    unknown = [key for key in values if key not in known]
    faults += [
        Fault(f"{name}.{key}", values[key], "is not known", nearest(str(key), known))
        for key in unknown
    ]
    try:
        made = kind(**{str(key): value for key, value in values.items() if key not in unknown})
    except RefusedError as error:
        faults += error.faults
        return None
    return None if unknown else made


def _sequence(seed: Sequence[int], stream: int) -> np.random.SeedSequence:
    # A spawn key, not one more number: SeedSequence takes [1, 2] and [1, 2, 0] for the same entropy.
    return np.random.SeedSequence([int(part) for part in seed], spawn_key=(stream,))


def _number(seed: Sequence[int], stream: int) -> int:
    return int(_sequence(seed, stream).generate_state(1)[0])
