"""What every search by proposals must hold, and each one's own numbers by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from corolla.config.build import build
from corolla.errors import RefusedError
from corolla.search.evolution import Fits
from corolla.search.proposals.evolution import Evolution
from corolla.search.proposals.fixed import Fixed, FixedSettings, RandomOnce
from corolla.search.proposals.pairs import Pairs, PairsSettings, RewardForest
from corolla.search.proposals.prescreen import Prescreened, PrescreenSettings
from corolla.search.proposals.protocol import Observation, Proposals, SearchContext
from corolla.search.proposals.uniform import Uniform
from corolla.search.reward import Outcome, RewardHistory, RewardSettings
from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.conv_layers import ConvLayer
from corolla.spaces.space import SearchSpace
from corolla.state import State
from corolla.types import generator
from tests.conftest import CONF
from tests.states import differences


class Toy(SearchSpace):
    """A space without weights; its networks are two convolutions, as far as a search looks at them."""

    def conv_layers(self, architecture: Architecture) -> list[ConvLayer]:
        a, b, c, d = architecture.choices
        return [ConvLayer(2 + a + b, 2 + a, 8, "0"), ConvLayer(2 + c + d, 2 + d, 4, "1")]


SPACE = Toy(
    name="toy",
    dimensions=tuple(
        Dimension(name, tuple(range(size))) for name, size in zip("abcd", (3, 3, 2, 4), strict=True)
    ),
)
CONTEXT = SearchContext(space=SPACE, seed=0, max_draws=5)
CACHE = {
    "entries": 4,
    "evolution": {"population": 4, "generations": 1, "mutants": 2, "crossovers": 2},
}
FOREST = {"trees": 3, "max_depth": 8, "min_pairs": 2}
SMALL: dict[str, dict[str, Any]] = {
    "evolution": {
        "initial": 1,
        "exploration": 0.3,
        "evolution": {"population": 6, "generations": 1, "mutants": 3, "crossovers": 3},
        "forest": FOREST,
    },
    "training_free": {"cache": CACHE},
    "cached_sandwich": {"cache": CACHE},
}
FILES = {path.stem: path for path in sorted((CONF / "method" / "proposals").glob("*.yaml"))}
del FILES["like_sizes"]  # needs a finished run: test_like_sizes.py
PLAIN = sorted(FILES)  # a new file is tested by existing
SEARCHES = [*PLAIN, "prescreened policy_gradient", "prescreened evolution"]
SEEDS = st.integers(0, 2**32 - 1)


def node_of(name: str) -> dict[str, Any]:
    """Return a file's settings, over those of the files that it builds on."""
    own = yaml.safe_load(FILES[name].read_text())
    below = [one for one in own.pop("defaults", []) if one != "_self_"]
    return {**{key: value for one in below for key, value in node_of(one).items()}, **own}


def search(name: str, context: SearchContext = CONTEXT, **changed: Any) -> Proposals:
    plain = name.removeprefix("prescreened ")
    node = {**node_of(plain), **SMALL.get(plain, {}), **changed}
    found: Proposals = build(node, "proposals", context=context)
    if plain == name:
        return found
    settings = PrescreenSettings(candidates=3, pairs="all", forest=FOREST)  # type: ignore[arg-type]
    return Prescreened(settings=settings, search=found, context=context)


def under(limit: int) -> Fits:
    return lambda architecture: sum(architecture.choices) <= limit


def worth(client: str, architecture: Architecture) -> float:
    """Reward that rises with the first and the last dimension; a client's data adds its own."""
    return 0.1 * architecture.choices[0] + 0.2 * architecture.choices[3] + int(client)


def observed(
    proposals: Proposals, round: int, fits: Fits, clients: str = "012"
) -> list[Observation]:
    observations = []
    for client in clients:
        *misfits, architecture = proposals.draws(client, generator(round, int(client)), fits=fits)
        reward = worth(client, architecture)
        observations.append(
            Observation(
                client=client,
                architecture=architecture,
                reward=reward,
                advantage=reward - 0.3,
                misfits=misfits,
                misfit_advantage=-1.0,
            )
        )
    return observations


