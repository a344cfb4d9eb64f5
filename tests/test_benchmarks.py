"""Every space of the configuration is counted; tables of runs hold what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from benchmarks import collect_runs, supernet_quality
from benchmarks.collect_runs import _SHOWN
from benchmarks.finished_runs import add_leads, deployed, diagnostics
from benchmarks.import_cost import by_package
from benchmarks.method_costs import with_table
from benchmarks.orders import add_correlations, table, tau_of_pairs
from benchmarks.over_seeds import compare
from benchmarks.recording import RESULTS
from benchmarks.space_sizes import space_named
from benchmarks.supernet_quality import add_losses, add_params
from corolla.config.groups import methods
from corolla.records.json_files import read_json
from corolla.records.run_directory import RunDirectory
from tests.conftest import CONF, quick

SPACES = sorted(path.stem for path in (CONF / "space").glob("*.yaml"))


@pytest.mark.parametrize("name", quick(SPACES, "mobilenetv3_8", "nasvit", "darts_small"))
def test_every_space_is_counted(name: str) -> None:
    space = space_named(name, 3)
    assert space.name == name
    assert space.num_classes == 10
    assert space.known_macs(space.smallest()) > 0


def test_imports_are_counted_for_the_package_that_they_are_of() -> None:
    told = """import time: self [us] | cumulative | imported package
