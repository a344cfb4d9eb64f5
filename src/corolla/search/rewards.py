"""What a reply's metrics are worth: a score, judged as `corolla.search.reward` judges accuracies.

A reward is a class with ``needs``, ``bounds`` and ``score``, named by the ``_target_`` of conf/reward/*.yaml.
Time, memory, baselines and normalising are the same for all of them; a model that does not fit has the lowest
score.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from corolla.errors import Fault, RefusedError
from corolla.search.reward import (
    Judgement,
    Outcome,
    RewardHistory,
    RewardSettings,
)
from corolla.state import Keeps, Stateful
from corolla.types import ClientId


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the server saw of one participant in one round."""

    metrics: Mapping[str, float]  # of its reply
    round_s: float = 0.0  # seconds from sending to receiving (RT)
    memory_share: float = 0.0  # phi: memory needed / the client's budget, 0..1


class Reward(Stateful, ABC):
    """Turns the replies of a round into rewards and advantages, and remembers the baselines.

    Args:
        settings: `RewardSettings`.
        budgets: whether clients have memory budgets: the value of ``memory="auto"``.

    Raises:
        RefusedError: the reward compares with the received model, which is not scored.

    """

    keeps: ClassVar[Keeps] = {"_history": ""}
    settings: RewardSettings
    needs: ClassVar[tuple[str, ...]]  # metrics without which a reply has no score
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)  # lowest and highest score

    def __init__(self, *, settings: RewardSettings, budgets: bool) -> None:
        if not settings.received and any(key.startswith("received_") for key in self.needs):
            problem = "the reward compares with the received model, which is not scored"
            remedy = "Set evaluation.received=true, or take another method/reward"
            raise RefusedError(Fault("evaluation.received", settings.received, problem, remedy))
        memory = budgets if settings.memory == "auto" else settings.memory
        self.settings = replace(settings, memory=memory)
        self.forget()

    @abstractmethod
    def score(self, metrics: Mapping[str, float]) -> float:
        """Return what a reply with these metrics is worth, within the bounds; higher is better."""

    def judge(self, seen: Mapping[ClientId, Seen]) -> dict[ClientId, Judgement]:
        """Return each participant's reward and advantage, and remember the round."""
        return self._history.judge(self._outcomes(seen))

    def judge_misfit(self, client: ClientId, seen: Mapping[ClientId, Seen]) -> Judgement:
        """Return what a model that does not fit ``client`` is worth in the round just judged."""
        return self._history.judge_misfit(client, self._outcomes(seen))

    def _outcomes(self, seen: Mapping[ClientId, Seen]) -> dict[ClientId, Outcome]:
        return {
            client: Outcome(
                accuracy=self.score(one.metrics),
                round_s=one.round_s,
                memory_share=one.memory_share,
            )
            for client, one in seen.items()
        }

    def forget(self) -> None:
        """Go back to the start: no client was ever seen."""
        self._history = RewardHistory(settings=self.settings, bounds=self.bounds)


class Accuracy(Reward):
    """Accuracy on the client's validation images, of the trained model; with all terms, equations 8 and 9."""

    needs = ("val_accuracy",)

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return a fraction, 0..1."""
        return metrics["val_accuracy"]


class Loss(Reward):
    """Minus the mean cross-entropy on the client's validation images, of the trained model.

    Above 10 nats (guessing among 100 classes costs 4.6), or where it is no number, a loss counts as 10: one
    diverged client must not set the scale for all.
    """

    needs = ("val_loss",)
    bounds = (-10.0, 0.0)

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return minus the loss in nats."""
        lowest, loss = self.bounds[0], metrics["val_loss"]
        return lowest if math.isnan(loss) else -min(max(loss, 0.0), -lowest)


class Improvement(Reward):
    """What training added: accuracy of the trained model minus that of the received one, on validation."""

    needs = ("val_accuracy", "received_val_accuracy")
    bounds = (-1.0, 1.0)

    def score(self, metrics: Mapping[str, float]) -> float:
        """Return a difference of fractions, -1..1."""
        return metrics["val_accuracy"] - metrics["received_val_accuracy"]
