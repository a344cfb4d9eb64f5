"""Which policy optimiser, baseline and entropy bonus finds the best architecture in a federation?

A toy with a known answer, run through the project's own policies and rewards: 100 clients of 4
kinds, 19 dimensions of 2 or 3 choices (and 4 of one) as in the MobileNetV3 space, 5 clients a round
for 1,500 rounds, 75 participations each. The accuracy of an architecture is the sum of what its
choices bring, which is half common to all kinds; clients differ in difficulty (sd 0.10), accuracy
rises over the rounds by 0.30, and a validation split of about 50 images adds noise (sd 0.04). The
best architecture gains 0.10 over the mean of all. Weights, and thus that a supernet learns what is
sampled, are not part of it.

Reported are shares of that possible gain: of the deployed argmax, of an architecture drawn from the
final policy, and of those drawn during the run; and the final entropy (1 = uniform).

    python -m benchmarks.policy [--quick]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corolla.records.atomic import write_bytes
from corolla.search.policy import ClientPolicies, PolicySettings, Step
from corolla.search.reward import Outcome, RewardHistory, RewardSettings

RESULTS = Path(__file__).parent / "results" / "policy.json"
# single choices (resolution, stem, last, mb1's expansion), widths, depths, kernels, expansions
SIZES = (1,) * 4 + (2,) * 5 + (2, 2, 3, 3, 3) + (2,) * 5 + (3,) * 4
STARTS = np.concatenate([[0], np.cumsum(SIZES)[:-1]])


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The world that policies are tried in; accuracies as fractions."""

    clients: int = 100
    kinds: int = 4
    per_round: int = 5
    rounds: int = 1500
    gain: float = 0.10  # best architecture over the mean of all
    noise: float = 0.04  # sd of a measured accuracy
    difficulty: float = 0.10  # sd between clients
    rise: float = 0.30  # of accuracy over the run
    noise_spread: float = (
        0.0  # sd between clients of the noise's logarithm: validation splits differ
    )

    def effects(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return what each choice brings to each kind, ``(kinds, logits)``; means are 0."""
        importance = rng.exponential(size=len(SIZES))
        common = rng.standard_normal(sum(SIZES))
        own = rng.standard_normal((self.kinds, sum(SIZES)))
        effects = np.sqrt(0.5) * (common + own)
        for start, size, weight in zip(STARTS, SIZES, importance, strict=True):
            part = effects[:, start : start + size]
            part[:] = weight * (part - part.mean(axis=1, keepdims=True))
        best = np.maximum.reduceat(effects, STARTS, axis=1).sum(axis=1, keepdims=True)
        return np.asarray(effects * self.gain / best)

    def level(self, server_round: int) -> float:
        """Return the accuracy of an average architecture on an average client."""
        return 0.6 - self.rise * float(np.exp(-5 * server_round / self.rounds))


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    name: str
    policy: Mapping[str, Any]
    reward: Mapping[str, Any]


def measure(method: Method, scene: Scene, seed: int) -> dict[str, float]:
    """Run one federation and return the shares of the possible gain and the final entropy."""
    effects = scene.effects(np.random.default_rng([seed, 0]))
    rng = np.random.default_rng([seed, 1])
    difficulty = rng.normal(0, scene.difficulty, scene.clients)
    spread = np.random.default_rng([seed, 4]).normal(0, scene.noise_spread, scene.clients)
    noise = scene.noise * np.exp(spread)
    policies = ClientPolicies(sizes=SIZES, settings=PolicySettings(**method.policy))
    history = RewardHistory(settings=RewardSettings(**method.reward))
    online = []
    for server_round in range(scene.rounds):
        outcomes, drawn = {}, {}
        for client in np.sort(rng.choice(scene.clients, scene.per_round, replace=False)):
            choices = drawn[str(client)] = policies.sample(str(client), rng)
            quality = float(effects[client % scene.kinds, STARTS + choices].sum())
            online.append(quality)
            accuracy = scene.level(server_round) + difficulty[client] + quality
            accuracy += rng.normal(0, noise[client])
            outcomes[str(client)] = Outcome(accuracy=float(np.clip(accuracy, 0, 1)))
        for name, judged in history.judge(outcomes).items():
            policies.learn([Step(name, drawn[name], judged.advantage)])
    argmax, expected, entropy = [], [], []
    for client in range(scene.clients):
        of_kind = effects[client % scene.kinds]
        argmax.append(float(of_kind[STARTS + policies.argmax(str(client))].sum()))
        expected.append(float(of_kind @ np.concatenate(policies.probabilities(str(client)))))
        entropy.append(policies.entropy(str(client)).normalised)
    return {
        "argmax": statistics.fmean(argmax) / scene.gain,
        "policy": statistics.fmean(expected) / scene.gain,
        "online": statistics.fmean(online) / scene.gain,
        "entropy": statistics.fmean(entropy),
    }


def least_squares(scene: Scene, seed: int) -> float:
    """Return the argmax share of a fit per client to as many uniform draws: a mark to compare with.

    It is told level and difficulty, so only noise and the number of draws stand in its way.
    """
    effects = scene.effects(np.random.default_rng([seed, 0]))
    rng = np.random.default_rng([seed, 2])
    draws = scene.rounds * scene.per_round // scene.clients
    shares = []
    for client in range(scene.clients):
        of_kind = effects[client % scene.kinds]
        choices = STARTS + rng.integers(0, SIZES, size=(draws, len(SIZES)))
        design = np.zeros((draws, sum(SIZES)))
        np.put_along_axis(design, choices, 1.0, axis=1)
        seen = of_kind[choices].sum(axis=1) + rng.normal(0, scene.noise, draws)
        fitted = np.linalg.lstsq(design, seen, rcond=None)[0]
        best = [
            start + fitted[start : start + size].argmax()
            for start, size in zip(STARTS, SIZES, strict=True)
        ]
        shares.append(float(of_kind[best].sum()) / scene.gain)
    return statistics.fmean(shares)


PAPER = "adam 0.5, clients"
DEFAULT = "default settings"
BY_ALL = "default, one size of advantages for all"
NO_PRIOR = "default, first advantages are 0"


def methods() -> list[Method]:
    """Return the rows of the table."""
    plain = {"normalise": "none", "advantage_limit": None}
    scaled = {"normalise": "all", "advantage_limit": 3.0}
    adam, sgd = {"optimizer": "adam"}, {"optimizer": "sgd"}
    rows = []
    for baseline in ("clients", "client", "both", "none"):
        own = {"baseline": baseline}
        rows += [
            Method(f"adam 0.5, {baseline}", adam | {"lr": 0.5}, plain | own),
            Method(f"adam 0.2, {baseline}", adam | {"lr": 0.2}, plain | own),
            Method(f"sgd 10, {baseline}", sgd | {"lr": 10.0}, plain | own),
            Method(f"sgd 0.4, {baseline}, normalised", sgd | {"lr": 0.4}, scaled | own),
        ]
    both = {"baseline": "both"}
    for lr in (0.1, 0.05):
        rows.append(Method(f"adam {lr:g}, both", adam | {"lr": lr}, plain | both))
    for lr in (1.0, 3.0):
        rows.append(Method(f"sgd {lr:g}, both", sgd | {"lr": lr}, plain | both))
    for lr in (0.1, 0.2, 0.8):
        rows.append(Method(f"sgd {lr:g}, both, normalised", sgd | {"lr": lr}, scaled | both))
    for bonus in (0.02, 0.05, 0.2):
        policy = sgd | {"lr": 0.4, "entropy_bonus": bonus}
        rows.append(Method(f"sgd 0.4, both, normalised, bonus {bonus:g}", policy, scaled | both))
    rows += [
        Method(BY_ALL, {}, {"normalise": "all"}),
        Method(NO_PRIOR, {}, {"prior_weight": 0.0}),
    ]
    return [*rows, Method(DEFAULT, {}, {})]


SCENES = {
    "as described": Scene(),
    "no noise": Scene(noise=0.0),
    "half the gain": Scene(gain=0.05),
    "10 clients, 40 rounds": Scene(clients=10, rounds=40),
    "noise differs": Scene(noise_spread=0.8),
    "noise differs, 10 participations": Scene(noise_spread=0.8, rounds=200),
    "clients alike, 3 participations": Scene(difficulty=0.03, rounds=60),
}


def averaged(method: Method, scene: Scene, seeds: int) -> dict[str, float]:
    """Return the means over seeds; each seed is another set of effects."""
    runs = [measure(method, scene, seed) for seed in range(seeds)]
    return {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}


def main() -> None:
    """Measure, print the tables, and write the results file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, 150 rounds, no file")
    quick = parser.parse_args().quick
    started = time.perf_counter()
    seeds = 1 if quick else 3
    raw: dict[str, Any] = {"scenes": {name: asdict(scene) for name, scene in SCENES.items()}}
    results: dict[str, dict[str, dict[str, float]]] = {}
    for label, described in SCENES.items():
        scene = Scene(**asdict(described) | {"rounds": 150}) if quick else described
        first = label == next(iter(SCENES))
        rows = (
            methods()
            if first
            else [m for m in methods() if m.name in (PAPER, BY_ALL, NO_PRIOR, DEFAULT)]
        )
        mark = statistics.fmean(least_squares(scene, seed) for seed in range(seeds))
        print(f"\n{label} (least squares on as many uniform draws: argmax {mark:.0%})")
        print(f"{'policy':<40}{'argmax':>8}{'policy':>8}{'online':>8}{'entropy':>9}")
        results[label] = {"least squares": {"argmax": mark}}
        for method in rows:
            shares = results[label][method.name] = averaged(method, scene, seeds)
            cells = "".join(f"{shares[key]:8.0%}" for key in ("argmax", "policy", "online"))
            print(f"{method.name:<40}{cells}{shares['entropy']:9.2f}", flush=True)
    usual = results["as described"]
    figures = {
        f"{which}_{key}": usual[row][key]
        for which, row in (("paper", PAPER), ("default", DEFAULT))
        for key in ("argmax", "policy", "online", "entropy")
    }
    environment = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "seeds": seeds,
        "wall_s": round(time.perf_counter() - started, 1),
    }
    defaults = {"policy": asdict(PolicySettings()), "reward": asdict(RewardSettings())}
    raw |= {"results": results, "default settings": defaults}
    if not quick:
        document = {"figures": figures, "environment": environment, "raw": raw}
        RESULTS.parent.mkdir(exist_ok=True)
        write_bytes(RESULTS, (json.dumps(document, indent=1) + "\n").encode())
    print(f"\n{environment['wall_s']} s")


if __name__ == "__main__":
    main()