def trained(name: str, rounds: int, fits: Fits) -> Proposals:
    proposals = search(name)
    for round in range(rounds):
        proposals.observe(observed(proposals, round, fits))
    return proposals


def seen(client: str, reward: float, *choices: int) -> Observation:
    architecture = SPACE.check(Architecture(choices))
    return Observation(client=client, architecture=architecture, reward=reward, advantage=reward)


def anything(architecture: Architecture) -> bool:
    return True


# --- what all must hold ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEARCHES)
@settings(max_examples=5)
@given(seed=SEEDS, rounds=st.integers(0, 3), limit=st.integers(0, 8))
def test_draws_repeat_change_nothing_and_keep_the_limits(
    name: str, seed: int, rounds: int, limit: int
) -> None:
    fits = under(limit)
    proposals = trained(name, rounds, fits)
    before = proposals.state()
    for client in "09":  # one that took part, one that never did
        first, second = (proposals.draws(client, generator(seed), fits=fits) for _ in range(2))
        assert first == second
        assert fits(first[-1])
        assert not any(fits(misfit) for misfit in first[:-1])
        assert len(first) <= CONTEXT.max_draws + 1
        chosen = proposals.chosen(client, fits=fits)
        assert fits(SPACE.check(chosen))
        assert chosen == proposals.chosen(client, fits=fits)
        proposals.columns(client, first[-1])
        proposals.describe(client)
    proposals.metrics(["0", "9"])
    assert not differences(before, proposals.state())


@pytest.mark.parametrize("name", SEARCHES)
def test_tighter_limits_than_at_training_are_kept_at_once(name: str) -> None:
    proposals = trained(name, 4, anything)
    for client in "09":
        assert proposals.chosen(client, fits=under(0)) == SPACE.smallest()
        assert proposals.draws(client, generator(1), fits=under(0))[-1] == SPACE.smallest()


@pytest.mark.parametrize("name", SEARCHES)
@settings(max_examples=4)
@given(seed=SEEDS, limit=st.integers(2, 8))
def test_order_of_observations_does_not_matter(name: str, seed: int, limit: int) -> None:
    fits, rng = under(limit), np.random.default_rng(seed)
    one, other = search(name), search(name)
    for round in range(3):
        observations = observed(one, round, fits)
        one.observe(observations)
        other.observe([observations[i] for i in rng.permutation(len(observations))])
    assert not differences(one.state(), other.state())
    assert observed(one, 3, fits) == observed(other, 3, fits)


@pytest.mark.parametrize("name", SEARCHES)
@settings(max_examples=4)
@given(rounds=st.integers(0, 4), limit=st.integers(2, 8))
def test_resumed_it_goes_on_as_if_never_stopped(name: str, rounds: int, limit: int) -> None:
    fits = under(limit)
    whole, resumed = trained(name, rounds, fits), search(name)
    resumed.load_state(whole.state())
    for round in (rounds, rounds + 1):
        assert not differences(whole.state(), resumed.state())
        for client in "029":
            assert whole.chosen(client, fits=fits) == resumed.chosen(client, fits=fits)
        observations = observed(whole, round, fits, clients="02")
        assert observations == observed(resumed, round, fits, clients="02")
        for client, architecture in ((o.client, o.architecture) for o in observations):
            columns = whole.columns(client, architecture)
            assert columns == resumed.columns(client, architecture)
        whole.observe(observations)
        resumed.observe(observations)


@pytest.mark.parametrize("name", SEARCHES)
def test_load_state_replaces_all_that_was_known(name: str) -> None:
    empty, full = search(name), trained(name, 3, anything)
    full.load_state(empty.state())
    assert not differences(empty.state(), full.state())
    assert observed(full, 7, anything) == observed(empty, 7, anything)


# --- one by one -----------------------------------------------------------------------------------------


