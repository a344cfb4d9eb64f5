"""The leaderboard's queue and arithmetic, in miniature."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import (
    feature_shift,
    leaderboard,
    leaderboard_family,
    leaderboard_summary,
    leaderboard_table,
)
from benchmarks.leaderboard_cells import ARMS, LARGE, TITLES, TRACKS, Arm, Tuned, overrides_of
from benchmarks.leaderboard_chart import chart
from benchmarks.leaderboard_rows import scores
from benchmarks.leaderboard_table import figures, mean_ranks, page, paired
from corolla.cli.main import main as cli
from corolla.config.build import build_space
from corolla.config.compose import compose_values
from corolla.config.schema import ImageConfig, parse_config
from corolla.config.unbuilt import check_unbuilt
from corolla.launch import plan_run, start
from corolla.records.run_directory import RunDirectory
from corolla.spaces.architecture import Architecture
from tests.strategies.test_reductions import weights_of


def row(deployed: float, fine_tuned: float = 50.0) -> dict[str, Any]:
    costs = {"bytes_down": 1e6, "bytes_up": 1e6, "samples": 10, "macs": 1e6, "memory_mib": 1.0}
    shared = {"worst_decile": 1.0, "fine_tuned": fine_tuned, "global": None, "validation": 1.0}
    return {"deployed": deployed, **shared, **costs}


RUNS = {
    "a": {
        "corolla": {"0": row(60.0), "1": row(64.0)},
        "fedavg": {"0": row(57.0), "1": row(59.0)},
        "local": {"0": row(50.0)},
    },
    "b": {"fedavg": {"0": row(40.0)}, "local": {"0": row(80.0)}},
}


@pytest.fixture(autouse=True)
def _ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our method takes part, whether it exists or not."""
    monkeypatch.setitem(ARMS, "corolla", Arm(("method=fedavg",)))


@pytest.fixture(autouse=True)
def _no_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        leaderboard_table, "read_figures", lambda _: {"oracle_gain_a": 0.5, "x": 1.0}
    )


def test_leads_are_over_the_best_other_arm_seed_by_seed() -> None:
    found = figures({"runs": RUNS})
    assert found["a_corolla_deployed"] == 62.0
    assert found["lead_deployed_a"] == 4.0  # 3 and 5 ahead of FedAvg
    assert found["lead_fine_tuned_a"] == 0.0
    assert not any(key.startswith("lead") and key.endswith("_b") for key in found)
    assert found["oracle_gain_a"] == 0.5
    assert "x" not in found


def test_the_closest_rival_is_found_on_the_seeds_that_both_have() -> None:
    arms = RUNS["a"] | {"scaffold": {"1": row(61.0)}}  # 3 behind, where FedAvg is 4 behind
    assert leaderboard_table.closest_rival(arms, "deployed") == "scaffold"
    found = figures({"runs": {"a": arms}})
    assert found["lead_deployed_a"] == 3.0


def test_searches_are_compared_with_their_own_controls() -> None:
    arms = {
        "corolla": {"0": row(60.0)},
        "corolla_by_lot": {"0": row(59.0)},  # no rival: a variant of ours
        "fedavg_of_corolla": {"0": row(59.5)},  # nor this
        "perfedrlnas": {"0": row(58.0)},
        "perfedrlnas_by_lot": {"0": row(50.0)},
    }
    without = {arm: arms[arm] for arm in arms if arm != "corolla_by_lot"}
    other = arms | {"corolla_by_lot": {"0": row(50.0)}}
    found = figures({"runs": {"a": arms, "b": other, "d": without}})
    assert (found["lead_over_lot_a"], found["lead_over_lot_b"]) == (1.0, 10.0)
    assert found["lead_over_lot"] == 5.5  # where there is a control
    assert found["perfedrlnas_over_lot_a"] == 8.0
    assert found["lead_deployed_a"] == 2.0
    assert found["lead_over_own_network_deployed_a"] == 0.5


