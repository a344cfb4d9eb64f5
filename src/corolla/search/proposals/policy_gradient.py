"""A categorical policy per client, learned by REINFORCE.

PerFedRLNAS: Yao & Li, AAAI 2024, equations 4-7; the arithmetic is `corolla.search.policy`. An architecture
that does not fit is not sent: the policy learns its reward of equation 9, and another is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from corolla.search.deploy import most_probable
from corolla.search.evolution import Fits
from corolla.search.policy import ClientPolicies, PolicySettings, Step
from corolla.search.proposals.protocol import Observation, Proposals, SearchContext
from corolla.search.proposals.rejection_sampling import until_one_fits
from corolla.search.shared_policy import SharedPolicies
from corolla.settings import settings
from corolla.spaces.architecture import Architecture
from corolla.state import Keeps
from corolla.types import ClientId


@settings
class PolicyGradientSettings:
    """Settings of `PolicyGradient`."""

    policy: PolicySettings


class PolicyGradient(Proposals):
    """Draws from the client's policy; deploys its most probable architecture that fits."""

    keeps: ClassVar[Keeps] = {"policies": ""}
    settings: PolicyGradientSettings

    def __init__(self, *, settings: PolicyGradientSettings, context: SearchContext) -> None:
        self._context = context
        dimensions, own = context.space.dimensions, settings.policy
        sizes = [len(dimension) for dimension in dimensions]
        self.policies = ClientPolicies(sizes=sizes, settings=own)
        if own.shared:
            names = [dimension.name for dimension in dimensions]
            self.policies = SharedPolicies(sizes=sizes, settings=own, names=names)

    def draws(
        self, client: ClientId, rng: np.random.Generator, *, fits: Fits
    ) -> list[Architecture]:
        """Draw by equation 4 until one fits; after ``max_draws`` misfits, the smallest."""
        return until_one_fits(
            lambda: Architecture(self.policies.sample(client, rng)),
            self._context.space.smallest,
            fits=fits,
            limit=self._context.max_draws,
        )

    def observe(self, observations: Sequence[Observation]) -> None:
        """Take one step per client: by the advantage of what was sent, and by what its misfits tell.

        A draw that does not fit says little about its single choices, and under a tight limit there are many
        of them: a step away from each (``published``) leaves a policy decided by chance. Together they
        say that what was sent fits and most of the policy does not: that is worth ``misfit_step`` of a
        misfit's advantage, times their share of the draws, so never more than one bounded step.
        """
        settings, steps = self.policies.settings, list[Step]()
        for seen in observations:
            advantage = seen.advantage
            if settings.misfits == "published":
                steps += [
                    Step(seen.client, misfit.choices, seen.misfit_advantage)
                    for misfit in seen.misfits
                ]
            elif seen.misfits:
                share = len(seen.misfits) / (len(seen.misfits) + 1)
                # Misfits can be worth more than expected only where all is: nothing to learn then.
                advantage += settings.misfit_step * share * max(0.0, -seen.misfit_advantage)
            steps.append(Step(seen.client, seen.architecture.choices, advantage))
        self.policies.learn(steps)

    def chosen(self, client: ClientId, *, fits: Fits) -> Architecture:
        """Return the most probable architecture that fits.

        For a client whose policy knows nothing: by the mean of the others' policies, which also resolves the
        ties of policies that know little; what is still a tie goes to the smallest.
        """
        pooled = self.policies.pooled()
        own = self.policies.probabilities(client) if self.policies.knows(client) else pooled
        choices = most_probable(
            own,
            lambda candidate: fits(Architecture(candidate)),
            smallest=self._context.space.smallest().choices,
            prior=pooled,
        )
        return Architecture(choices)

    def chosen_for_all(self) -> Architecture | None:
        """Return the most probable architecture of a policy of which nothing is a client's own."""
        own = self.policies.settings
        if not own.shared or own.residual or own.personal:
            return None
        return self.chosen("", fits=lambda architecture: True)

    def metrics(self, clients: Sequence[ClientId]) -> dict[str, float]:
        """Return the mean entropy of the participants' policies, 1: uniform, 0: decided."""
        entropies = [self.policies.entropy(client).normalised for client in clients]
        return {"policy_entropy": float(np.mean(entropies))}

    def columns(self, client: ClientId, architecture: Architecture) -> dict[str, float]:
        """Return the log-probability (nats) of the draw."""
        return {"log_prob": self.policies.log_prob(client, architecture.choices)}

    def describe(self, client: ClientId) -> dict[str, Any]:
        """Return the policy's entropy, and its probabilities of the dimensions that have a choice."""
        return {
            "policy_entropy": self.policies.entropy(client).normalised,
            "policy": [
                [round(float(p), 4) for p in row]
                for row in self.policies.probabilities(client)
                if len(row) > 1
            ],
        }