def test_uniform_deploys_the_best_mean_reward_that_fits() -> None:
    uniform = Uniform(context=CONTEXT)
    uniform.observe([seen("0", 0.9, 2, 2, 1, 3), seen("1", 5.0, 0, 1, 0, 0)])
    uniform.observe([seen("0", 0.1, 2, 2, 1, 3)])
    uniform.observe([seen("0", 0.6, 1, 0, 0, 0)])
    # By hand: (0.9 + 0.1) / 2 = 0.5 is less than 0.6.
    assert uniform.chosen("0", fits=anything).choices == (1, 0, 0, 0)
    uniform.observe([seen("0", 1.0, 2, 2, 1, 3)])  # now 2.0 / 3 = 0.667
    assert uniform.chosen("0", fits=anything).choices == (2, 2, 1, 3)
    assert uniform.chosen("0", fits=under(7)).choices == (1, 0, 0, 0)
    uniform.observe([seen("2", 0.5, 0, 0, 1, 0)])
    uniform.observe([seen("2", 0.5, 0, 0, 0, 3)])
    assert uniform.chosen("2", fits=anything).choices == (0, 0, 0, 3)  # of equals the lower


def test_a_uniform_draw_is_found_under_a_limit_that_few_meet() -> None:
    rare = Architecture((2, 1, 0, 0))

    def fits(architecture: Architecture) -> bool:
        return architecture in (rare, SPACE.smallest())

    found = {
        Uniform(context=CONTEXT).draws("0", generator(seed), fits=fits)[-1] for seed in range(20)
    }
    assert found == {rare, SPACE.smallest()}  # and not always the smallest


def test_random_is_one_draw_per_client_for_ever() -> None:
    random = RandomOnce(context=CONTEXT)
    draws = {
        client: {tuple(random.draws(client, generator(r), fits=anything)) for r in range(5)}
        for client in "0123456789"
    }
    assert all(len(found) == 1 for found in draws.values())
    assert len(set.union(*draws.values())) > 3
    for client in draws:
        assert {(random.chosen(client, fits=anything),)} == draws[client]


def test_fixed_falls_back_to_the_smallest_where_it_does_not_fit() -> None:
    fixed = Fixed(settings=FixedSettings(architecture="largest"), context=CONTEXT)
    assert fixed.draws("0", generator(0), fits=anything) == [SPACE.largest()]
    assert fixed.draws("0", generator(0), fits=under(3)) == [SPACE.largest(), SPACE.smallest()]
    listed = Fixed(settings=FixedSettings(architecture=[2, 1, 0, 3]), context=CONTEXT)
    assert listed.chosen("0", fits=anything).choices == (2, 1, 0, 3)


@pytest.mark.parametrize("bad", ["larges", [0, 0, 0], [0, 0, 0, 4], 3])
def test_a_fixed_architecture_that_is_none_is_refused(bad: Any) -> None:
    with pytest.raises(RefusedError, match=r"proposals.architecture="):
        search("fixed", architecture=bad)


def test_rewards_are_pooled_less_each_clients_mean() -> None:
    pairs = Pairs(SPACE)
    pairs.add([seen("0", 0.2, 0, 0, 0, 0), seen("1", 0.9, 0, 0, 0, 0)])
    pairs.add([seen("0", 0.6, 1, 0, 0, 0), seen("1", 0.7, 1, 0, 0, 0)])
    # Means 0.4 and 0.8: client 0 gives -0.2 and +0.2, client 1 +0.1 and -0.1.
    expected = {(0, 0, 0, 0): -0.05, (1, 0, 0, 0): 0.05}
    assert {a.choices: r for a, r in pairs.pooled().items()} == pytest.approx(expected)
    assert pairs.rewards("1") == {Architecture((0, 0, 0, 0)): 0.9, Architecture((1, 0, 0, 0)): 0.7}