def test_the_summary_names_the_best_other_method_and_is_put_between_its_marks(
    tmp_path: Path,
) -> None:
    arms = {
        "corolla": {"0": row(60.0), "1": row(62.0)},
        "corolla_by_lot": {"0": row(50.0), "1": row(52.0)},
        "fedavg": {"0": row(55.0), "1": row(57.0)},
        "local": {"0": row(40.0), "1": row(40.0)},
    }
    path = tmp_path / "page.md"
    mark = "<!-- leaderboard, written by benchmarks.leaderboard -->"
    path.write_text(f"before\n{mark}\nold\n<!-- end -->\nafter")
    leaderboard_summary.insert(path, leaderboard_summary.table({"runs": {"a": arms}}))
    first, _, _, _, found, _, last = path.read_text().splitlines()
    assert (first, last) == ("before", "after")
    cells = [cell.strip() for cell in found.split("|")][2:-1]
    assert cells[0] == "61.0"
    assert cells[1:3] == ["`fedavg` 56.0", "+5.0 ± 0.0"]
    assert cells[4:] == ["-", "+10.0 ± 0.0", "0, 1"]
    path.write_text("nothing")
    with pytest.raises(ValueError, match="no lines"):
        leaderboard_summary.insert(path, [])


def test_the_familys_page_has_what_clients_run_and_global_models_apart() -> None:
    pooled = {"pooled": {"global": {"accuracy": 33.0, "macs": 2e6}}}
    arms = {
        "fedrlnas": {"0": row(60.0) | pooled, "1": row(62.0) | pooled},
        "perfedrlnas": {"0": row(70.0)},
        "scaffold": {"0": row(80.0)},  # neither of the family nor a system of ours
    }
    runs = {"a": arms, "b": {"perfedrlnas": {"0": row(50.0)}}}  # where the family has not run
    lines = leaderboard_family.family({"runs": runs})
    text = "\n".join(lines)
    own, pooled_lines = text.split("Global models")
    assert "| perfedrlnas | 70.0 |" in own
    assert "| fedrlnas | 61.0 ± 1.4 |" in own
    assert own.index("| perfedrlnas") < own.index("| fedrlnas")
    assert "33.0" not in own
    assert "| fedrlnas | global | 33.0 ± 0.0 | 2.0 ± 0.0 |" in pooled_lines
    assert "scaffold" not in text
    assert "Track b" not in text


def test_the_lead_in_every_tier_is_the_smallest() -> None:
    def tiers(*values: float) -> dict[str, Any]:
        return row(50.0) | {"tiers": {"as_trained": dict(zip(("1/1", "1/4"), values, strict=True))}}

    arms = {
        "corolla": {"0": tiers(60.0, 50.0)},
        "fiarse": {"0": tiers(58.0, 40.0)},
        "heterofl": {"0": tiers(40.0, 49.0)},
        "perfedrlnas": {"0": tiers(99.0, 99.0)},  # not one of the methods for tiers
    }
    assert figures({"runs": {"c": arms}})["lead_every_tier_c"] == 1.0
    assert "| corolla | 60.0 | 50.0 |" in page({"runs": {"c": arms}})


def test_global_models_stand_in_a_table_of_their_own() -> None:
    tier = {"tier 1": {"accuracy": 61.0, "macs": 2e6}}
    arms = {"superfednas": {"0": row(50.0) | {"pooled": tier}}, "fedavg": {"0": row(50.0)}}
    assert "| superfednas | tier 1 | 61.0 | 2.0 |" in page({"runs": {"a": arms}})
    assert "Global models" not in page({"runs": {"a": {"fedavg": arms["fedavg"]}}})


def test_a_tuning_takes_the_best_trial_and_tracks_without_one_that_of_a() -> None:
    tried = {"0.01": 50.0, "0.03": 55.0, "0.1": 60.0, "0.1 method.mu=0.1": 61.0, "0.06": 62.0}
    equal = {"0.1": 1.0, "0.03": 0.5, "0.01": 1.0}
    tuned = Tuned({"tuning": {"a": {"fedprox": tried, "perfedrlnas": equal}}})
    assert tuned.best_step("a", "fedprox") == 0.1  # 0.06 is no first trial
    assert tuned.of("a", "fedprox") == (0.06, ())
    del tried["0.06"]
    assert tuned.of("b", "fedprox") == (0.1, ("method.mu=0.1",))
    assert tuned.of("a", "perfedrlnas_by_lot") == (0.01, ())  # its search's; of equals the smaller
    assert tuned.of("a", "fedavg") == (None, ())
    assert tuned.best_step("b", "fedprox") is None
    del equal["0.03"]
    assert tuned.of("a", "perfedrlnas") == (None, ())  # the steps are not all tried yet


def test_the_interval_by_hand() -> None:
    # differences 3 and 5: sd sqrt(2), error 1, t(0.975, 1) = 12.706
    mine, theirs = RUNS["a"]["corolla"], RUNS["a"]["fedavg"]
    lead = paired(mine, theirs, "deployed")
    assert lead == (4.0, pytest.approx(12.706, abs=1e-3))
    assert paired(mine, RUNS["a"]["local"], "deployed") == (10.0, None)
    assert paired(mine, {}, "deployed") is None


