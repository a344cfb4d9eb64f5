"""PerFedRLNAS: a policy per client draws its architecture from the server's supernet, learned by REINFORCE.

Yao & Li, AAAI 2024: PerFedNAS (`strategies.perfednas`) with policy-gradient proposals and the reward of
equations 8 and 9; equations 4-9 live in `corolla.search`. Departures (docs/perfedrlnas.md): the reward's
accuracy is measured on validation images, never on test; an architecture known not to fit a client's memory
is not sent, its reward of equation 9 is given and another is drawn; entries that no client trained keep their
value; optimiser and baseline of the policy are settings.
"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

from corolla.search.policy import ClientPolicies, PolicySettings
from corolla.search.proposals.policy_gradient import PolicyGradient, PolicyGradientSettings
from corolla.search.proposals.protocol import Proposals, SearchContext
from corolla.search.reward import RewardSettings
from corolla.search.rewards import Accuracy, Loss, Reward
from corolla.settings import settings
from corolla.state import Keeps
from strategies.perfednas import PerFedNAS, SubnetRounds

_REWARDS: dict[str, type[Reward]] = {"accuracy": Accuracy, "loss": Loss}


@settings
class ScoredReward(RewardSettings):
    """PerFedRLNAS's reward."""

    score: Literal["accuracy", "loss"] = "accuracy"  # on validation images


@settings
class PerFedRLNASSettings(SubnetRounds):
    """PerFedRLNAS's settings."""

    policy: PolicySettings
    reward: ScoredReward


class PerFedRLNAS(PerFedNAS):
    """State: the supernet, one policy per client that ever took part, the rewards' baselines."""

    keeps: ClassVar[Keeps] = {"_proposals": "policies/"}
    settings: PerFedRLNASSettings  # type: ignore[assignment]

    def _make_proposals(self, context: SearchContext) -> Proposals:
        own = PolicyGradientSettings(policy=self.settings.policy)
        return PolicyGradient(settings=own, context=context)

    def _make_reward(self, *, budgets: bool) -> Reward:
        reward = self.settings.reward
        return _REWARDS[reward.score](settings=reward, budgets=budgets)

    @property
    def policies(self) -> ClientPolicies:
        """The policies of all clients."""
        return cast(PolicyGradient, self._unscreened).policies
