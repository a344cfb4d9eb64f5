"""One categorical policy per client over the dimensions of a search space, trained by REINFORCE.

PerFedRLNAS: Yao & Li, AAAI 2024, equations 4-7. Departures: optimiser, step and an entropy bonus
are settings (the public code's Adam at 0.5 moves the first logits by +-0.5 whatever the reward was;
see ``benchmarks/policy.py``), and policies with their optimiser state are part of a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corolla.errors import Fault, RefusedError, refuse
from corolla.settings import Betas, NonNegative, Positive, Share, settings
from corolla.state import State, Stateful
from corolla.types import ClientId, client_order

Vector = NDArray[np.float64]


@settings
class PolicySettings:
    """How a policy moves."""

    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Positive = 0.4  # step on the logits (alpha in the paper); meant for normalised advantages
    betas: Betas = (0.5, 0.999)  # Adam only
    eps: Positive = 1e-8  # Adam only
    entropy_bonus: NonNegative = 0.0  # nats are worth this much advantage; keeps a policy exploring
    logit_limit: Positive | None = None  # logits stay within +-limit, so no choice ever dies out
    misfits: Literal["step", "published"] = "step"  # what is learned from draws that do not fit
    misfit_step: Share = 0.2  # share of a misfit's advantage that moves towards what fits
    # one policy for all clients (`corolla.search.shared_policy`), and what of it is a client's own
    shared: bool = False
    residual: NonNegative = 0.0  # a client's own step on its logits, over lr; 0: there is none
    personal: list[str] = field(
        default_factory=list
    )  # beginnings of dimensions' names that are the client's alone

    def __post_init__(self) -> None:
        own = {"residual": self.residual, "personal": self.personal}
        problem = "has no effect: it goes with policy.shared=true"
        remedy = "Set method.policy.shared=true, or leave it out"
        faults = [
            Fault(key, value, problem, remedy)
            for key, value in own.items()
            if value and not self.shared
        ]
        refuse(faults)


_LEAST = 1e-12  # a probability; what nobody chose stays possible


class Step(NamedTuple):
    """What a policy learns from one architecture."""

    client: ClientId
    choices: Sequence[int]
    advantage: float


class Entropy(NamedTuple):
    """How undecided a policy is, over the dimensions that have a choice."""

    total: float  # nats, summed over dimensions
    mean: float  # nats per dimension
    normalised: float  # share of the uniform policy's: 1 at the start, 0 once decided


@dataclass
class _Policy:
    logits: Vector
    first: Vector  # Adam's moments
    second: Vector
    steps: int = 0


@dataclass(kw_only=True)
class ClientPolicies(Stateful):
    """The policies of all clients; one exists from the moment its client is updated.

    ``sizes`` are the numbers of choices, dimension by dimension. Every policy starts uniform
    (logits 0) unless `begin_new` says otherwise. Choices are tuples of indices, one per dimension.
    """

    sizes: Sequence[int]
    settings: PolicySettings
    _policies: dict[ClientId, _Policy] = field(default_factory=dict, init=False, repr=False)
    _start: Vector = field(init=False, repr=False)
    _mean: Vector | None = field(
        default=None, init=False, repr=False
    )  # `pooled`, as long as it holds

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            remedy = "Every dimension needs at least one choice"
            raise RefusedError(Fault("sizes", list(self.sizes), "is not a search space", remedy))
        self._sizes = np.array(self.sizes)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)[:-1]])
        self._start = np.zeros(self._sizes.sum())
        self._owner = np.repeat(np.arange(len(self._sizes)), self._sizes)  # logit -> dimension

    @property
    def clients(self) -> list[ClientId]:
        """Clients whose policy was ever updated, in their fixed order."""
        return sorted(self._policies, key=client_order)

    def begin_new(self, *, average: bool) -> None:
        """Forget all policies; new ones start uniform, or from the mean of the forgotten ones.

        The mean is that of the probabilities: an old client that has decided outweighs no other.
        """
        start = np.zeros(len(self._owner))
        if average and self._policies:
            start = np.log(np.maximum(self._pooled(), _LEAST))
            start -= (np.add.reduceat(start, self._starts) / self._sizes)[self._owner]
            if self.settings.logit_limit is not None:
                start = np.clip(start, -self.settings.logit_limit, self.settings.logit_limit)
        self._start, self._mean = start, None
        self._policies = {}

    def probabilities(self, client: ClientId) -> list[Vector]:
        """Return equation 4: one vector per dimension, each summing to 1."""
        return np.split(np.exp(self._log_probabilities(client)), self._starts[1:])

    def pooled(self) -> list[Vector]:
        """Return the mean of all policies' probabilities; those of the start where there is none."""
        return np.split(self._pooled(), self._starts[1:])

    def _pooled(self) -> Vector:
        if self._mean is None:
            clients = self.clients or [""]  # one whom nobody knows has the start's
            mean: Vector = np.mean(np.exp([self._log_probabilities(c) for c in clients]), axis=0)
            self._mean = mean
        return self._mean

    def knows(self, client: ClientId) -> bool:
        """Tell whether the client's policy ever took a step that moved it."""
        policy = self._policies.get(client)
        return policy is not None and not np.array_equal(policy.logits, self._start)

    def sample(self, client: ClientId, rng: np.random.Generator) -> tuple[int, ...]:
        """Draw each dimension from its own probabilities; takes one number per dimension."""
        draws = rng.random(len(self._sizes))
        reached = np.cumsum(np.exp(self._log_probabilities(client)))
        before = np.concatenate([[0.0], reached[self._starts[1:] - 1]])
        passed = reached - before[self._owner] <= draws[self._owner]
        # rounding can leave a dimension's last sum below a draw next to 1
        indices = np.minimum(
            np.add.reduceat(passed.astype(np.int64), self._starts), self._sizes - 1
        )
        return tuple(indices.tolist())

    def argmax(self, client: ClientId) -> tuple[int, ...]:
        """Return the most probable choices; of equals the lower index."""
        logits = self._logits(client)
        return tuple(int(np.argmax(part)) for part in np.split(logits, self._starts[1:]))

    def log_prob(self, client: ClientId, choices: Sequence[int]) -> float:
        """Return the log-probability (nats) with which ``client`` would draw ``choices``."""
        return float(self._log_probabilities(client)[self._positions(choices)].sum())

    def entropy(self, client: ClientId) -> Entropy:
        """Return the entropy of the client's policy."""
        log_p = self._log_probabilities(client)
        total = float(-(np.exp(log_p) * log_p).sum())
        most = float(np.log(self._sizes).sum())
        undecided = int((self._sizes > 1).sum())
        return Entropy(total, total / max(undecided, 1), total / most if most else 0.0)

    def direction(self, step: Step) -> Vector:
        """Return the ascent direction, ``(sum(sizes),)``; RefusedError for an advantage that is no number.

        advantage * (onehot - p) of equations 5-7, plus entropy_bonus * dH/dlogits, which is
        -p (log p + H) with each dimension's own p and H.
        """
        if not math.isfinite(step.advantage):
            remedy = "Drop replies whose accuracy is not a number"
            raise RefusedError(Fault("advantage", step.advantage, "cannot train a policy", remedy))
        log_p = self._log_probabilities(step.client)
        p = np.exp(log_p)
        direction = -step.advantage * p
        direction[self._positions(step.choices)] += step.advantage
        if self.settings.entropy_bonus:
            entropy = np.add.reduceat(-p * log_p, self._starts)
            direction -= self.settings.entropy_bonus * p * (log_p + entropy[self._owner])
        return direction

    def learn(self, steps: Iterable[Step]) -> None:
        """Take a round's steps, several of a client's in their order; that of the clients does not matter.

        Each moves its client's logits towards its choices (away, if its advantage is below 0).
        """
        for step in steps:
            direction = self.direction(step)
            self._mean = None
            self._move(self._own(step.client), direction)

    def _own(self, client: ClientId) -> _Policy:
        if client not in self._policies:
            moments = np.zeros((2, self._sizes.sum()))
            self._policies[client] = _Policy(self._start.copy(), *moments)
        return self._policies[client]

    def _move(self, policy: _Policy, direction: Vector, *, scale: float | Vector = 1.0) -> None:
        """Make one step of the optimiser, ``scale`` times as long."""
        settings = self.settings
        policy.steps += 1
        if settings.optimizer == "adam":
            b1, b2 = settings.betas
            policy.first += (1 - b1) * (direction - policy.first)
            policy.second += (1 - b2) * (direction**2 - policy.second)
            size = np.sqrt(policy.second / (1 - b2**policy.steps)) + settings.eps
            direction = policy.first / (1 - b1**policy.steps) / size
        policy.logits += settings.lr * direction * scale
        if settings.logit_limit is not None:
            np.clip(policy.logits, -settings.logit_limit, settings.logit_limit, out=policy.logits)

    def state(self) -> State:
        """Return all policies and optimiser state, rows in the order of ``meta["clients"]``."""
        clients = self.clients
        policies = [self._policies[client] for client in clients]
        shape = (len(clients), int(self._sizes.sum()))
        arrays = {
            "logits": np.array([policy.logits for policy in policies]).reshape(shape),
            "first": np.array([policy.first for policy in policies]).reshape(shape),
            "second": np.array([policy.second for policy in policies]).reshape(shape),
            "start": self._start.copy(),
            "steps": np.array([policy.steps for policy in policies], dtype=np.int64),
        }
        return State(arrays, {"clients": clients, "sizes": [int(size) for size in self._sizes]})

    def load_state(self, state: State) -> None:
        """Replace all policies; refuses the state of a space with other dimensions."""
        sizes = [int(size) for size in self._sizes]
        if state.meta["sizes"] != sizes:
            remedy = f"This space has {sizes}: resume with the space the checkpoint was made with"
            problem = "is the policy of another search space"
            raise RefusedError(Fault("sizes", state.meta["sizes"], problem, remedy))
        rows = zip(*(state.arrays[key] for key in ("logits", "first", "second")), strict=True)
        self._mean = None
        start = state.arrays.get("start")  # absent: written before policies could start elsewhere
        self._start = np.zeros(len(self._owner)) if start is None else start.copy()
        self._policies = {
            client: _Policy(logits.copy(), first.copy(), second.copy(), int(steps))
            for client, (logits, first, second), steps in zip(
                state.meta["clients"], rows, state.arrays["steps"], strict=True
            )
        }

    def _logits(self, client: ClientId) -> Vector:
        policy = self._policies.get(client)
        return self._start if policy is None else policy.logits

    def _log_probabilities(self, client: ClientId) -> Vector:
        logits = self._logits(client)
        shifted = logits - np.maximum.reduceat(logits, self._starts)[self._owner]
        return shifted - np.log(np.add.reduceat(np.exp(shifted), self._starts))[self._owner]

    def _positions(self, choices: Sequence[int]) -> NDArray[np.int64]:
        """Return where the chosen entries stand in the flat vector."""
        indices = np.asarray(choices)
        if indices.shape != self._sizes.shape or not np.all(
            (indices >= 0) & (indices < self._sizes)
        ):
            remedy = f"Give one index per dimension, below {[int(size) for size in self._sizes]}"
            raise RefusedError(Fault("choices", list(choices), "is not of this space", remedy))
        positions: NDArray[np.int64] = self._starts + indices
        return positions