def test_ranks_are_means_over_tracks() -> None:
    """By the seeds that all have, equals share a rank, variants of ours have none."""
    found = mean_ranks(RUNS)
    assert found == {"corolla": (1.0, 1), "fedavg": (2.0, 2), "local": (2.0, 2)}
    assert list(found)[-1] == "corolla"  # on fewer tracks
    arms = RUNS["a"] | {"knn_per": {"0": row(57.0)}, "corolla_by_lot": {"1": row(99.0)}}
    ranks = mean_ranks({"a": arms})
    assert ranks == {"corolla": (1, 1), "fedavg": (2.5, 1), "knn_per": (2.5, 1), "local": (4, 1)}


def test_the_page_shows_every_track_and_the_commands() -> None:
    mu = "0.1 method.server_momentum=0.5"
    fedavg = {seed: row | {"tuned": mu} for seed, row in RUNS["a"]["fedavg"].items()}
    text = page({"runs": RUNS | {"a": RUNS["a"] | {"fedavg": fedavg}}})
    assert "| corolla | 62.0 ± 2.8 | best | 1.0 ± 0.0 | 50.0 ± 0.0 | best |" in text
    assert "| fedavg | 58.0 ± 1.4 | 4.0 ± 12.7 |" in text
    assert "| 0.1, server_momentum=0.5 | 0, 1 |" in text
    assert text.count("Not run yet.") == 4
    given = "method=fedavg trainer.lr=0.1 trainer.lr_min=0.01 method.server_momentum=0.5"
    assert f"{given} dataset.root=PATH" in text


def test_the_picture_has_every_arm_on_every_track() -> None:
    picture = ElementTree.fromstring(chart(RUNS, TITLES, own="corolla"))
    texts = [one.text for one in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if text in ("corolla", "fedavg", "local")] == [
        *("corolla", "fedavg", "local"),  # best first
        *("local", "fedavg"),
    ]
    dots = [float(one.get("cx", 0)) for one in picture.iter("{http://www.w3.org/2000/svg}circle")]
    assert dots[:2] == [190 + 4 * 62.0, 190 + 4 * 50.0]  # corolla on a: deployed, fine-tuned
    assert len(dots) == 10


@pytest.mark.parametrize("arm", list(ARMS))
def test_every_arm_composes_on_its_tracks(arm: str) -> None:
    key, tried = ARMS[arm].grid or ("method.name", ())
    assert len(tried) <= 2  # as many as others try step sizes
    assert set(ARMS[arm].tracks) <= set(TRACKS)
    for track in "abcde" if arm == "fedavg" else ARMS[arm].tracks[-1]:
        given = [*overrides_of(track, arm, lr=0.1, large=True), "dataset.root=unused"]
        values = compose_values([*given, *(f"{key}={value}" for value in tried[:1])])
        config, faults = parse_config(values)
        assert config is not None, faults
        check_unbuilt(config)  # every key is known, every value in its range
        assert values["rounds"] == 400
        clients = config.clients + config.new_clients
        assert (clients, values["trainer"]["lr"]) == (6 if track == "f" else 100, 0.1)


def test_tiers_are_the_same_for_all_who_keep_to_them() -> None:
    """Of the same largest network; the thin copies below a tier are the largest that fit it."""
    largest: dict[tuple[str, bool], int] = {}
    for arm in ("perfedrlnas", "heterofl"):  # one of each space
        for large in (False, True):
            values = compose_values([*overrides_of("c", arm, large=large), "dataset.root=unused"])
            config, _ = parse_config(values)
            assert config is not None
            images = ImageConfig(name="x", classes=list("abcdefghij"), channels=3)
            space = build_space(config.model_copy(update={"images": images}))
            largest[arm, large] = space.costs(space.largest()).macs
            share = space.costs(space.smallest()).macs / largest[arm, large]
            assert 0.005 < share <= 1 / 64
            if arm == "heterofl" and not large:
                every = [space.costs(Architecture((i,))).macs / 9210368 for i in range(4)]
                for share, tier in zip(every, (1 / 64, 1 / 16, 1 / 4, 1), strict=True):
                    assert 0.8 * tier < share <= tier
    assert {macs for (_, large), macs in largest.items() if not large} == {9210368}
    assert len({macs for (_, large), macs in largest.items() if large}) == 1
    assert set(LARGE) == {arm.space for arm in ARMS.values()}
    tiered = [arm for arm in ARMS.values() if "c" in arm.tracks]
    assert {arm.space for arm in tiered} == {"elastic_cnn_64", "elastic_cnn_width"}