def test_a_forest_gives_the_reward_of_the_client_also_from_others_pairs() -> None:
    forests = {
        pairs: RewardForest(
            context=CONTEXT,
            settings=PairsSettings(pairs=pairs, forest=FOREST),  # type: ignore[arg-type]
        )
        for pairs in ("client", "all")
    }
    for forest in forests.values():
        forest.add([seen("0", 1.0, 0, 0, 0, 0), seen("1", 8.0, 2, 0, 0, 0)])
        forest.add([seen("0", 2.0, 2, 0, 0, 0)])
    ends = [Architecture((0, 0, 0, 0)), Architecture((2, 0, 0, 0))]
    own = forests["client"].predictor("0")
    assert own is not None
    low, high = own(ends)
    assert 1.0 <= low < high <= 2.0  # means of leaves lie within what was seen
    assert forests["client"].predictor("1") is None  # one pair, two are needed
    others = forests["all"].predictor("1")
    assert others is not None
    # Pooled: -0.5 at the one end; at the other (0.5 + 0.0) / 2 = 0.25; on top of client 1's mean.
    low, high = others(ends)
    assert 7.5 <= low < high <= 8.25


def test_pairs_of_another_space_are_refused() -> None:
    other = SearchSpace(name="other", dimensions=(Dimension("a", (0, 1)),))
    state = trained("uniform", 1, anything).state()
    with pytest.raises(RefusedError, match="rewards are of architectures of another space"):
        Pairs(other).load_state(state)


def test_evolution_starts_at_random_and_ends_at_what_is_worth_most() -> None:
    evolution = search("evolution", initial=6, exploration=0.0, forest={**FOREST, "trees": 10})
    later = []
    for round in range(25):
        observations = observed(evolution, round, anything, clients="0")
        if round < 6:
            assert "predicted_reward" not in evolution.columns("0", SPACE.smallest())
        else:
            later.append(observations[0].reward)
        evolution.observe(observations)
    assert np.mean(later) > 0.65  # the mean over the space is 0.4, the best 0.8
    chosen = evolution.chosen("0", fits=anything)
    assert worth("0", chosen) == pytest.approx(0.8)
    # What it deploys was trained, under limits too.
    tried = {row.choices for row in evolution._forest.pairs.rewards("0")}  # type: ignore[attr-defined]
    assert chosen.choices in tried
    assert evolution.chosen("0", fits=under(3)).choices in tried | {(0, 0, 0, 0)}


def test_exploration_is_a_uniform_draw() -> None:
    explorer = search("evolution", initial=0, exploration=1.0)
    explorer.observe([seen("0", 1.0, 2, 2, 1, 3), seen("1", 0.0, 0, 0, 0, 0)])
    explorer.observe([seen("0", 0.0, 0, 0, 0, 0)])
    rng = generator(3)
    rng.random()  # whether to explore
    expected = Uniform(context=CONTEXT).draws("0", rng, fits=anything)
    assert explorer.draws("0", generator(3), fits=anything) == expected


def test_a_client_without_pairs_is_proposed_what_others_found() -> None:
    shared = search("evolution", initial=0, exploration=0.0, pairs="all")
    rng = np.random.default_rng(0)
    for _ in range(30):
        architecture = SPACE.sample(rng)
        shared.observe([seen("0", worth("0", architecture), *architecture.choices)])
    for context in (anything, under(5)):
        proposed = shared.draws("7", generator(1), fits=context)[-1]
        assert worth("0", proposed) >= 0.6
        assert worth("0", shared.chosen("7", fits=context)) >= 0.6


def test_prescreening_takes_the_best_predicted_of_the_draws() -> None:
    screened = search("prescreened uniform")
    plain = Uniform(context=CONTEXT)
    assert isinstance(screened, Prescreened)
    # Without pairs: what the search itself would have sent.
    draws = screened.draws("0", generator(5), fits=under(4))
    assert draws == plain.draws("0", generator(5), fits=under(4))
    rng = np.random.default_rng(0)
    for _ in range(30):
        architecture = SPACE.sample(rng)
        screened.observe([seen("0", worth("0", architecture), *architecture.choices)])
    rng = generator(6)
    attempts = [plain.draws("0", rng, fits=under(6)) for _ in range(3)]
    predicted = [screened.columns("0", a[-1])["predicted_reward"] for a in attempts]
    assert len(set(predicted)) > 1
    found = screened.draws("0", generator(6), fits=under(6))
    assert found == attempts[int(np.argmax(predicted))]


