"""PerFedRLNAS: a policy per client draws its architecture from the server's supernet, learned by REINFORCE.

Yao & Li, AAAI 2024: PerFedNAS (`strategies.perfednas`) with policy-gradient proposals and the reward of
equations 8 and 9; equations 4-9 live in `corolla.search`. Departures (docs/perfedrlnas.md): the reward's
accuracy is measured on validation images, never on test; an architecture known not to fit a client's memory
is not sent, its reward of equation 9 is given and another is drawn; entries that nobody trained keep their
value; optimiser and baseline of the policy are settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

from corolla.errors import Fault, RefusedError, nearest
from corolla.federation import Federation
from corolla.search.policy import ClientPolicies
from corolla.search.proposals.policy_gradient import PolicyGradient
from strategies.perfednas import PerFedNAS

_PROPOSALS = "corolla.search.proposals.policy_gradient.PolicyGradient"
_REWARDS = {
    "accuracy": "corolla.search.rewards.Accuracy",
    "loss": "corolla.search.rewards.Loss",
}


class PerFedRLNAS(PerFedNAS):
    """State: the supernet, one policy per client that ever took part, the rewards' baselines."""

    proposals_key: ClassVar[str] = "method.strategy"
    reward_key: ClassVar[str] = "method.strategy.reward"
    state_name: ClassVar[str] = "policies"

    def __init__(
        self,
        *,
        federation: Federation,
        policy: Mapping[str, Any],
        reward: Mapping[str, Any],
        warmup_rounds: int,
        settle: float,
        weights: Literal["uniform", "examples"],
        server_momentum: float,
        max_draws: int,
        prescreen: Mapping[str, Any] | None = None,
        damping: float = 0.0,
        final_draws: int = 0,
    ) -> None:
        """Runs of older releases are configured without ``prescreen``, ``damping`` and ``final_draws``."""
        score = reward.get("score", "accuracy")
        if score not in _REWARDS:
            key, remedy = f"{self.reward_key}.score", nearest(str(score), list(_REWARDS))
            raise RefusedError(Fault(key, score, "is no score", remedy))
        own = {key: value for key, value in reward.items() if key != "score"}
        super().__init__(
            federation=federation,
            proposals={"_target_": _PROPOSALS, "policy": policy},
            reward={"_target_": _REWARDS[score], **own},
            prescreen=prescreen,
            warmup_rounds=warmup_rounds,
            settle=settle,
            weights=weights,
            server_momentum=server_momentum,
            max_draws=max_draws,
            damping=damping,
            final_draws=final_draws,
        )

    @property
    def policies(self) -> ClientPolicies:
        """The policies of all clients."""
        return cast(PolicyGradient, self._unscreened).policies
