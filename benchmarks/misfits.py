"""How should a policy learn from draws that do not fit its client?

The toy of `benchmarks.policy`, with 40 clients of 75 participations, under caps: a choice costs the more the
larger it is, dimensions cost differently, larger choices are a little better, and a tenth or a hundredth of
all architectures fit. Whoever finds no fitting draw in 20 is sent the smallest. Rules: a step away from each
misfit (published), one bounded step towards what fits (`corolla.search.proposals.policy_gradient`), and the
gradient under the condition that a draw fits, whose expectation is estimated from up to 16 fitting draws of
at most 200.

Reported: what is deployed, as a share of the gain from the mean of all fitting architectures to the best
found; the entropy (1 = uniform) after the first participation of all and at the end; the share of draws that
fit at the end; draws per participation.

    python -m benchmarks.misfits [--quick]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.policy import SIZES, STARTS, Scene
from benchmarks.recording import write_result
from corolla.search.policy import Step
from corolla.search.proposals.policy_gradient import PolicyGradient
from corolla.search.proposals.protocol import Observation, SearchContext
from corolla.search.reward import Outcome, RewardHistory, RewardSettings
from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.space import SearchSpace

SPACE = SearchSpace(
    name="toy", dimensions=tuple(Dimension(f"d{n}", tuple(range(s))) for n, s in enumerate(SIZES))
)
MAX_DRAWS = 20
FITTING, TRIED = 16, 200  # draws of the conditional rule
Vector = NDArray[np.float64]
Fits = Callable[[Architecture], bool]


class Conditional(PolicyGradient):
    """onehot - E[onehot | fits] in place of onehot - p; from the smallest, which nobody drew, nothing."""

    def learn(self, seen: Observation, fits: Fits, rng: np.random.Generator) -> None:
        """Take one step."""
        if len(seen.misfits) == MAX_DRAWS:
            return
        found: list[Vector] = []
        for _ in range(TRIED):
            drawn = Architecture(self.policies.sample(seen.client, rng))
            if fits(drawn):
                found.append(SPACE.one_hot(drawn))
            if len(found) == FITTING:
                break
        if not found:
            return
        wanted = SPACE.one_hot(seen.architecture) - np.mean(found, axis=0)
        gradient = self.policies.gradient
        self.policies.gradient = lambda *_: seen.advantage * wanted  # type: ignore[method-assign]
        self.policies.learn([Step(seen.client, seen.architecture.choices, seen.advantage)])
        self.policies.gradient = gradient  # type: ignore[method-assign]


class World:
    """Effects, costs and cap of one seed; ``share`` of all architectures fit."""

    def __init__(self, scene: Scene, share: float, seed: int) -> None:
        self.effects = scene.effects(np.random.default_rng([seed, 0]))
        rng = np.random.default_rng([seed, 3])
        weights = rng.exponential(size=len(SIZES))
        ranks = [np.arange(size) / max(size - 1, 1) for size in SIZES]
        self.cost = np.concatenate([w * rank for w, rank in zip(weights, ranks, strict=True)])
        varied = sum(size > 1 for size in SIZES)
        for start, size, weight, rank in zip(STARTS, SIZES, weights, ranks, strict=True):
            if size > 1:
                better = 0.6 * scene.gain / varied * weight * (rank - 0.5)
                self.effects[:, start : start + size] += better
        drawn = STARTS + rng.integers(0, SIZES, size=(100_000, len(SIZES)))
        costs = self.cost[drawn].sum(axis=1)
        self.cap = float(np.quantile(costs, share))
        fitting = drawn[costs <= self.cap]
        self.mean = [float(kind[fitting].sum(axis=1).mean()) for kind in self.effects]
        self.best = [self._best(kind) for kind in self.effects]

    def fits(self, architecture: Architecture) -> bool:
        """Tell whether it is within the cap."""
        return bool(self.cost[STARTS + architecture.choices].sum() <= self.cap)

    def worth(self, kind: int, architecture: Architecture) -> float:
        """Return what the architecture brings to a client of this kind."""
        return float(self.effects[kind, STARTS + architecture.choices].sum())

    def _best(self, of_kind: Vector) -> float:
        """Return the best that a price on cost finds: the upper envelope, which is all but the best."""
        found = [float(of_kind[STARTS].sum())]  # the smallest fits
        for price in np.geomspace(1e-3, 1e3, 3000) * np.abs(of_kind).max() / self.cost.max():
            value = of_kind - price * self.cost
            parts = np.split(value, STARTS[1:])
            choices = Architecture(tuple(int(part.argmax()) for part in parts))
            if self.fits(choices):
                found.append(float(of_kind[STARTS + choices.choices].sum()))
        return max(found)


def measure(rule: str, step: float, share: float, scene: Scene, seed: int) -> dict[str, float]:
    """Run one federation under a cap."""
    world = World(scene, share, seed)
    rng = np.random.default_rng([seed, 1])
    difficulty = rng.normal(0, scene.difficulty, scene.clients)
    kind = Conditional if rule == "conditional" else PolicyGradient
    settings = {"misfits": "step" if rule == "conditional" else rule, "misfit_step": step}
    context = SearchContext(space=SPACE, seed=seed, max_draws=MAX_DRAWS)
    search: Any = kind(context=context, policy=settings)
    history = RewardHistory(settings=RewardSettings())
    draws, first = [], {}
    for server_round in range(scene.rounds):
        drawn, outcomes = {}, {}
        for number in np.sort(rng.choice(scene.clients, scene.per_round, replace=False)):
            client = str(number)
            drawn[client] = search.draws(client, rng, fits=world.fits)
            draws.append(len(drawn[client]))
            accuracy = scene.level(server_round) + difficulty[number] + rng.normal(0, scene.noise)
            accuracy += world.worth(number % scene.kinds, drawn[client][-1])
            outcomes[client] = Outcome(accuracy=float(np.clip(accuracy, 0, 1)))
        judged = history.judge(outcomes)
        for client, (*misfits, sent) in drawn.items():
            seen = Observation(
                client=client,
                architecture=sent,
                reward=judged[client].reward,
                advantage=judged[client].advantage,
                misfits=misfits,
                misfit_advantage=history.judge_misfit(client, outcomes).advantage,
            )
            if rule == "conditional":
                search.learn(seen, world.fits, rng)
            else:
                search.observe([seen])
            first.setdefault(client, search.policies.entropy(client).normalised)
    shares, entropy, fitting = [], [], []
    for number in range(scene.clients):
        client, of = str(number), number % scene.kinds
        worth = world.worth(of, search.chosen(client, fits=world.fits))
        shares.append((worth - world.mean[of]) / (world.best[of] - world.mean[of]))
        entropy.append(search.policies.entropy(client).normalised)
        samples = (Architecture(search.policies.sample(client, rng)) for _ in range(30))
        fitting.append(statistics.fmean(world.fits(sample) for sample in samples))
    return {
        "deployed": statistics.fmean(shares),
        "first entropy": statistics.fmean(first.values()),
        "entropy": statistics.fmean(entropy),
        "fitting": statistics.fmean(fitting),
        "draws": statistics.fmean(draws),
    }


RULES = [
    ("published", 0.0),
    ("conditional", 0.0),
    *(("step", step) for step in (0.0, 0.1, 0.2, 1.0)),
]


def main() -> None:
    """Measure, print the tables, and write the results file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, 16 rounds, no file")
    quick = parser.parse_args().quick
    raw: dict[str, dict[str, dict[str, float]]] = {}
    for share in (0.1, 0.01):
        for rounds in (16,) if quick else (600,):
            label = f"{share:.0%} fit, {rounds} rounds"
            print(f"\n{label}")
            print(f"{'misfits':<16}" + "".join(f"{key:>15}" for key in KEYS))
            raw[label] = {}
            for rule, step in RULES:
                name = f"{rule} {step:g}" if rule == "step" else rule
                scene = Scene(clients=40, rounds=rounds)
                runs = [measure(rule, step, share, scene, s) for s in range(1 if quick else 2)]
                found = {key: statistics.fmean(run[key] for run in runs) for key in KEYS}
                raw[label][name] = found
                print(f"{name:<16}" + "".join(f"{found[key]:15.2f}" for key in KEYS), flush=True)
    if not quick:
        figures = {
            f"{label}, {rule}, deployed": raw[label][rule]["deployed"]
            for label in raw
            for rule in ("published", "conditional", "step 0.2")
        }
        write_result("misfits", figures, raw)


KEYS = ("deployed", "first entropy", "entropy", "fitting", "draws")

if __name__ == "__main__":
    main()
