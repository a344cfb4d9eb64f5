"""Policies: equations 4 to 7 against numeric derivatives, and resuming."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from corolla.errors import RefusedError
from corolla.search.policy import ClientPolicies, PolicySettings, Step
from tests.states import differences

SIZES = (3, 1, 2)
LOGITS = np.array([0.3, -1.2, 2.0, 0.7, -0.4, 0.9])


def policies(
    logits: NDArray[np.float64] | None = None, sizes: tuple[int, ...] = SIZES, **changed: Any
) -> ClientPolicies:
    """Return policies in which client "0" has the given logits, reached by loading a state."""
    made = ClientPolicies(sizes=sizes, settings=PolicySettings(**changed))
    if logits is not None:
        made.learn([Step("0", (0,) * len(sizes), 0.0)])
        state = made.state()
        state.arrays["logits"][0] = logits
        made.load_state(state)
    return made


def derivative(function: Any, at: NDArray[np.float64], step: float = 1e-6) -> NDArray[np.float64]:
    """Return the central differences of ``function`` along each axis."""
    sides = [(function(at + d), function(at - d)) for d in np.eye(len(at)) * step]
    return np.array([(up - down) / (2 * step) for up, down in sides])


def test_a_new_policy_is_uniform() -> None:
    new = policies()
    assert [list(p) for p in new.probabilities("7")] == [
        pytest.approx([1 / 3] * 3),
        [1.0],
        [0.5, 0.5],
    ]
    assert new.entropy("7").total == pytest.approx(math.log(6))
    assert new.entropy("7").mean == pytest.approx(math.log(6) / 2)  # two dimensions have a choice
    assert new.entropy("7").normalised == pytest.approx(1.0)
    assert new.log_prob("7", (2, 0, 1)) == pytest.approx(-math.log(6))
    assert new.argmax("7") == (0, 0, 0)


def test_asking_about_clients_keeps_nothing() -> None:
    new = policies()
    for client in range(1000):
        new.sample(str(client), np.random.default_rng(client))
    assert new.clients == []


def test_one_step_by_hand() -> None:
    # p = 1/3 each: onehot - p = (2/3, -1/3, -1/3); lr * advantage = 0.6
    moved = policies(optimizer="sgd", lr=0.3)
    moved.learn([Step("0", (0, 0, 1), 2.0)])
    expected = [0.4, -0.2, -0.2, 0.0, -0.3, 0.3]
    np.testing.assert_allclose(moved.state().arrays["logits"][0], expected, atol=1e-15)
    assert moved.argmax("0") == (0, 0, 1)


def test_each_dimension_uses_its_own_probabilities() -> None:
    # the public DARTS code updates one group of logits with the probabilities of the other
    logits = np.array([2.0, 0.0, 0.0, 2.0])
    p = 1 / (1 + math.exp(-2.0))
    direction = policies(logits, sizes=(2, 2)).direction(Step("0", (0, 0), 1.0))
    np.testing.assert_allclose(direction, [1 - p, p - 1, p, -p])


@given(
    st.lists(st.floats(-4, 4), min_size=6, max_size=6),
    st.tuples(st.integers(0, 2), st.just(0), st.integers(0, 1)),
    st.floats(-2, 2),
)
@settings(max_examples=25)
def test_the_gradient_is_that_of_the_log_probability(
    drawn: list[float], choices: tuple[int, ...], advantage: float
) -> None:
    logits = np.array(drawn)
    numeric = derivative(lambda z: advantage * policies(z).log_prob("0", choices), logits)
    np.testing.assert_allclose(
        policies(logits).direction(Step("0", choices, advantage)), numeric, atol=1e-7
    )


@given(st.lists(st.floats(-4, 4), min_size=6, max_size=6))
@settings(max_examples=25)
def test_the_bonus_is_the_gradient_of_the_entropy(drawn: list[float]) -> None:
    logits = np.array(drawn)
    numeric = derivative(lambda z: policies(z).entropy("0").total, logits)
    bonus = policies(logits, entropy_bonus=0.5).direction(Step("0", (0, 0, 0), 0.0))
    np.testing.assert_allclose(bonus, 0.5 * numeric, atol=1e-7)


def test_a_bonus_alone_leads_back_to_uniform() -> None:
    pulled = policies(LOGITS, optimizer="sgd", lr=1.0, entropy_bonus=1.0)
    for _ in range(200):
        pulled.learn([Step("0", (0, 0, 0), 0.0)])
    assert pulled.entropy("0").normalised == pytest.approx(1.0, abs=1e-6)


def test_samples_follow_the_probabilities_of_each_dimension() -> None:
    drawn = policies(LOGITS)
    rng = np.random.default_rng(0)
    samples = np.array([drawn.sample("0", rng) for _ in range(4000)])
    for dimension, p in enumerate(drawn.probabilities("0")):
        counts = np.bincount(samples[:, dimension], minlength=len(p)) / len(samples)
        np.testing.assert_allclose(counts, p, atol=0.03)  # four standard errors
    # independent: the joint frequency is the product
    both = np.mean((samples[:, 0] == 2) & (samples[:, 2] == 1))
    first, last = drawn.probabilities("0")[0][2], drawn.probabilities("0")[2][1]
    assert both == pytest.approx(first * last, abs=0.03)
    assert all(type(index) is int for index in drawn.sample("0", rng))


def test_the_same_generator_draws_the_same_architecture() -> None:
    drawn = policies(LOGITS)
    seeds = [np.random.default_rng([1, 2, 3]) for _ in range(2)]
    assert drawn.sample("0", seeds[0]) == drawn.sample("0", seeds[1])


def test_extreme_logits_stay_finite_and_draw_what_they_say() -> None:
    sure = policies(np.array([-1e4, 0.0, 1e4, 0.0, 900.0, -900.0]), entropy_bonus=1.0)
    assert sure.sample("0", np.random.default_rng(0)) == (2, 0, 0)
    assert sure.entropy("0").normalised == 0.0
    assert np.isfinite(sure.direction(Step("0", (0, 0, 1), 1.0))).all()
    assert math.isfinite(sure.log_prob("0", (0, 0, 1)))


def test_adam_takes_the_same_first_step_whatever_the_reward() -> None:
    # why lr=0.5 commits at once: 1/3 becomes e / (e + 2) = 0.576 for an advantage of 0.0001 too
    for advantage in (1e-4, 1.0):
        moved = policies(optimizer="adam", lr=0.5)
        moved.learn([Step("0", (0, 0, 0), advantage)])
        probability = moved.probabilities("0")[0][0]
        assert probability == pytest.approx(math.e / (math.e + 2), abs=1e-3)


def test_two_adam_steps_by_hand() -> None:
    # one dimension of two, both steps for choice 0 with advantage 1, betas 0.5 and 0.75, eps -> 0
    moved = policies(sizes=(2,), optimizer="adam", lr=0.1, betas=(0.5, 0.75), eps=1e-300)
    moved.learn([Step("0", (0,), 1.0)])
    g1, g2 = 0.5, 1 - 1 / (1 + math.exp(-0.2))  # logits are +-0.1 after the first step
    moved.learn([Step("0", (0,), 1.0)])
    first = (0.25 * g1 + 0.5 * g2) / (1 - 0.25)
    second = (0.25 * 0.75 * g1**2 + 0.25 * g2**2) / (1 - 0.75**2)
    expected = 0.1 + 0.1 * first / math.sqrt(second)
    np.testing.assert_allclose(moved.state().arrays["logits"][0], [expected, -expected])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_clients_do_not_touch_each_other(optimizer: str) -> None:
    together, alone = policies(optimizer=optimizer), policies(optimizer=optimizer)
    for step in range(5):
        together.learn([Step("10", (step % 3, 0, 0), 0.5)])
        together.learn([Step("9", (2, 0, step % 2), -0.3)])
        alone.learn([Step("9", (2, 0, step % 2), -0.3)])
    assert together.clients == ["9", "10"]
    np.testing.assert_array_equal(
        together.state().arrays["logits"][0], alone.state().arrays["logits"][0]
    )


def test_logits_stay_within_their_limit() -> None:
    held = policies(optimizer="sgd", lr=10.0, logit_limit=1.5)
    held.learn([Step("0", (0, 0, 0), 1.0)])
    np.testing.assert_allclose(held.state().arrays["logits"][0], [1.5, -1.5, -1.5, 0, 1.5, -1.5])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_resumed_policies_go_on_as_if_never_stopped(optimizer: str) -> None:
    rng = np.random.default_rng(0)
    steps = [(str(c), policies().sample("", rng), float(rng.normal())) for c in (3, 1, 3, 1, 20, 3)]
    whole, resumed = policies(optimizer=optimizer), policies(optimizer=optimizer)
    for number, step in enumerate(steps):
        if number == 3:
            stored = resumed.state()
            resumed = policies(optimizer=optimizer)
            resumed.load_state(stored)
        whole.learn([Step(*step)])
        resumed.learn([Step(*step)])
    assert not differences(resumed.state(), whole.state())
    assert whole.state().meta["clients"] == ["1", "3", "20"]


def test_a_state_is_a_copy_both_ways() -> None:
    made = policies(LOGITS)
    state = made.state()
    before = made.state()
    made.learn([Step("0", (0, 0, 0), 1.0)])
    assert not differences(state, before)
    made.load_state(state)
    made.learn([Step("0", (0, 0, 0), 1.0)])
    assert not differences(state, before)


def test_a_state_without_clients_can_be_stored() -> None:
    empty = policies()
    assert empty.state().arrays["logits"].shape == (0, 6)
    empty.load_state(empty.state())
    assert empty.clients == []


def test_refuses_the_state_of_another_space() -> None:
    with pytest.raises(RefusedError, match="policy of another search space"):
        policies(sizes=(3, 2, 1)).load_state(policies(LOGITS).state())


@pytest.mark.parametrize("choices", [(3, 0, 0), (0, -1, 0), (0, 0), (0, 0, 0, 0)])
def test_refuses_choices_of_another_space(choices: tuple[int, ...]) -> None:
    with pytest.raises(RefusedError, match=r"one index per dimension, below \[3, 1, 2\]"):
        policies().log_prob("0", choices)


def test_refuses_an_advantage_that_is_not_a_number_and_keeps_nothing() -> None:
    made = policies()
    with pytest.raises(RefusedError, match="cannot train a policy"):
        made.learn([Step("0", (0, 0, 0), math.nan)])
    assert made.clients == []


def test_refuses_a_space_without_choices() -> None:
    for sizes in ((), (2, 0)):
        with pytest.raises(RefusedError, match="at least one choice"):
            policies(sizes=sizes)
