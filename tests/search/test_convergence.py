"""Does a policy find the best architecture through noise, and sooner than the public settings?"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.policy import DEFAULT, PAPER, Scene, least_squares, measure, methods
from corolla.search.policy import ClientPolicies, PolicySettings, Step

METHODS = {method.name: method for method in methods()}
SCENE = Scene(clients=20, rounds=300)  # 75 participations each, as in the paper


def test_the_defaults_find_most_of_the_gain_and_the_public_settings_commit_too_early() -> None:
    default, paper = (measure(METHODS[name], SCENE, seed=0) for name in (DEFAULT, PAPER))
    assert paper["entropy"] < 0.2 < default["entropy"]
    assert default["argmax"] > paper["argmax"] + 0.1
    assert default["policy"] > paper["policy"] + 0.1
    # as much as can be known from as many measurements, spent on nothing but measuring
    assert default["argmax"] > 0.8 * least_squares(SCENE, seed=0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_each_client_finds_its_own_architecture(optimizer: str) -> None:
    settings = PolicySettings(optimizer=optimizer, lr=0.3)  # type: ignore[arg-type]
    policies = ClientPolicies(sizes=(2, 3, 2), settings=settings)
    best = {"0": (0, 2, 1), "1": (1, 0, 0)}
    rng = np.random.default_rng(0)
    for _ in range(400):
        for client, target in best.items():
            choices = policies.sample(client, rng)
            hits = sum(a == b for a, b in zip(choices, target, strict=True))
            policies.learn([Step(client, choices, hits - 1.5)])
    assert {client: policies.argmax(client) for client in best} == best
    assert all(policies.entropy(client).normalised < 0.3 for client in best)
