"""One policy for all clients, with a part of their own or without: steps by hand, and what they reduce to."""

from __future__ import annotations

import numpy as np
import pytest

from corolla.errors import RefusedError
from corolla.search.policy import ClientPolicies, PolicySettings, Step
from corolla.search.reward import Outcome, RewardHistory, RewardSettings
from corolla.search.shared_policy import SharedPolicies

NAMES = ["stage1.width", "stage3.width"]


def _policies(**settings: object) -> SharedPolicies:
    own = PolicySettings(lr=0.5, shared=True, **settings)  # type: ignore[arg-type]
    return SharedPolicies(sizes=[2, 3], settings=own, names=NAMES)


def _row(policies: ClientPolicies, client: str, dimension: int = 0) -> np.ndarray:
    return np.log(policies.probabilities(client)[dimension])


def _gap(policies: ClientPolicies, client: str, dimension: int = 0) -> float:
    """Return by how much the first logit of a dimension is above its second."""
    row = _row(policies, client, dimension)
    return float(row[0] - row[1])


def test_all_clients_share_the_mean_step() -> None:
    """Advantages 1 for the first choice, 3 for the second: the mean of the steps is (-0.5, 0.5)."""
    policies = _policies()
    steps = [Step("0", (0, 0), 1.0), Step("1", (1, 0), 3.0)]
    policies.learn(steps)
    # g_0 = 1 (1/2, -1/2), g_1 = 3 (-1/2, 1/2); s = 0.5 * (-1/2, 1/2): the logits are 1/2 apart.
    for client in ("0", "1", "never asked"):
        assert _gap(policies, client) == pytest.approx(-0.5)
        assert policies.knows(client)
    assert policies.clients == []  # nobody has logits of its own
    turned = _policies()
    turned.learn(steps[::-1])
    assert np.array_equal(turned.state().arrays["shared"], policies.state().arrays["shared"])


def test_a_residual_is_added_to_what_is_shared() -> None:
    policies = _policies(residual=0.5)
    policies.learn([Step("0", (0, 0), 1.0), Step("1", (1, 0), 3.0)])
    # Client 0: s + 0.5 * 0.5 * (1/2, -1/2), 1/4 more apart; client 1: 3/4 less.
    assert _gap(policies, "0") == pytest.approx(-0.5 + 0.25)
    assert _gap(policies, "1") == pytest.approx(-0.5 - 0.75)
    assert _gap(policies, "never asked") == pytest.approx(-0.5)


def test_a_personal_dimension_is_learned_as_perfedrlnas_does() -> None:
    """FedPNAS: the base is everybody's, the cells are each client's own."""
    policies, alone = (
        _policies(personal=["stage3"]),
        ClientPolicies(sizes=[2, 3], settings=PolicySettings(lr=0.5)),
    )
    shared = _policies()
    for steps in (
        [Step("0", (0, 2), 1.0), Step("1", (1, 0), 3.0)],
        [Step("0", (1, 1), -1.0), Step("2", (0, 0), 0.5)],
    ):
        for each in (policies, alone, shared):
            each.learn(steps)
    for client in ("0", "1", "2", "never asked"):
        np.testing.assert_allclose(_row(policies, client, 0), _row(shared, client, 0))
        np.testing.assert_allclose(_row(policies, client, 1), _row(alone, client, 1))
    with pytest.raises(RefusedError, match="no dimension's name begins with 'stage4'"):
        _policies(personal=["stage4"])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_state_survives(optimizer: str) -> None:
    made = [_policies(residual=0.3, optimizer=optimizer) for _ in range(2)]
    made[0].learn([Step("0", (0, 2), 1.0), Step("1", (1, 0), 3.0)])
    made[1].load_state(made[0].state())
    for each in made:
        each.learn([Step("0", (1, 1), 2.0)])
    for name, array in made[0].state().arrays.items():
        assert array.tobytes() == made[1].state().arrays[name].tobytes()


@pytest.mark.parametrize("own", [{"residual": 1.0}, {"personal": ["a"]}])
def test_parts_of_a_shared_policy_need_one(own: dict[str, object]) -> None:
    with pytest.raises(RefusedError, match=r"it goes with policy\.shared=true"):
        PolicySettings(**own)  # type: ignore[arg-type]


def test_rewards_above_a_moving_average() -> None:
    """FedRLNAS: means 0.4, then 0.6 with decay 0.5; the baseline of a round is what was before it."""
    settings = RewardSettings(baseline="moving", decay=0.5, normalise="none", advantage_limit=None)
    history = RewardHistory(settings=settings)
    first = history.judge({"0": Outcome(accuracy=0.3), "1": Outcome(accuracy=0.5)})
    assert [first[c].advantage for c in "01"] == pytest.approx([-0.1, 0.1])
    second = history.judge({"0": Outcome(accuracy=0.6)})
    assert second["0"].advantage == pytest.approx(0.2)
    # Now (0.5 * 0.5 * 0.4 + 0.5 * 0.6) / 0.75 = 0.4 / 0.75
    third = history.judge({"1": Outcome(accuracy=1.0)})
    assert third["1"].advantage == pytest.approx(1 - 0.4 / 0.75)
    # A model that does not fit counts as accuracy 0.
    assert history.judge_misfit("2", {}).advantage < -0.5