def test_recorded_cells_are_not_run_again_but_for_the_folder_that_a_control_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*arms: str) -> list[str]:
        options = argparse.Namespace(rounds=None, large=False)
        cells = [leaderboard.Cell("a", arm, 0, overrides_of("a", arm)) for arm in arms]
        return [cell.name for cell in leaderboard._missing(cells, options)]

    arm = "perfedrlnas"
    kept = {"settings": leaderboard.Cell("a", arm, 0, overrides_of("a", arm)).settings}
    raw = {"runs": {"a": {arm: {"0": kept}}}}
    monkeypatch.setattr(leaderboard, "read_raw", lambda _: raw)
    assert missing(arm, "local") == ["a-local-s0"]
    assert missing(arm, f"{arm}_by_lot") == [f"a-{arm}-s0", f"a-{arm}_by_lot-s0"]
    kept["settings"] = "of before"
    assert missing(arm) == [f"a-{arm}-s0"]


FEW = ("clients=4", "partition.images_per_client=8", "partition.alpha=100")


def test_groups_of_clients_see_their_images_changed(pictures: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / "target.partial" / "000").mkdir(parents=True)  # left by one that was killed
    feature_shift.write(pictures, target, seed=0, overrides=FEW)
    seen = {path.name: sorted(path.rglob("*.png")) for path in sorted(target.iterdir())}
    assert [len(files) for files in seen.values()] == [8] * 4
    for client, files in seen.items():
        for file in files:
            place = int(file.stem)  # the pool is the first class, then the second
            origin = pictures / "train" / file.parent.name / f"{place % 20:02d}.png"
            before, after = (np.asarray(Image.open(path)) for path in (origin, file))
            if client == "000":
                assert np.array_equal(after, np.rot90(before))
            elif client == "002":
                assert np.array_equal(after[..., 0], after[..., 1])
            elif client == "003":
                assert np.array_equal(after[::2, ::2], after[1::2, 1::2])
            assert not np.array_equal(after, before)


@pytest.mark.slow
@pytest.mark.parametrize("track", list("abcd"))
def test_every_track_runs(track: str, pictures: Path, tmp_path: Path) -> None:
    root = pictures
    if track == "d":
        root = tmp_path / "shifted"
        feature_shift.write(pictures, root, seed=0, overrides=FEW)
    few = FEW if track in "ac" else ("clients=4",)
    arm = "perfedrlnas" if track == "c" else "fedavg"
    rounds = 3 if track == "c" else 1  # a policy settles for most of its rounds
    short = (
        f"rounds={rounds}",
        "clients_per_round=2",
        "local_epochs=1",
        "evaluation.fine_tune_epochs=1",
    )
    files = (f"dataset.root={root}", f"run_dir={tmp_path / 'run'}", "engine=inline", "report=false")
    run = start(plan_run([*overrides_of(track, arm), *few, *short, *files]))
    row = scores(run)
    assert 0 <= row["deployed"] <= 100
    assert row["macs"] > 0
    if track == "c":
        own = run.summary()["per_client"].values()
        largest = max(entry["macs_cap"] for entry in own)
        assert sorted(entry["macs_cap"] / largest for entry in own) == [1 / 64, 1 / 16, 1 / 4, 1]
        assert all(entry["macs"] <= entry["macs_cap"] for entry in own)
        assert list(row["tiers"]["as_trained"]) == ["1/1", "1/4", "1/16", "1/64"]
        accuracies = run.summary()["as_trained"]["test_accuracy"]["per_client"]
        in_tiers = 100 * np.array([accuracies[c] for c in run.summary()["per_client"]])
        np.testing.assert_allclose(sorted(row["tiers"]["as_trained"].values()), sorted(in_tiers))


SHORT = (
    "clients=4",
    "clients_per_round=2",
    "local_epochs=1",
    "evaluation.fine_tune_epochs=1",
    "partition.images_per_client=8",
    "partition.alpha=100",
)


class InThisProcess:
    """Stands in for the process of a run: torch is imported already."""

    def __init__(self, command: list[str]) -> None:
        self.returncode = cli(command[3:])

    def poll(self) -> int:
        return self.returncode


