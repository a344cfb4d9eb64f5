"""What a trained architecture is worth to its client, and how much more than expected.

PerFedRLNAS: Yao & Li, AAAI 2024, equations 8 and 9. Departure: the paper's only baseline is the
mean accuracy over clients, so that a client with hard data is told in every round that whatever it
drew was bad; a client's own running mean, alone or on top of the paper's, is a setting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corolla.errors import Fault, refuse
from corolla.settings import Decay, NonNegative, Positive, settings
from corolla.state import State, Stateful
from corolla.types import ClientId, client_order

Baseline = Literal["clients", "client", "both", "moving", "none"]
Normalise = Literal["client", "all", "none"]
_POOLED = (
    0.25  # what the size of all advantages weighs beside a client's own, which comes to weigh 1
)


@settings
class RewardSettings:
    """Terms of the reward."""

    lambda_time: NonNegative = 0.0  # 1/s: accuracy given up for a second of round time
    memory: bool | Literal["auto"] = (
        "auto"  # subtract phi, the share of the memory budget used (eq. 9)
    )
    received: bool | Literal["auto"] = True  # evaluation.received; of rewards that compare with it
    baseline: Baseline = "both"  # what is subtracted: see `RewardHistory`
    decay: Decay = 0.9  # of a client's own running mean, per participation
    prior_weight: NonNegative = (
        1.0  # participations that the mean of all counts as at a client's first
    )
    normalise: Normalise = "client"  # whose running size advantages are divided by
    normalise_decay: Decay = 0.95  # of that size: per round of all, per participation of a client
    advantage_limit: Positive | None = 3.0  # advantages are clipped to +-limit, after normalising


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the server saw of one participant in one round."""

    accuracy: float = (
        0.0  # on the client's validation split, of the trained subnet; or another score
    )
    round_s: float = 0.0  # seconds from sending to receiving (RT)
    memory_share: float = 0.0  # phi: memory needed / the client's budget, 0..1
    fits: bool = True  # False: the model did not fit; the other fields are not used


class Judgement(NamedTuple):
    """``reward`` is the papers' equation, ``advantage`` what the policy is trained with."""

    reward: float
    advantage: float


def rewards(
    outcomes: Mapping[ClientId, Outcome],
    mean_accuracy: float,
    *,
    lambda_time: float = 0.0,
    memory: bool = False,
    lowest: float = 0.0,
) -> dict[ClientId, float]:
    """Return equation 8, with ``memory`` equation 9, for the participants of one round.

    r = Acc - mean(Acc) - lambda_time (RT - min RT) [- phi]. ``mean_accuracy`` is over the latest
    accuracy of every client seen so far, this round's included; min RT is over this round's
    participants. A model that did not fit counts as Acc = ``lowest``, phi = 1, RT = the round's longest.
    """
    times = [outcome.round_s for outcome in outcomes.values() if outcome.fits]
    shortest, longest = min(times, default=0.0), max(times, default=0.0)
    unfit = Outcome(accuracy=lowest, round_s=longest, memory_share=1.0)
    counted = {client: seen if seen.fits else unfit for client, seen in outcomes.items()}
    return {
        client: seen.accuracy
        - mean_accuracy
        - lambda_time * (seen.round_s - shortest)
        - (seen.memory_share if memory else 0.0)
        for client, seen in counted.items()
    }


class _Mean:
    """A running mean that forgets; after one value it is that value."""

    def __init__(self, total: float = 0.0, weight: float = 0.0) -> None:
        self.total, self.weight = total, weight

    def add(self, value: float, decay: float) -> None:
        """Take ``value`` in; all before it count ``decay`` times what they did."""
        self.total = decay * self.total + (1.0 - decay) * value
        self.weight = decay * self.weight + (1.0 - decay)

    @property
    def value(self) -> float:
        """The mean, 0 before the first value."""
        return self.total / self.weight if self.weight else 0.0

    def copy(self) -> _Mean:
        """Return one that goes its own way."""
        return _Mean(self.total, self.weight)


