"""Several candidates per proposal, of which a random forest picks the most promising.

Around any search by proposals. What is observed is passed on, so a policy gradient becomes off-policy: it
draws ``candidates`` architectures and one is trained, but its step is that of equations 5-7 with the policy's
own probability of that one (``log_prob`` likewise), not with the probability of being drawn *and* picked,
which has no closed form. The step's expectation is then not the gradient of the policy's expected reward: it
also moves towards what the forest prefers, as a policy that imitates its best draws does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from corolla.search.evolution import Fits
from corolla.search.proposals.around import Around
from corolla.search.proposals.pairs import PairsSettings, RewardForest
from corolla.search.proposals.protocol import Observation, Proposals, SearchContext
from corolla.settings import Count, settings
from corolla.spaces.architecture import Architecture
from corolla.state import Keeps, State
from corolla.types import ClientId

_OWN = "prescreen"


@settings
class PrescreenSettings(PairsSettings):
    """How proposals are chosen. Before there are ``forest.min_pairs`` the search's first draw is taken."""

    candidates: Count  # draws per proposal; 1: the search itself


class Prescreened(Around):
    """Proposes the best predicted of what ``search`` draws; deploys what ``search`` does."""

    keeps: ClassVar[Keeps] = {"_forest": f"{_OWN}/"}

    def __init__(
        self, *, settings: PrescreenSettings, search: Proposals, context: SearchContext
    ) -> None:
        self._forest = RewardForest(context=context, settings=settings)
        super().__init__(search)
        self.candidates = settings.candidates
        self.learns = True  # the forest does

    def draws(
        self, client: ClientId, rng: np.random.Generator, *, fits: Fits
    ) -> list[Architecture]:
        """Draw up to each candidate as the search does, and return the draws up to the best predicted."""
        predict = self._forest.predictor(client, keep=True)
        if predict is None:
            return self._search.draws(client, rng, fits=fits)
        attempts = [self._search.draws(client, rng, fits=fits) for _ in range(self.candidates)]
        return attempts[int(np.argmax(predict([draws[-1] for draws in attempts])))]

    def observe(self, observations: Sequence[Observation]) -> None:
        """Remember the pairs; the search learns too."""
        self._forest.add(observations)
        self._search.observe(observations)

    def columns(self, client: ClientId, architecture: Architecture) -> dict[str, float]:
        """Return the search's, and the predicted reward where there is a prediction."""
        predict = self._forest.predictor(client, keep=True)
        own = {} if predict is None else {"predicted_reward": float(predict([architecture])[0])}
        return {**self._search.columns(client, architecture), **own}

    def load_state(self, state: State) -> None:
        """Invert `state`; one of a run that was not prescreened brings no pairs."""
        self._search.load_state(state)
        if _OWN in state.meta:
            self._forest.load_state(State(state.part(f"{_OWN}/"), state.meta[_OWN]))
