"""Rewards and baselines, by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from corolla.errors import RefusedError
from corolla.search.reward import Outcome, RewardHistory, RewardSettings, rewards
from tests.states import differences


def history(**changed: Any) -> RewardHistory:
    plain: dict[str, Any] = {"baseline": "clients", "normalise": "none", "advantage_limit": None}
    return RewardHistory(settings=RewardSettings(**plain | changed))


def accuracies(**clients: float) -> dict[str, Outcome]:
    return {client.lstrip("c"): Outcome(accuracy=value) for client, value in clients.items()}


def advantages(judge: RewardHistory, **clients: float) -> dict[str, float]:
    return {client: j.advantage for client, j in judge.judge(accuracies(**clients)).items()}


def test_equation_8_by_hand() -> None:
    outcomes = {"0": Outcome(accuracy=0.8, round_s=3.0), "1": Outcome(accuracy=0.5, round_s=2.0)}
    found = rewards(outcomes, 0.6, lambda_time=0.1)
    assert found == pytest.approx({"0": 0.8 - 0.6 - 0.1 * 1.0, "1": 0.5 - 0.6})


def test_equation_9_by_hand() -> None:
    outcomes = {
        "0": Outcome(accuracy=0.8, round_s=3.0, memory_share=0.25),
        "1": Outcome(accuracy=0.5, round_s=2.0, memory_share=0.75),
        # whatever stands in a reply that did not fit, it counts as 0, the longest time, and 1
        "2": Outcome(accuracy=0.9, round_s=0.1, memory_share=0.0, fits=False),
    }
    found = rewards(outcomes, 0.6, lambda_time=0.1, memory=True)
    expected = {"0": 0.2 - 0.1 - 0.25, "1": -0.1 - 0.75, "2": 0.0 - 0.6 - 0.1 * 1.0 - 1.0}
    assert found == pytest.approx(expected)


def test_a_round_in_which_nothing_fits_has_no_times() -> None:
    found = rewards({"0": Outcome(fits=False)}, 0.4, lambda_time=9.0, memory=True)
    assert found == pytest.approx({"0": -1.4})


def test_the_mean_is_over_the_latest_accuracy_of_every_client_seen() -> None:
    judge = history()
    assert advantages(judge, c0=0.2, c1=0.6) == pytest.approx({"0": -0.2, "1": 0.2})
    # latest now: 0 -> 0.5, 1 -> 0.6 from before, 2 -> 0.7; mean 0.6
    assert advantages(judge, c0=0.5, c2=0.7) == pytest.approx({"0": -0.1, "2": 0.1})
    assert judge.mean_accuracy == pytest.approx(0.6)


def test_a_model_that_did_not_fit_has_no_accuracy_to_remember() -> None:
    judge = history(memory=True)
    judge.judge(accuracies(c0=0.4, c1=0.6))
    judged = judge.judge({"0": Outcome(fits=False)})
    assert judged["0"].reward == pytest.approx(-0.5 - 1.0)
    assert judge.mean_accuracy == pytest.approx(0.5)


def test_baseline_none_is_the_reward_before_the_mean() -> None:
    judge = history(baseline="none", lambda_time=0.1)
    outcomes = {"0": Outcome(accuracy=0.8, round_s=3.0), "1": Outcome(accuracy=0.5, round_s=2.0)}
    judged = judge.judge(outcomes)
    assert judged["0"].advantage == pytest.approx(0.7)
    assert judged["1"].advantage == pytest.approx(0.5)
    assert judged["0"].reward == pytest.approx(0.8 - 0.65 - 0.1)  # equation 8 is reported always


def test_baseline_client_is_the_mean_of_its_own_past() -> None:
    judge = history(baseline="client", decay=0.5, prior_weight=0.0)
    assert advantages(judge, c0=0.4, c1=0.9) == {"0": 0.0, "1": 0.0}  # nothing to compare with
    assert advantages(judge, c0=0.6) == pytest.approx({"0": 0.2})
    # own mean: (0.5 * 0.4 + 0.6) / 1.5 = 0.5333
    assert advantages(judge, c0=0.5, c1=0.8) == pytest.approx({"0": 0.5 - 0.8 / 1.5, "1": -0.1})


def test_baseline_both_is_blind_to_hard_data_and_to_a_rise_for_all() -> None:
    judge = history(baseline="both", prior_weight=0.0)
    advantages(judge, c0=0.2, c1=0.8)  # client 0 has hard data
    assert advantages(judge, c0=0.3, c1=0.9) == pytest.approx({"0": 0.0, "1": 0.0})
    # all rise by 0.1 again, and client 0's architecture brings 0.1 more: mean 0.7, rewards -0.2
    # and 0.3 minus own means... by hand: 0.5-0.75=-0.25 vs -0.3; 1.0-0.75=0.25 vs 0.3
    assert advantages(judge, c0=0.5, c1=1.0) == pytest.approx({"0": 0.05, "1": -0.05})


def test_baseline_both_judges_the_whole_reward() -> None:
    # memory takes the same share in each round, so it is no news
    judge = history(baseline="both", memory=True)
    for _ in range(3):
        judged = judge.judge({"0": Outcome(accuracy=0.5, memory_share=0.7)})
    assert judged["0"].advantage == pytest.approx(0.0)
    assert judged["0"].reward == pytest.approx(-0.7)


def test_a_model_that_does_not_fit_is_bad_news_even_at_first_and_spoils_no_mean() -> None:
    judge = history(baseline="both", memory=True)
    assert judge.judge({"0": Outcome(fits=False)})["0"].advantage == pytest.approx(-1.0)
    judge.judge(accuracies(c0=0.5))
    before = judge.state()
    # reward 0 - 0.5 - 1 = -1.5, own mean 0.5 - 0.5 = 0
    assert judge.judge({"0": Outcome(fits=False)})["0"].advantage == pytest.approx(-1.5)
    assert not differences(judge.state(), before)


def test_normalised_advantages_are_divided_by_their_running_size() -> None:
    judge = history(normalise="all", normalise_decay=0.5)
    # mean 0.5: +-0.3, root mean square 0.3
    assert advantages(judge, c0=0.2, c1=0.8) == pytest.approx({"0": -1.0, "1": 1.0})
    # mean 0.5: +-0.1; mean square (0.5 * 0.09 + 0.01) / 1.5 = 0.11 / 3
    size = math.sqrt(0.055 / 1.5)
    assert advantages(judge, c0=0.4, c1=0.6) == pytest.approx({"0": -0.1 / size, "1": 0.1 / size})


def test_a_clients_first_reward_is_held_against_the_others() -> None:
    judge = history(baseline="client", decay=0.5, prior_weight=1.0)
    # Each against the mean of the others: 0.4 - 0.7, 0.6 - 0.6, 0.8 - 0.5.
    first = advantages(judge, c0=0.4, c1=0.6, c2=0.8)
    assert first == pytest.approx({"0": -0.3, "1": 0.0, "2": 0.3})
    # Its own mean is now that of one participation worth 0.7, halved since, and one worth 0.4:
    # (0.25 * 0.7 + 0.5 * 0.4) / 0.75 = 0.5. New is client 3, alone: against the mean of all before, 0.6,
    # and the others of this round, 0.5: (0.25 * 0.6 + 0.5 * 0.5) / 0.75.
    second = advantages(judge, c0=0.5, c3=0.9)
    assert second == pytest.approx({"0": 0.0, "3": 0.9 - 0.4 / 0.75})


def test_a_first_reward_with_nobody_to_compare_with_is_no_step() -> None:
    judge = history(baseline="both")
    assert advantages(judge, c0=0.4) == {"0": 0.0}
    alone = history(baseline="client")
    advantages(alone, c0=0.4)
    assert advantages(alone, c1=0.6) == pytest.approx({"1": 0.2})  # client 0 was there before


def test_each_client_has_its_own_measure_which_starts_from_that_of_all() -> None:
    judge = history(normalise="client", normalise_decay=0.5)
    # Mean 0.5: +-0.3; the mean square of all and of each is 0.09.
    assert advantages(judge, c0=0.2, c1=0.8) == pytest.approx({"0": -1.0, "1": 1.0})
    # Latest 0.2, 0.8, 0.5: mean 0.5, so 0 for client 2: no news, its measure stays that of all.
    assert advantages(judge, c2=0.5) == {"2": 0.0}
    # Client 2 at 0.8: mean 0.6, 0.2 above it. All: (0.5 * 0.045 + 0.5 * 0.04) / 0.75 with weight
    # 0.25, its own 0.04 with 0.5.
    everyone = (0.5 * 0.045 + 0.5 * 0.04) / 0.75
    size = math.sqrt((0.25 * everyone + 0.5 * 0.04) / 0.75)
    assert advantages(judge, c2=0.8) == pytest.approx({"2": 0.2 / size})


def test_a_noisy_client_takes_no_larger_steps_than_others() -> None:
    rng = np.random.default_rng(0)
    sizes: dict[str, dict[str, float]] = {}
    for normalise in ("client", "all"):
        judge = history(baseline="both", normalise=normalise)
        found = []
        for _ in range(60):
            steady, noisy = 0.5 + 0.01 * rng.standard_normal(), 0.5 + 0.1 * rng.standard_normal()
            found.append(advantages(judge, c0=steady, c1=steady, c2=steady, c3=noisy))
        sizes[normalise] = {
            client: math.sqrt(np.mean([row[client] ** 2 for row in found[20:]])) for client in "03"
        }
    assert sizes["all"]["3"] > 2.5 * sizes["all"]["0"]
    assert sizes["client"]["3"] < 1.5 * sizes["client"]["0"]


def test_normalising_survives_rounds_without_news() -> None:
    judge = history(normalise="client", baseline="client", prior_weight=0.0)
    assert advantages(judge, c0=0.5, c1=0.7) == {"0": 0.0, "1": 0.0}
    assert advantages(judge, c0=0.5, c1=0.7) == {"0": 0.0, "1": 0.0}


def test_advantages_stay_within_their_limit() -> None:
    judge = history(advantage_limit=0.1)
    assert advantages(judge, c0=0.2, c1=0.8) == {"0": -0.1, "1": 0.1}


@pytest.mark.parametrize("normalise", ["client", "all"])
@pytest.mark.parametrize("baseline", ["clients", "client", "both", "none"])
def test_the_order_of_replies_does_not_matter(baseline: str, normalise: str) -> None:
    rng = np.random.default_rng(0)
    one, other = (history(baseline=baseline, normalise=normalise) for _ in range(2))
    for _ in range(5):
        seen = {str(c): Outcome(accuracy=float(rng.random())) for c in rng.permutation(30)[:7]}
        backwards = dict(reversed(list(seen.items())))
        assert one.judge(seen) == other.judge(backwards)
    assert not differences(one.state(), other.state())


@pytest.mark.parametrize("normalise", ["client", "all"])
@pytest.mark.parametrize("baseline", ["clients", "client", "both", "none"])
def test_resumed_it_goes_on_as_if_never_stopped(baseline: str, normalise: str) -> None:
    rng = np.random.default_rng(0)
    rounds = [accuracies(c0=rng.random(), c1=rng.random(), c12=rng.random()) for _ in range(6)]
    whole, resumed = (history(baseline=baseline, normalise=normalise) for _ in range(2))
    for number, seen in enumerate(rounds):
        if number == 3:
            stored = resumed.state()
            resumed = history(baseline=baseline, normalise=normalise)
            resumed.load_state(stored)
        assert whole.judge(seen) == resumed.judge(seen)
    assert not differences(whole.state(), resumed.state())
    assert whole.state().meta["clients"] == ["0", "1", "12"]


def test_a_state_from_before_the_first_round_can_be_loaded() -> None:
    judge = history()
    judge.load_state(history().state())
    assert judge.mean_accuracy == 0.0


@pytest.mark.parametrize(
    ("bad", "key"),
    [
        ({"accuracy": math.nan}, "accuracy"),
        ({"accuracy": 1.5}, "accuracy"),
        ({"round_s": -1.0}, "round_s"),
        ({"round_s": math.inf}, "round_s"),
        ({"memory_share": -0.1}, "memory_share"),
    ],
)
def test_refuses_what_is_no_measurement_and_remembers_nothing(
    bad: dict[str, Any], key: str
) -> None:
    judge = history()
    with pytest.raises(RefusedError, match="is not a measurement") as refused:
        judge.judge({"3": Outcome(**bad), "4": Outcome(accuracy=0.5)})
    assert refused.value.faults[0].key == f"{key} of client 3"
    assert not differences(judge.state(), history().state())


def test_misfit_that_was_never_sent_is_judged_by_equation_9() -> None:
    settings = RewardSettings(
        lambda_time=0.1, memory=True, baseline="clients", normalise="none", advantage_limit=None
    )
    history = RewardHistory(settings=settings)
    seen = {
        "0": Outcome(accuracy=0.6, round_s=2.0, memory_share=0.5),
        "1": Outcome(accuracy=0.8, round_s=5.0, memory_share=0.25),
    }
    history.judge(seen)
    before = history.state()
    # By hand: Acc 0 - mean 0.7 - 0.1 * (longest 5 - shortest 2) - phi 1.
    assert history.judge_misfit("0", seen).reward == pytest.approx(0.0 - 0.7 - 0.3 - 1.0)
    assert not differences(history.state(), before)