import time:   1000 |    1000 |     torch._C
import time:   2000 |    3000 |   torch
import time:    500 |    3500 | clients.client_app
import time:    250 |     250 | json.decoder
"""
    assert by_package(told) == {"torch": 0.003, "corolla": 0.0005, "others": 0.00025}


def _run(
    arm: str, seed: int, deployed: float | None, tuned: float | None, epochs: int = 5
) -> dict[str, Any]:
    found: dict[str, Any] = {"method": arm, "seed": seed}
    found["deployed"] = None if deployed is None else {"round": 9, "mean": deployed}
    if tuned is not None:
        found["fine_tuned"] = {"epochs": epochs, "test_accuracy": {"mean": tuned}}
    # As runs have it: the headline of "a" is its fine-tuned model, that of the others is not.
    return found | {"test_accuracy": {"mean": tuned if arm == "a" else deployed}}


def test_leads_are_taken_seed_by_seed_and_like_with_like() -> None:
    # Seed 1 is easier by 0.4 for both: the lead is steady although the accuracies are not.
    runs = [
        _run("a", 0, 0.30, 0.50),
        _run("a", 1, 0.70, 0.90),
        _run("b", 1, 0.72, 0.86),
        _run("b", 0, 0.31, 0.48),
        _run("b", 2, 0.90, 0.95),  # a seed that the reference has no run of
        _run("c", 0, 0.25, None),
        _run("d", 0, None, 0.60),
        _run("e", 0, 0.35, 0.70, epochs=10),  # fine-tuned for longer than the reference
    ]
    add_leads(runs, "a")
    assert all("lead" not in run for run in runs[:2])
    assert runs[4]["lead"] == {}
    assert runs[5]["lead"] == {"deployed": pytest.approx(-0.05)}
    assert runs[6]["lead"] == {"fine_tuned": pytest.approx(0.1)}
    assert runs[7]["lead"] == {"deployed": pytest.approx(0.05)}
    row = compare(runs, by=("method",))[1]
    deployed, tuned = row.figures["lead/deployed"], row.figures["lead/fine_tuned"]
    assert deployed.mean == pytest.approx(0.015)
    assert deployed.runs == 2
    assert deployed.sd == pytest.approx(0.01 / 2**0.5)
    assert tuned.mean == pytest.approx(-0.03)
    assert tuned.runs == 2
    assert tuned.sd == pytest.approx(0.02 / 2**0.5)
    with pytest.raises(SystemExit, match="f: not among the arms"):
        add_leads(runs, "f")


def _spread(mean: float) -> dict[str, float]:
    return {"mean": mean, "std": 0.1, "worst_decile": mean - 0.1}


def test_deployed_is_the_last_evaluation_and_no_local_epoch() -> None:
    evaluations = [
        {"personalised": {"test_accuracy": _spread(m)}, "clients": 8} for m in (0.3, 0.4)
    ]
    metrics: list[dict[str, Any]] = [
        {"round": 1, "test_accuracy": 0.8, "evaluation": evaluations[0]},
        {"round": 2, "test_accuracy": 0.9, "evaluation": evaluations[1]},
        {"round": 3, "test_accuracy": 0.7},  # of the participants' trained models
        {"round": 4, "test_accuracy": 0.6, "evaluation": {}},  # nobody answered
    ]
    headline = {**_spread(0.5), "per_client": {"0": 0.5}}
    summary = {"rounds": 4, "clients": 7, "test_accuracy": headline}
    assert deployed(summary, metrics) == {"round": 2, "clients": 8, **_spread(0.4)}
    # No evaluation between rounds: the headline, unless that is the fine-tuned model's.
    assert deployed(summary, []) == {"round": 4, "clients": 7, **_spread(0.5)}
    other = {"epochs": 5, "test_accuracy": _spread(0.6)}
    assert deployed(summary | {"fine_tuned": other}, []) is not None
    assert deployed(summary | {"fine_tuned": {"epochs": 5, "test_accuracy": headline}}, []) is None


def test_diagnostics_are_the_last_of_each_and_means_over_clients() -> None:
    metrics: list[dict[str, Any]] = [
        {"round": 1, "teacher_accuracy": 0.1, "supernet_accuracy_largest": 0.2},
        {"round": 2, "teacher_accuracy": 0.3, "supernet_accuracy_largest": None},
        {"round": 3, "predictor_kendall": 0.9},  # of those who searched in this round
    ]
    clients = {
        "0": {"predictor_kendall": 0.2, "front_kendall": -0.5},
        "1": {"predictor_kendall": 0.6, "front_kendall": None},
        "2": {},
    }
    assert diagnostics({"per_client": clients}, metrics) == {
        "teacher_accuracy": {"value": 0.3, "round": 2},
        "supernet_accuracy_largest": {"value": 0.2, "round": 1},
        "predictor_kendall": {"value": pytest.approx(0.4), "clients": 2},
        "front_kendall": {"value": -0.5, "clients": 1},
    }


def _write_run(
    folder: Path, *, seed: int, deployed: float, tuned: float | None, teacher: bool
) -> str:
    settings = dict.fromkeys(_SHOWN, 1) | {"method": {"name": "m", "mu": 1}}
    run = RunDirectory.create(folder, config_yaml=yaml.safe_dump(settings), environment={})
    evaluation = {"personalised": {"test_accuracy": _spread(deployed)}, "clients": 1}
    line = {"round": 1, "test_accuracy": 0.99, "evaluation": evaluation}
    run.append_round(line | ({"teacher_accuracy": 0.25} if teacher else {}))
    headline = {**_spread(deployed if tuned is None else tuned), "per_client": {"0": 0.5}}
    summary = {
        **{"method": "m", "space": "s", "dataset": "d", "seed": seed, "rounds": 1, "clients": 1},
        **{"test_accuracy": headline, "val_accuracy": headline},
        "best": {"round": 1, "test_accuracy": headline},
        "costs": {"bytes_down": 2e6, "bytes_up": 1e6, "wall_s": 60.0 + seed, "evaluation_s": 2.0},
        "per_client": {"0": {"choices": [0, 1], "macs": 1_500_000}},
        "beyond_limits": seed,
    }
    if tuned is not None:
        summary["fine_tuned"] = {"epochs": 5, "test_accuracy": headline}
    run.write_summary(summary)
    return str(folder)


def test_collected_runs_show_deployed_and_fine_tuned_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        "ours=" + _write_run(tmp_path / "o0", seed=0, deployed=0.3, tuned=0.6, teacher=True),
        "ours=" + _write_run(tmp_path / "o1", seed=1, deployed=0.4, tuned=0.8, teacher=True),
        "local=" + _write_run(tmp_path / "l0", seed=0, deployed=0.5, tuned=None, teacher=False),
        "local=" + _write_run(tmp_path / "l1", seed=1, deployed=0.5, tuned=0.6, teacher=False),
    ]
    monkeypatch.setattr("benchmarks.recording.RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["collect_runs", "table", *runs, "--reference", "ours"])
    collect_runs.main()
    rows = [line.replace(" ± ", "+") for line in capsys.readouterr().out.split("\n")]
    accuracies = [line.strip("| ").split(" | ") for line in rows[2:4]]
    # method, seeds, deployed, its lead, fine-tuned, its lead, the headline, chosen, global
    ours = ["35.0+7.1", "-", "70.0+14.1", "-", "70.0+14.1", "70.0+14.1", "-"]
    assert accuracies[0] == ["ours", "0, 1", *ours]
    lead, tuned = "15.0+7.1", ["60.0 (1 of 2)", "-20.0 (1 of 2)"]
    assert accuracies[1] == ["local", "0, 1", "50.0+0.0", lead, *tuned, *["55.0+7.1"] * 2, "-"]
    assert rows[7].endswith("| 3 | 1.5 | 0.5+0.7 | 60+1 | 2+0 | - |")  # MB, MMACs, limits, seconds
    assert rows[10].startswith("| method | teacher accuracy |")
    assert rows[12].startswith("| ours | 25.0+0.0 |")
    assert not rows[13]  # no line of "local", which has no diagnostics
    found = read_json(tmp_path / "table.json")
    figures, raw = found["figures"], found["raw"]
    assert figures["local_deployed_less_ours"] == pytest.approx(0.15)
    assert figures["local_fine-tuning_less_ours"] == pytest.approx(-0.2)
    assert figures["ours_personalised"] == pytest.approx(0.7)  # older results have this name
    assert "ours_deployed_less_ours" not in figures
    assert raw["arms"]["ours"]["wall s"] == {"mean": 60.5, "sd": pytest.approx(0.5**0.5), "runs": 2}
    assert raw["methods"] == {key: {"name": "m", "mu": 1} for key in ("ours", "local")}
    assert [run["fine_tuned"] is None for run in raw["runs"]] == [False, False, True, False]
    assert raw["runs"][0]["deployed"] == {"round": 1, "clients": 1, **_spread(0.3)}
    assert raw["runs"][0]["diagnostics"] == {"teacher_accuracy": {"value": 0.25, "round": 1}}


def test_costs_alone_are_ranked_beside_the_supernets() -> None:
    # Alone: better with cost but for the last, 5 of 6 pairs: tau 4/6. The supernet swaps the first two
    # and agrees otherwise with the accuracies (5 of 6); with the costs it has 4 of 6 pairs.
    rows = [
        {"macs": 100, "params": 7, "alone": 0.5},
        {"macs": 119, "params": 7, "alone": 0.6},
        {"macs": 143, "params": 8, "alone": 0.8},
        {"macs": 200, "params": 9, "alone": 0.7},
    ]
    raw = {"architectures": rows, "supernets": {"n": [{"seed": 0, "losses": [3.0, 4.0, 1.0, 2.0]}]}}
    figures = add_correlations(raw)
    assert figures["kendall_by_macs"] == pytest.approx(4 / 6)
    assert figures["kendall_by_params"] == pytest.approx(3 / (5 * 6) ** 0.5)  # tau-b: one tie
    assert figures["spearman_by_macs"] == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert figures["kendall_n"] == pytest.approx(4 / 6)
    assert figures["kendall_with_macs_n"] == pytest.approx(2 / 6)
    # (2/3 - 1/3 * 2/3) / sqrt((1 - 1/9) * (1 - 4/9)) = (4/9) / (sqrt(40) / 9)
    assert figures["kendall_given_macs_n"] == pytest.approx(4 / 40**0.5)
    # 119/100 and no other is below 1.2 (143/119 = 1.2017): too few for a tau of their own
    assert raw["alike"] == {"larger_over_smaller_below": 1.2, "pairs": 1, "enough": False}
    assert "kendall_alike_n" not in figures
    assert "| macs alone | - | 0.67 | 0.67 | 0.80 | - |" in table(raw)
    assert "| n | 0 | 0.67 | 0.67 | 0.80 | 0.63 |" in table(raw)
    assert table(raw).endswith(
        "like cost (larger below 1.2 x smaller): 1; no tau over fewer than 5"
    )


def test_order_among_architectures_of_like_cost() -> None:
    # Two groups of like cost, of three: six pairs. The supernet knows the groups only by their cost.
    macs, alone = [100, 101, 102, 200, 201, 202], [0.1, 0.2, 0.3, 0.6, 0.5, 0.4]
    supernet: dict[str, Any] = {"seed": 0, "losses": [9.0, 8.0, 7.0, 3.0, 2.0, 1.0]}
    rows = [{"macs": m, "alone": a} for m, a in zip(macs, alone, strict=True)]
    raw = {"architectures": rows, "supernets": {"n": [supernet]}}
    figures = add_correlations(raw)
    assert figures["kendall_n"] == pytest.approx((12 - 3) / 15)
    assert figures["kendall_alike_n"] == 0.0  # three right, three wrong
    assert "kendall_given_macs_n" not in figures  # the supernet's order is that of the costs
    assert "  n: tau over them 0.00" in table(raw)
    assert tau_of_pairs([1, 2, 3], [5, 6, 6], [(0, 1), (1, 2)]) == 0.5  # a tie counts as neither
    supernet["losses"] = [1.0] * 6
    with pytest.raises(SystemExit, match="n, seed 0: all numbers are equal"):
        add_correlations(raw)


def test_supernets_of_new_runs_take_the_place_of_those_of_their_seed() -> None:
    class Run:
        def __init__(self, seed: int, loss: float) -> None:
            self.config = SimpleNamespace(seed=seed, method=SimpleNamespace(name="hapfnas"))
            self._loss = loss

        def losses(self, architectures: list[Any]) -> list[float]:
            return [self._loss + architecture.choices[0] for architecture in architectures]

    raw: dict[str, Any] = {
        "architectures": [{"choices": [0]}, {"choices": [2]}],
        "supernets": {"hapfnas": [{"seed": 0, "losses": [9.0, 9.0]}, {"seed": 1, "losses": [8.0]}]},
    }
    runs: Any = [("", Run(0, 1.0)), ("other", Run(3, 5.0))]
    add_losses(raw, runs)
    assert raw["supernets"] == {
        "hapfnas": [{"seed": 0, "losses": [1.0, 3.0]}, {"seed": 1, "losses": [8.0]}],
        "other": [{"seed": 3, "losses": [5.0, 7.0]}],
    }


def test_the_committed_correlations_are_those_of_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = RESULTS / "supernet_quality.json"
    copy = tmp_path / committed.name
    measured = read_json(committed)
    before = measured["figures"]
    del measured["figures"]
    for row in measured["raw"]["architectures"]:
        del row["params"]
    copy.write_text(json.dumps(measured))
    monkeypatch.setattr("benchmarks.supernet_quality.RESULTS", tmp_path)
    command = ["supernet_quality", "--again", "--space"]
    monkeypatch.setattr("sys.argv", [*command, "mobilenetv2_8"])
    with pytest.raises(SystemExit, match="--space mobilenetv2_8: "):
        supernet_quality.main()
    monkeypatch.setattr("sys.argv", [*command, "mobilenetv2_small"])
    supernet_quality.main()
    again = read_json(copy)
    assert again["figures"] == pytest.approx(before)
    assert again["environment"] == measured["environment"]  # of the measurement
    # By hand: of 28 pairs the costs have (4, 5), (4, 7), (6, 7) and (6, 8) the wrong way round.
    assert again["figures"]["kendall_by_macs"] == pytest.approx((24 - 4) / 28)
    small = space_named("mobilenetv2_small")
    other = {"architectures": [{"choices": small.smallest().to_list(), "macs": 490_625}]}
    with pytest.raises(SystemExit, match=r"490624 MACs for \[0, .* the file has 490625"):
        add_params(other, small)
    monkeypatch.setattr("sys.argv", ["supernet_quality"])
    with pytest.raises(SystemExit, match="2"):
        supernet_quality.main()


def test_the_page_of_baselines_shows_the_committed_costs() -> None:
    raw = json.loads((RESULTS / "method_costs.json").read_text())["raw"]
    page = (RESULTS.parents[1] / "docs" / "baselines.md").read_text()
    assert with_table(page, raw) == page
    assert set(raw) == set(methods())
