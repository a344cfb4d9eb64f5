"""Caps on multiply-accumulates: the rules by hand, who gets which, what fits, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clients.site import Site, site_of
from clients.subnet import SubnetClient
from corolla.config.build import build, build_space, class_of
from corolla.config.compose import compose_values
from corolla.errors import RefusedError
from corolla.federation import Federation
from corolla.gain.finished_run import FinishedRun
from corolla.launch import checks, plan_run
from corolla.limits import caps
from corolla.limits.caps import CapRule, DataSizeCap, RangeCap, SpeedCap, with_caps
from corolla.limits.client_limits import (
    ClientLimits,
    Limits,
    Shortfall,
    limits_of,
    refuse_shortfalls,
    shortfalls,
)
from corolla.limits.node import node_limits
from corolla.limits.tiers import TiersCap
from corolla.records.client_facts import read_client_facts
from corolla.report.architecture_strip import StripLayout
from corolla.report.clients import client_table
from corolla.report.facts import facts as report_facts
from corolla.report.load import load_run
from tests.conftest import make_space
from tests.report.synthetic_run import SyntheticRun
from tests.strategies.conftest import SMALL, federation_of, run

FEW = ["partition.alpha=1", "partition.balanced=false", "partition.images_per_client=null"]


class _Space:
    """A space whose architectures are numbers: as many multiply-accumulates, a tenth as many MiB."""

    def smallest(self) -> Any:
        return 100

    def largest(self) -> Any:
        return 1100

    def is_live(self, architecture: Any) -> bool:
        return True

    def known_macs(self, architecture: Any) -> int:
        return int(architecture)

    def costs(self, architecture: Any, *, batch_size: int = 32) -> Any:
        memory = architecture / 10 * batch_size / 32
        return SimpleNamespace(macs=architecture, training_memory_mib=memory)


SPACE: Any = _Space()


def _facts(**sizes: int) -> dict[str, dict[str, Any]]:
    return {client: {"num_examples": {"train": size}} for client, size in sizes.items()}


def _rule(*overrides: str) -> CapRule:
    rule: CapRule = build(compose_values(list(overrides))["cap"], "cap")
    return rule


def _caps(rule: CapRule, space: Any = SPACE, **sizes: int) -> dict[str, float]:
    return rule.caps(_facts(**sizes), space=space, sizes=sizes)


# --- by data size -----------------------------------------------------------------------------------------


def test_the_papers_caps_are_75_100_125_and_150_million() -> None:
    # Smallest 46.41 M, largest 135.31 M (docs/hapfnas.md): a line from 56.41 M to 136.31 M.
    #   100 images: 56.41; the nearest, 50, is under 99 % of it                           -> 75
    #   200: + 1/8 of 79.9: 66.40, nearest 75                                             -> 75
    #   350: + 2.5/8: 81.38, nearest 75 is under 99 %                                     -> 100
    #   500: + 4/8: 96.36                                                                 -> 100
    #   650: + 5.5/8: 111.34, nearest 100 is under 99 %                                   -> 125
    #   900: 136.31, nearest 125 is under 99 %                                            -> 150
    sizes = {"a": 100, "b": 200, "c": 350, "d": 500, "e": 650, "f": 900}
    found = _caps(_rule("cap=data_size_paper"), make_space("mobilenetv2"), **sizes)
    millions = {client: cap / 1e6 for client, cap in found.items()}
    assert millions == {"a": 75, "b": 75, "c": 100, "d": 100, "e": 125, "f": 150}


def test_margins_and_step_as_shares_of_the_range_by_hand() -> None:
    # Range 1000: the line goes from 100 + 100 to 1100 + 20, in steps of 250.
    rule = DataSizeCap(unit="range", low_margin=0.1, high_margin=0.02, step=0.25)
    # 200 -> 250; 660 -> 750 (the nearest); 1120: nearest 1000 is under 99 % -> 1250.
    assert _caps(rule, a=10, b=20, c=30) == {"a": 250, "b": 750, "c": 1250}
    unrounded = DataSizeCap(unit="range", low_margin=0.1, high_margin=0.02, step=None)
    assert _caps(unrounded, a=10, b=20, c=30) == {"a": 200, "b": 660, "c": 1120}


def test_without_margins_the_ends_are_exactly_the_space() -> None:
    rule = DataSizeCap(unit="macs", low_margin=0, high_margin=0, step=None)
    assert _caps(rule, a=7, b=8, c=10) == {"a": 100, "b": pytest.approx(1300 / 3), "c": 1100}


def test_clients_of_equal_size_get_the_upper_end() -> None:
    rule = DataSizeCap(unit="macs", low_margin=50, high_margin=10, step=None)
    assert _caps(rule, a=12, b=12) == {"a": 1110, "b": 1110}


def test_a_late_client_is_held_against_those_of_the_start() -> None:
    rule = DataSizeCap(unit="macs", low_margin=0, high_margin=0, step=None)
    late = _facts(small=1, middle=20, large=99)
    found = rule.caps(late, space=SPACE, sizes={"a": 10, "b": 30})
    assert found == {"small": 100, "middle": 600, "large": 1100}


@pytest.mark.parametrize(
    ("cap", "rounded"), [(100.5, 100), (101.5, 125), (99.5, 100), (3.0, 25), (125.0, 125)]
)
def test_the_nearest_multiple_unless_it_is_under_99_percent(cap: float, rounded: float) -> None:
    assert caps._rounded(cap, 25.0) == rounded


@given(st.floats(1, 1e9), st.floats(1, 1e8))
def test_laws_of_rounding(cap: float, step: float) -> None:
    rounded = caps._rounded(cap, step)
    assert 0.99 * cap <= rounded < cap + step * (1 + 1e-9)
    assert math.isclose(rounded / step, round(rounded / step), abs_tol=1e-6)


def test_where_the_line_would_fall_it_is_refused() -> None:
    rule = DataSizeCap(unit="macs", low_margin=2000, high_margin=0, step=None)
    with pytest.raises(RefusedError, match=r"cap\.low_margin=2000.0: .* 2,100.* 1,100.*unit=range"):
        _caps(rule, a=1, b=2)


# --- drawn, measured, given ---------------------------------------------------------------------------------


def test_a_draw_depends_on_seed_and_client_alone() -> None:
    rule = RangeCap(unit="range", low=0.2, high=0.4, seed=3)
    many = _caps(rule, **{str(i): 1 for i in range(50)})
    assert all(300 <= cap <= 500 for cap in many.values())  # 100 + 0.2 * 1000 to 100 + 0.4 * 1000
    assert max(many.values()) - min(many.values()) > 150
    assert _caps(rule, **{"7": 900}) == {"7": many["7"]}
    assert _caps(RangeCap(unit="range", low=0.2, high=0.4, seed=4), **{"7": 1})["7"] != many["7"]
    absolute = _caps(RangeCap(unit="macs", low=5, high=6, seed=3), **{"7": 1})
    assert 5 <= absolute["7"] <= 6


def test_tiers_have_equally_many_clients_and_late_ones_change_nobody() -> None:
    rule = TiersCap(shares=[1, 0.25], seed=3)
    clients = {str(i): 1 for i in range(9)}
    caps = _caps(rule, **clients)
    assert sorted(caps.values()) == [275] * 4 + [1100] * 5  # 1100 is the largest architecture
    assert _caps(TiersCap(shares=[1, 0.25], seed=4), **clients) != caps
    late = rule.caps(_facts(late=1, **clients), space=_Space(), sizes=clients)  # type: ignore[arg-type]
    assert late.pop("late") in (275, 1100)
    assert late == caps


def test_speed_times_latency_by_hand(monkeypatch: pytest.MonkeyPatch, digits_space: Any) -> None:
    shapes = []

    def two_ms(model: Any, channels: int, resolution: int, batch_size: int) -> float:
        shapes.append((channels, resolution, batch_size))
        return 2.0

    monkeypatch.setattr(caps, "latency", two_ms)
    rule = SpeedCap(latency_ms=5.0, batch_size=4)
    before = torch.get_rng_state()
    measured = rule.measured(digits_space, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert shapes == [(1, 8, 4)]
    macs = digits_space.macs(digits_space.smallest())
    assert measured == {"macs_per_s": pytest.approx(4 * macs / 0.002)}
    facts = {"a": measured, "b": {"macs_per_s": 1e6}, "silent": {}}
    found = rule.caps(facts, space=digits_space, sizes={})
    assert found == {"a": pytest.approx(10 * macs), "b": 5000.0, "silent": 0.0}


def test_this_machine_has_a_speed(digits_space: Any) -> None:
    (speed,) = SpeedCap(latency_ms=1, batch_size=1).measured(digits_space, device="cpu").values()
    assert 1e5 < speed < 1e13
    for rule in (_rule("cap=data_size"), _rule("cap=range")):
        assert rule.measured(digits_space, device="cpu") == {}


def test_a_nodes_own_cap() -> None:
    assert node_limits({}, device="cpu") == Limits()
    assert node_limits({"max-macs": 75_000_000}, device="cpu") == Limits(macs_cap=75e6)
    assert node_limits({"max-macs": "75e6"}, device="cpu") == Limits(macs_cap=75e6)


@pytest.mark.parametrize("value", ["plenty", 0, -5.0, "", "nan", float("inf"), True])
def test_what_is_no_cap_is_refused(value: Any) -> None:
    with pytest.raises(RefusedError, match=r"max-macs=.*not a number of multiply.*max-macs=75e6"):
        node_limits({"max-macs": value}, device="cpu")


def test_a_clients_own_word_wins_and_nothing_else_changes() -> None:
    rule = DataSizeCap(unit="macs", low_margin=0, high_margin=0, step=None)
    facts = _facts(a=10, b=20)
    facts["a"]["macs_cap"] = 333.0
    found = with_caps(facts, rule, space=SPACE, sizes={"a": 10, "b": 20})
    assert {client: known["macs_cap"] for client, known in found.items()} == {"a": 333, "b": 1100}
    assert "macs_cap" not in facts["b"]  # the input was not written to
    assert with_caps(facts, None, space=SPACE, sizes={}) == facts


def _site(*overrides: str) -> Site:
    config = plan_run([*SMALL, *overrides, "run_dir=unused"]).config
    context: Any = SimpleNamespace(
        run_config={"config": config.to_yaml()}, node_config={"partition-id": 1}
    )
    return site_of(context, {"client": "1"})


def _told(site: Site) -> dict[str, Any]:
    return SubnetClient(site=site).facts()


def test_a_node_measures_only_where_the_configuration_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caps, "latency", lambda *_: 2.0)
    assert set(_told(_site())) == {"client", "num_examples"}
    site = _site("cap=speed")
    assert set(_told(site)) == {"client", "num_examples", "macs_per_s"}
    limited: Any = SimpleNamespace(**{**vars(site), "limits": Limits(macs_cap=9e5)})
    assert set(_told(limited)) == {"client", "num_examples", "macs_cap"}
    assert _told(limited)["macs_cap"] == 9e5


# --- what fits ----------------------------------------------------------------------------------------------


def test_limits_by_hand() -> None:
    # Architecture 400 takes 400 MACs and, in batches of 32, 40 MiB; of 64, 80 MiB.
    assert Limits().fit(SPACE, 400, batch_size=32)  # type: ignore[arg-type]
    for limits, fits in (
        (Limits(macs_cap=400), True),
        (Limits(macs_cap=399), False),
        (Limits(memory_budget_mib=40), True),
        (Limits(memory_budget_mib=39), False),
        (Limits(memory_budget_mib=39, macs_cap=400), False),
        (Limits(memory_budget_mib=40, macs_cap=399), False),
        (Limits(memory_budget_mib=40, macs_cap=400), True),
    ):
        assert limits.fit(SPACE, 400, batch_size=32) is fits  # type: ignore[arg-type]
        assert Limits.from_extra(limits.to_extra()) == limits
    assert not Limits(memory_budget_mib=40).fit(SPACE, 400, batch_size=64)  # type: ignore[arg-type]


def test_limits_are_read_out_of_facts() -> None:
    facts = {"a": {"memory_budget_mib": 5, "macs_cap": 7}, "b": {"macs_cap": 8.5}, "c": {}}
    assert limits_of(facts) == ClientLimits(budgets={"a": 5.0}, caps={"a": 7.0, "b": 8.5})


def test_a_federation_tells_what_fits_a_client() -> None:
    config = plan_run([*SMALL, "run_dir=unused"]).config
    space = build_space(config)
    smallest, largest = space.smallest(), space.largest()
    federation = federation_of(
        config,
        budgets={"1": space.costs(smallest, batch_size=config.batch_size).training_memory_mib},
        caps={"0": space.costs(smallest).macs, "1": 1e12},
    )
    found = {c: [federation.fits(c, a) for a in (smallest, largest)] for c in ("0", "1", "2")}
    assert found == {"0": [True, False], "1": [True, False], "2": [True, True]}
    assert federation.limits("0") == Limits(macs_cap=space.costs(smallest).macs)
    assert federation.limits("2").to_extra() == {}


def _short(limits: ClientLimits) -> list[Shortfall]:
    return shortfalls(limits, SPACE, batch_size=32)


def test_every_client_below_the_smallest_is_named_with_both_limits_at_once() -> None:
    limits = ClientLimits(budgets={"a": 9.94, "b": 10.0}, caps={"a": 99.0, "b": 100, "c": math.nan})
    with pytest.raises(RefusedError) as error:
        refuse_shortfalls(_short(limits), cap_remedy="Raise cap.low")
    assert str(error.value).splitlines() == [
        "memory_budget_mib='client a: 9.9': the smallest architecture needs 10.0 MiB to train. "
        "Raise the lower end of memory_budget_mib, or lower batch_size",
        "cap='client a: 99, client c: nan': the smallest architecture needs 100 "
        "multiply-accumulates for an image. Raise cap.low",
    ]
    with pytest.raises(RefusedError, match=r"max-macs='client a: 99'.*Raise max-macs in its --nod"):
        refuse_shortfalls(_short(ClientLimits(caps={"a": 99.0})))
    refuse_shortfalls(_short(ClientLimits(caps={"a": 100.0})))


# --- in a run -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_runs_caps_are_recorded_and_kept(tmp_path: Path) -> None:
    directory = run(
        tmp_path / "run", *FEW, "cap=data_size", "evaluation.return_models=true", "rounds=2"
    )
    facts = read_client_facts(directory.path)
    sizes = {client: known["num_examples"]["train"] for client, known in facts.items()}
    caps_ = {client: known["macs_cap"] for client, known in facts.items()}
    assert max(caps_, key=lambda c: caps_[c]) == max(sizes, key=lambda c: sizes[c])
    assert len(set(caps_.values())) > 1
    for client, entry in directory.summary()["per_client"].items():
        assert entry["macs_cap"] == caps_[client]
        assert entry["macs"] <= entry["macs_cap"]
    for row in directory.clients():
        assert row["macs"] <= caps_[row["client"]]
    finished = FinishedRun.open(directory.path, starts=["own"])
    assert dict(finished.federation.caps) == caps_


def test_new_clients_have_the_caps_that_all_clients_sizes_give() -> None:
    settings = [*SMALL, *FEW, "cap=data_size", "new_clients=2", "run_dir=unused"]
    plan = plan_run(settings)
    assert plan.partition is not None
    sizes = {c: len(splits.train) for c, splits in plan.partition.clients.items()}
    assert len(sizes) == 6
    alone = _rule("cap=data_size").caps(_facts(**sizes), space=plan.space, sizes=sizes)
    assert {c: f["macs_cap"] for c, f in plan.facts.items()} == {
        c: alone[c] for c in ("0", "1", "2", "3")
    }


def test_the_method_is_checked_with_the_caps_that_it_will_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Federation] = []
    monkeypatch.setattr(checks, "build_strategy", lambda _, federation: seen.append(federation))
    plan = plan_run([*SMALL, "cap=range", "run_dir=unused"])
    (federation,) = seen
    assert federation.caps == {client: known["macs_cap"] for client, known in plan.facts.items()}
    assert isinstance(federation.cap_rule, RangeCap)


def test_no_cap_is_the_default_and_of_older_runs() -> None:
    plan = plan_run([*SMALL, "run_dir=unused"])
    assert plan.config.cap == {}
    assert not any("macs_cap" in known for known in plan.facts.values())


def test_the_targets_of_older_run_directories_are_found() -> None:
    assert class_of("corolla.caps.RangeCap", "cap") is RangeCap


def test_the_report_shows_what_is_used_beside_the_cap(tmp_path: Path) -> None:
    rule = {"_target_": "corolla.limits.caps.SpeedCap", "latency_ms": 10.0, "batch_size": 1}
    with_cap = SyntheticRun(rounds=2, settings=(("cap", rule),)).write(tmp_path / "cap")
    path = with_cap / "summary.json"
    summary = json.loads(path.read_text())
    summary["per_client"]["0"] |= {"macs": 75_000_000, "macs_cap": 1e8}
    summary["per_client"]["1"] |= {"macs": 150_000_000, "macs_cap": 1e8}
    path.write_text(json.dumps(summary))
    loaded = load_run(with_cap)
    table = client_table(loaded, StripLayout(loaded.dimensions))
    assert table is not None
    cells = {str(row["client"].text): str(row["macs"].text) for row in table.rows}
    assert (cells["0"], cells["1"]) == ("75.0 of 100\u00a0M", "150 of 100\u00a0M: exceeded")
    assert "of" not in cells["2"]
    name = "caps on multiply-accumulates"
    assert dict(report_facts(loaded))[name] == "SpeedCap, latency_ms 10.0, batch_size 1"
    none = SyntheticRun(rounds=2, settings=(("cap", {}),)).write(tmp_path / "none")
    assert name not in dict(report_facts(load_run(none)))