def test_prescreening_may_start_from_a_state_without_it() -> None:
    policy, screened = (
        trained("policy_gradient", 3, anything),
        search("prescreened policy_gradient"),
    )
    screened.load_state(policy.state())
    assert observed(screened, 4, anything) == observed(policy, 4, anything)
    assert list(policy.state().arrays) == ["logits", "first", "second", "start", "steps"]


def test_a_client_without_rewards_deploys_what_was_best_for_all() -> None:
    uniform = Uniform(context=CONTEXT)
    assert uniform.chosen("7", fits=anything) == SPACE.smallest()  # nobody knows anything
    uniform.observe([seen("0", 0.2, 0, 1, 0, 0), seen("1", 0.9, 0, 1, 0, 0)])
    uniform.observe([seen("0", 0.6, 1, 0, 0, 0), seen("1", 0.7, 2, 0, 0, 0)])
    # Means 0.4 and 0.8: 0.0 for (0, 1, 0, 0), 0.2 for client 0's other, -0.1 for client 1's.
    assert uniform.chosen("7", fits=anything).choices == (1, 0, 0, 0)
    assert uniform.chosen("7", fits=lambda a: a.choices[0] != 1).choices == (0, 1, 0, 0)
    assert uniform.chosen("7", fits=under(0)) == SPACE.smallest()
    evolution = search("evolution", pairs="client")
    evolution.observe([seen("0", 0.2, 0, 1, 0, 0)])
    evolution.observe([seen("0", 0.6, 1, 0, 0, 0)])
    assert evolution.chosen("7", fits=anything).choices == (1, 0, 0, 0)


def test_a_client_whose_policy_knows_nothing_deploys_by_the_others() -> None:
    policy = search("policy_gradient")
    assert policy.chosen("7", fits=anything) == SPACE.smallest()
    policy.observe(
        [seen("0", 1.0, 2, 1, 0, 3), seen("1", 0.9, 2, 0, 1, 3), seen("9", 0.0, 1, 1, 1, 1)]
    )
    # Client 9 was seen and took no step. Of the second dimension client 0 was surer than client 1.
    assert policy.chosen("7", fits=anything).choices == (2, 1, 0, 3)
    assert policy.chosen("9", fits=anything).choices == (2, 1, 0, 3)
    assert policy.chosen("1", fits=anything).choices == (2, 0, 1, 3)  # its own word counts first
    # Pushed off one choice, client 2 has ties among the rest: the others resolve them.
    policy.observe([seen("2", -1.0, 0, 0, 0, 0)])
    assert policy.chosen("2", fits=anything).choices[3] == 3


def misfits(advantage: float, *drawn: int, misfit: float = -3.0) -> Observation:
    return Observation(
        client="0",
        architecture=Architecture((0, 0, 0, 0)),
        reward=0.0,
        advantage=advantage,
        misfits=[Architecture((first, 2, 1, 3)) for first in drawn],
        misfit_advantage=misfit,
    )


def test_all_misfits_of_a_participation_are_one_step_towards_what_fits() -> None:
    policy = search("policy_gradient", policy={"lr": 0.5, "misfit_step": 0.2})
    fitting = Architecture((0, 0, 0, 0))
    assert policy.columns("0", fitting) == {"log_prob": pytest.approx(-np.log(72))}
    policy.observe([misfits(0.5, 2, 2, 1)])
    # By hand: 0.5 + 0.2 * 3/4 * 3 = 0.95; the logits of three choices move by 0.5 * 0.95 * (2/3, -1/3, -1/3).
    logits = 0.5 * 0.95 * np.array([2 / 3, -1 / 3, -1 / 3])
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(policy.describe("0")["policy"][0], expected, atol=1e-4)
    assert policy.metrics(["0", "1"])["policy_entropy"] < 1.0


def test_twenty_misfits_leave_a_policy_undecided_where_published_steps_decide_it() -> None:
    entropies = {}
    for rule in ("step", "published"):
        policy = search("policy_gradient", policy={"misfits": rule})
        rng = np.random.default_rng(0)
        drawn = [SPACE.sample(rng) for _ in range(20)]
        policy.observe([replace(misfits(0.0), misfits=drawn)])
        entropies[rule] = policy.metrics(["0"])["policy_entropy"]
    assert entropies["step"] > 0.95
    assert entropies["published"] < 0.1


