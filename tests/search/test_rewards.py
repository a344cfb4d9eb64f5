"""Rewards of conf/reward: scores by hand, and what they need."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from corolla.config.build import build
from corolla.config.compose import compose_values
from corolla.errors import RefusedError
from corolla.search.reward import RewardSettings
from corolla.search.rewards import Accuracy, Improvement, Loss, Reward, Seen
from tests.conftest import CONF
from tests.states import differences

NAMES = sorted(path.stem for path in (CONF / "reward").glob("*.yaml"))
PLAIN: dict[str, Any] = {"baseline": "clients", "normalise": "none", "advantage_limit": None}


@cache
def node(name: str, *overrides: str) -> dict[str, Any]:
    found: dict[str, Any] = compose_values(
        ["method=perfednas", f"method/reward={name}", *overrides]
    )["method"]["reward"]
    return found


def reward(name: str, *overrides: str, budgets: bool = False, **changed: Any) -> Reward:
    found: Reward = build({**node(name, *overrides), **changed}, "reward", budgets=budgets)
    return found


def metrics(**changed: float) -> dict[str, float]:
    return {"val_accuracy": 0.6, "received_val_accuracy": 0.5, "val_loss": 1.2, **changed}


@pytest.mark.parametrize("name", NAMES)
def test_scores_lie_within_their_bounds_and_need_what_they_say(name: str) -> None:
    found = reward(name)
    rng = np.random.default_rng(0)
    low, high = found.bounds
    for _ in range(20):
        drawn = metrics(
            val_accuracy=rng.random(),
            received_val_accuracy=rng.random(),
            val_loss=float(rng.exponential(5.0)),
        )
        assert low <= found.score({key: drawn[key] for key in found.needs}) <= high


def test_scores_by_hand() -> None:
    plain = RewardSettings()
    assert Accuracy(settings=plain, budgets=False).score(metrics()) == 0.6
    assert Loss(settings=plain, budgets=False).score(metrics()) == -1.2
    assert Improvement(settings=plain, budgets=False).score(metrics()) == pytest.approx(0.1)
    for diverged in (math.nan, math.inf, 1e9):
        assert Loss(settings=plain, budgets=False).score(metrics(val_loss=diverged)) == -10.0


@pytest.mark.parametrize("name", NAMES)
def test_a_misfit_is_worth_the_lowest_score(name: str) -> None:
    found = reward(name, baseline="none", normalise="none")
    seen = {"0": Seen(metrics=metrics()), "1": Seen(metrics=metrics(val_accuracy=0.7))}
    judged = found.judge(seen)
    misfit = found.judge_misfit("0", seen)
    low = found.bounds[0]
    # Advantages without a baseline are the scores; they are clipped at -3.
    assert misfit.advantage == pytest.approx(max(low, -3.0))
    assert judged["0"].advantage == pytest.approx(found.score(seen["0"].metrics))


def test_budgets_bring_the_memory_term_unless_told_otherwise() -> None:
    seen = {"0": Seen(metrics=metrics(), memory_share=0.25)}
    assert reward("perfedrlnas").judge(seen)["0"].reward == pytest.approx(0.0)
    assert reward("perfedrlnas", budgets=True).judge(seen)["0"].reward == pytest.approx(-0.25)
    assert reward("accuracy", budgets=True).judge(seen)["0"].reward == pytest.approx(0.0)


def test_time_costs_as_much_as_lambda_says() -> None:
    found = Loss(settings=RewardSettings(lambda_time=0.1, **PLAIN), budgets=False)
    seen = {
        "0": Seen(metrics=metrics(val_loss=1.0), round_s=4.0),
        "1": Seen(metrics=metrics(val_loss=2.0), round_s=1.0),
    }
    judged = found.judge(seen)
    # Mean -1.5: 0.5 less 0.1 * 3 seconds, and -0.5.
    assert [judged[c].reward for c in "01"] == pytest.approx([0.2, -0.5])


def test_what_is_forgotten_is_as_new() -> None:
    found = reward("loss")
    new = found.state()
    found.judge({"0": Seen(metrics=metrics())})
    kept = found.state()
    assert differences(kept, new)
    found.forget()
    assert not differences(found.state(), new)
    found.load_state(kept)
    assert not differences(found.state(), kept)


def test_a_comparison_with_what_nobody_scores_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"^evaluation.received=False: the reward compares"):
        reward("improvement", "evaluation.received=false")
    reward("accuracy", received=False)