class RewardHistory(Stateful):
    """Judges rounds, and remembers what the baselines need: latest accuracies and running means.

    With reward r = equation 8 or 9 the advantage is, by ``settings.baseline``:

    - ``clients``: r itself, the paper's rule: the baseline is the mean accuracy of all clients;
    - ``none``: r without subtracting that mean;
    - ``moving``: ``none`` minus the running mean, over rounds, of the participants' mean of it, as before the
      round; of the first round, as after it;
    - ``client``: ``none`` minus the running mean of the client's own past values of it;
    - ``both``: r minus the running mean of the client's own past r: free of how hard a client's
      data is (``clients`` is not) and of accuracy rising for all (behind which ``client`` lags).

    A client's own mean starts from that of all (of the others in its first round, and of rounds before),
    which counts as ``prior_weight`` participations; with no one to compare with, or a weight of 0, its first
    advantage is 0, no step. A model that did not fit is judged, but its reward enters neither means nor
    advantages' size.

    Advantages are divided by their running root mean square, of all clients or, by default, of the client's
    own, which starts from that of all: a client with few validation images has noisy rewards, and one
    measure for all would let its policy take the largest steps.

    Where another score than accuracy is rewarded (`corolla.search.rewards`), ``bounds`` says how low
    and how high it can be.
    """

    def __init__(
        self, *, settings: RewardSettings, bounds: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        self.settings = settings
        self.bounds = bounds
        self._latest: dict[ClientId, float] = {}
        self._own: dict[ClientId, _Mean] = {}
        self._everyone = _Mean()  # of what `_own` is the mean of, per round
        self._square = _Mean()  # of advantages
        self._own_square: dict[ClientId, _Mean] = {}

    @property
    def mean_accuracy(self) -> float:
        """Mean over clients of their latest accuracy, 0 before any was seen."""
        return math.fsum(self._latest.values()) / max(len(self._latest), 1)

    def judge(self, outcomes: Mapping[ClientId, Outcome]) -> dict[ClientId, Judgement]:
        """Return each participant's reward and advantage, and remember the round.

        Raises `RefusedError`, remembering nothing, for an accuracy outside the bounds or a time or memory
        share that is negative or not finite.
        """
        _check(outcomes, self.bounds)
        settings = self.settings
        ordered = sorted(outcomes, key=client_order)
        measured = [client for client in ordered if outcomes[client].fits]
        self._latest |= {client: outcomes[client].accuracy for client in measured}
        mean = self.mean_accuracy
        reward = self._rewards(outcomes, mean)
        values = dict(reward)
        if settings.baseline in ("none", "client", "moving"):
            values = {client: value + mean for client, value in values.items()}
        advantages = dict(values)
        if settings.baseline in ("client", "both"):
            advantages = self._above_own(values, measured)
        elif settings.baseline == "moving":
            advantages = self._above_moving(values, measured)
        if settings.normalise != "none":
            advantages = self._normalised(advantages, measured)
        limit = settings.advantage_limit
        if limit is not None:
            advantages = {c: min(max(a, -limit), limit) for c, a in advantages.items()}
        return {client: Judgement(reward[client], advantages[client]) for client in ordered}

    def judge_misfit(self, client: ClientId, outcomes: Mapping[ClientId, Outcome]) -> Judgement:
        """Return what an architecture that does not fit ``client`` is worth in the round just judged.

        For architectures that are known not to fit and are never sent. ``outcomes`` are those that `judge`
        was given. Nothing is remembered.
        """
        settings, mean = self.settings, self.mean_accuracy
        nobody = ""  # a place in the round for a model that no client ran
        reward = self._rewards({**outcomes, nobody: Outcome(fits=False)}, mean)[nobody]
        relative = settings.baseline in ("clients", "both")
        advantage = reward if relative else reward + mean
        if settings.baseline in ("client", "both"):
            advantage -= self._own.get(client, self._everyone).value
        elif settings.baseline == "moving":
            advantage -= self._everyone.value
        if settings.normalise != "none":
            advantage /= self._size(client)
        limit = settings.advantage_limit
        if limit is not None:
            advantage = min(max(advantage, -limit), limit)
        return Judgement(reward, advantage)

    def _rewards(self, outcomes: Mapping[ClientId, Outcome], mean: float) -> dict[ClientId, float]:
        settings = self.settings
        return rewards(
            outcomes,
            mean,
            lambda_time=settings.lambda_time,
            memory=settings.memory is True,
            lowest=self.bounds[0],
        )

    def _size(self, client: ClientId) -> float:
        """Return the root mean square that the client's advantages are divided by, 1 before there was one."""
        if self.settings.normalise == "all" or not self._square.weight:
            return math.sqrt(self._square.value) if self._square.weight else 1.0
        own = self._own_square.get(client, _Mean())
        total = _POOLED * self._square.value + own.total
        return math.sqrt(total / (_POOLED + own.weight))

    def _above_moving(
        self, values: Mapping[ClientId, float], measured: Sequence[ClientId]
    ) -> dict[ClientId, float]:
        """Return how far each value is above the mean of the rounds before, and remember the measured."""
        before = self._everyone.copy()
        if measured:
            total = math.fsum(values[client] for client in measured)
            self._everyone.add(total / len(measured), self.settings.decay)
        baseline = before if before.weight else self._everyone
        return {client: value - baseline.value for client, value in values.items()}

    def _above_own(
        self, values: Mapping[ClientId, float], measured: Sequence[ClientId]
    ) -> dict[ClientId, float]:
        """Return how far each value is above what its client could expect, and remember the measured."""
        settings, before = self.settings, self._everyone.copy()
        total = math.fsum(values[client] for client in measured)
        if measured:
            self._everyone.add(total / len(measured), settings.decay)
        advantages = {}
        for client, value in values.items():
            prior = before.copy()
            others = len(measured) - (client in measured)
            if others:
                without = total - value if client in measured else total
                prior.add(without / others, settings.decay)
            own = self._own.get(client)
            if own is None:
                weight = settings.prior_weight * (1.0 - settings.decay) if prior.weight else 0.0
                own = _Mean(weight * prior.value, weight)
            if client in measured:
                advantages[client] = value - own.value if own.weight else 0.0
                self._own[client] = own
                own.add(value, settings.decay)
            else:
                advantages[client] = value - own.value
        return advantages

    def _normalised(
        self, advantages: Mapping[ClientId, float], measured: Sequence[ClientId]
    ) -> dict[ClientId, float]:
        """Divide by the running root mean square; the mean is the baseline's business."""
        decay = self.settings.normalise_decay
        squares = {c: advantages[c] ** 2 for c in measured if advantages[c]}
        if squares:
            self._square.add(math.fsum(squares.values()) / len(squares), decay)
        for client, square in squares.items():
            self._own_square.setdefault(client, _Mean()).add(square, decay)
        return {client: advantage / self._size(client) for client, advantage in advantages.items()}

    def state(self) -> State:
        """Return all that is remembered, rows in the order of ``meta["clients"]``."""
        clients = sorted(self._latest, key=client_order)

        def rows(means: Mapping[ClientId, _Mean]) -> NDArray[np.float64]:
            sums = [means.get(client, _Mean()) for client in clients]
            return np.array([[mean.total, mean.weight] for mean in sums]).reshape(-1, 2)

        arrays = {
            "latest": np.array([self._latest[client] for client in clients], dtype=np.float64),
            "own": rows(self._own),
            "own_square": rows(self._own_square),
            "everyone": np.array([self._everyone.total, self._everyone.weight]),
            "square": np.array([self._square.total, self._square.weight]),
        }
        return State(arrays, {"clients": clients})

    def load_state(self, state: State) -> None:
        """Replace all that is remembered."""
        clients, arrays = state.meta["clients"], state.arrays

        def means(name: str) -> dict[ClientId, _Mean]:
            rows = zip(clients, arrays[name].tolist(), strict=True)
            return {client: _Mean(*row) for client, row in rows if row[1]}

        self._latest = dict(zip(clients, arrays["latest"].tolist(), strict=True))
        self._own, self._own_square = means("own"), means("own_square")
        self._everyone = _Mean(*arrays["everyone"].tolist())
        self._square = _Mean(*arrays["square"].tolist())


def _check(outcomes: Mapping[ClientId, Outcome], bounds: tuple[float, float]) -> None:
    faults = []
    positive = (0.0, math.inf)
    ranges = {"accuracy": bounds, "round_s": positive, "memory_share": positive}
    for client, seen in outcomes.items():
        for key, (least, most) in ranges.items():
            value = getattr(seen, key)
            if not (least <= value <= most and math.isfinite(value)):
                remedy = "Drop this reply before it is judged"
                scores = f"accuracies in {bounds[0]:g}..{bounds[1]:g}"
                problem = f"is not a measurement (a finite number, {scores})"
                faults.append(Fault(f"{key} of client {client}", value, problem, remedy))
    refuse(faults)