def test_published_misfits_are_a_step_away_from_each() -> None:
    policy = search("policy_gradient", policy={"misfits": "published"})
    policy.observe([misfits(0.5, 2, misfit=-1.0)])
    p = policy.describe("0")["policy"][0]
    assert p[0] > p[1] > p[2]


def test_a_search_under_tight_limits_learns_to_fit_and_to_win() -> None:
    def fits(architecture: Architecture) -> bool:  # 6 of 72, worth 0 to 0.4
        return sum(architecture.choices) <= 2 and architecture.choices[1:3] == (0, 0)

    policy, history = search("policy_gradient"), RewardHistory(settings=RewardSettings())
    misses = []
    for round in range(150):
        observations = observed(policy, round, fits, clients="01")
        outcomes = {o.client: Outcome(accuracy=0.3 + o.reward % 1) for o in observations}
        judged = history.judge(outcomes)
        worst = {client: history.judge_misfit(client, outcomes).advantage for client in outcomes}
        policy.observe(
            [
                replace(o, advantage=judged[o.client].advantage, misfit_advantage=worst[o.client])
                for o in observations
            ]
        )
        misses.append(sum(len(o.misfits) for o in observations) / 2)
    assert np.mean(misses[-30:]) < 1.0 < 2.5 < np.mean(misses[:10])
    for client in "01":
        assert worth("0", policy.chosen(client, fits=fits)) >= 0.2


def test_of_many_architectures_those_seen_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corolla.search.proposals.pairs.KEPT", 2)
    pairs = Pairs(SPACE)
    for reward, first in ((0.1, 0), (0.2, 1), (0.3, 0), (0.6, 2)):
        pairs.add([seen("0", reward, first, 0, 0, 0)])
    assert {a.choices[0]: r for a, r in pairs.rewards("0").items()} == pytest.approx(
        {0: 0.2, 2: 0.6}
    )
    again = Pairs(SPACE)
    again.load_state(pairs.state())
    for each in (pairs, again):  # which comes next to go is remembered too
        each.add([seen("0", 0.5, 1, 0, 0, 0)])
        assert [a.choices[0] for a in each.rewards("0")] == [1, 2]


def test_a_checkpoint_of_pairs_grows_with_architectures_and_not_with_rounds() -> None:
    pairs = Pairs(SPACE)
    for _ in range(3):
        for client in "012":
            pairs.add([seen(client, 1.0, 0, 1, 0, 3), seen("3", 2.0, 2, 2, 1, 3)])
    state = pairs.state()
    assert sum(array.nbytes for array in state.arrays.values()) == 4 * (4 + 4 + 8 + 4)
    assert state.arrays["count"].tolist() == [3, 3, 3, 9]


def test_the_shared_defaults_say_nothing() -> None:
    fixed = Fixed(settings=FixedSettings(architecture="smallest"), context=CONTEXT)
    assert (fixed.metrics(["0"]), fixed.columns("0", SPACE.smallest())) == ({}, {})
    assert not differences(fixed.state(), State())
    assert isinstance(search("evolution"), Evolution)


def test_the_lottery_draws_from_what_a_search_by_policy_starts_from() -> None:
    """Both uniform over the 14 architectures that fit; a chi-square beyond 34.5 comes once in 1000."""
    fits = under(2)
    expected = [a for a in SPACE.enumerate() if fits(a)]
    context = SearchContext(space=SPACE, seed=0, max_draws=100)
    count = 100 * len(expected)
    for name in ("random", "policy_gradient", "uniform"):
        proposals = search(name, context)
        found = Counter(
            proposals.draws(str(client), generator(1, client), fits=fits)[-1]
            for client in range(count)
        )
        assert set(found) == set(expected)
        assert sum((found[one] - 100) ** 2 / 100 for one in expected) < 34.5