@pytest.mark.slow
def test_new_clients_and_controls_are_cells_of_two_runs(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every way to serve new clients; a control, named before its search, waits for it."""
    made = leaderboard.overrides_of
    few = (*SHORT, "clients_per_round=1", "new_clients=1")
    monkeypatch.setattr(leaderboard, "overrides_of", lambda *a, **k: (*made(*a, **k), *few))
    alone = ("clients=5", "new_clients=0")
    monkeypatch.setattr(leaderboard, "trained_by", lambda arm: alone if arm == "local" else ())
    monkeypatch.setattr(leaderboard, "_started", lambda _, command, __: InThisProcess(command))
    monkeypatch.setattr(leaderboard, "_STAGE_ROUNDS", 1)
    arms = "perfedrlnas_by_lot,perfedrlnas,ditto,local"
    arguments = ["--root", str(pictures), "--work", str(tmp_path / "work"), "--rounds", "3"]
    leaderboard.main([*arguments, "--tracks", "e", "--arms", arms, "--seeds", "0"])
    said = capsys.readouterr().out
    assert said.count(": deployed ") == 4, said
    work = tmp_path / "work" / "trial-3"
    run = RunDirectory.open(work / "e-local-s0")
    own = run.summary()["as_trained"]["test_accuracy"]["per_client"]
    assert scores(run, new_only=True)["deployed"] == 100 * own["4"]
    stage = RunDirectory.open(work / "e-ditto-s0")
    trained = RunDirectory.open(work / "e-ditto-s0-train")
    assert list(stage.summary()["per_client"]) == ["4"]
    shared, deployed = weights_of(trained, "strategy/model/"), stage.client_model("4")[1]
    (stem, *_) = (name for name in shared if name.endswith("conv.weight"))
    assert np.array_equal(shared[stem], deployed[stem])  # not of a model that never trained
    searched, lot = (
        RunDirectory.open(work / f"e-{arm}-s0").summary()["per_client"]["4"]["macs"]
        for arm in ("perfedrlnas", "perfedrlnas_by_lot")
    )
    assert lot == pytest.approx(searched, rel=0.06)  # sizes of new clients, not of old ones
    row = scores(stage, trained=trained, new_only=True)
    assert row["samples"] >= trained.summary()["costs"]["samples_processed"]
    assert row["client_state_bytes"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_larger_version_runs_on_a_gpu(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = leaderboard.overrides_of
    monkeypatch.setattr(leaderboard, "overrides_of", lambda *a, **k: (*made(*a, **k), *SHORT))
    arguments = ["--root", str(pictures), "--work", str(tmp_path / "work"), "--rounds", "2"]
    arms = "fedavg,perfedrlnas,heterofl,fiarse"
    leaderboard.main([*arguments, "--large", "--tracks", "a,c", "--arms", arms, "--seeds", "0"])
    assert capsys.readouterr().out.count(": deployed ") == 5


def test_the_queue_runs_cells_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[str] = []

    class Finished:
        returncode = 0

        def __init__(self, command: list[str], **_: Any) -> None:
            started.append(command[3])
            folder = next(text for text in command if text.startswith("run_dir=")).split("=")[1]
            Path(folder).mkdir()
            (Path(folder) / "summary.json").write_text("{}")

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(leaderboard, "subprocess", SimpleNamespace(Popen=Finished))
    monkeypatch.setattr(leaderboard.RunDirectory, "open", lambda path: path)
    monkeypatch.setattr(leaderboard, "scores", lambda run, **_: row(60.0))
    arguments = ["--root", str(tmp_path), "--work", str(tmp_path / "work"), "--rounds", "1"]
    arguments += ["--tracks", "a", "--arms", "fedavg,local", "--seeds", "0"]
    leaderboard.main(arguments)
    assert started == ["run", "run"]
    leaderboard.main(arguments)
    assert started == ["run", "run"]  # nothing is left to do
    made = leaderboard.overrides_of  # other settings: another run, and the old folder is kept
    monkeypatch.setattr(
        leaderboard, "overrides_of", lambda *a, **k: (*made(*a, **k), "batch_size=8")
    )
    leaderboard.main(arguments)
    assert started == ["run"] * 4
    assert len(list((tmp_path / "work" / "trial-1").glob("*.before-*"))) == 2
    arguments[5] = "2"  # other rounds: folders of their own
    leaderboard.main(arguments)
    assert len(list((tmp_path / "work" / "trial-2").glob("*-s0"))) == 2
    assert capsys.readouterr().out.count("deployed 60.0") == 8
