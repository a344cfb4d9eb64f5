"""Several runs on one page: who is grouped with whom, and means over seeds by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from corolla.cli import main
from corolla.records.seals import sealed_config
from corolla.records.sweep import Job, Sweep
from corolla.report import write_report
from corolla.report.groups import grouped
from corolla.report.load import load_run
from corolla.report.measures import MEASURES, in_words, over_seeds
from tests.report.page_parser import read
from tests.report.synthetic_run import SyntheticRun


def finished(directory: Path, mean: float, seed: int, **config: object) -> Path:
    """Write a run that is nothing but its result."""
    directory.mkdir(parents=True)
    result = {"method": "m", "space": "s", "dataset": "d", "seed": seed, "rounds": 3}
    spread = {"mean": mean, "std": 0.1, "worst_decile": mean - 0.2}
    costs = {"bytes_down": 2**20, "bytes_up": 2**20, "client_s": 60.0 + seed}
    summary = {**result, "test_accuracy": spread, "costs": costs}
    (directory / "summary.json").write_text(json.dumps(summary))
    (directory / "config.yaml").write_text(sealed_config(yaml.safe_dump({**config, "seed": seed})))
    return directory


def test_means_and_deviations_over_seeds_by_hand(tmp_path: Path) -> None:
    runs = [finished(tmp_path / f"{i}", m, i) for i, m in enumerate((0.70, 0.74, 0.78))]
    ((group,), to_know) = grouped([load_run(run) for run in runs])
    assert (group.label, group.seeds, to_know) == ("m", "0, 1, 2", [])
    words = {m.key: in_words(m, over_seeds(group, m)) for m in MEASURES}
    # Mean 74; squared distances 16 + 0 + 16, over n - 1 = 2: sd 4. Client time 60, 61, 62: sd 1.
    assert words["last"] == "74.0\u00a0±\u00a04.0"
    assert words["worst"] == "54.0\u00a0±\u00a04.0"
    assert words["bytes"] == "2.00\u00a0MiB\u00a0±\u00a00"
    assert words["client_s"] == "1\u00a0min 01\u00a0s\u00a0±\u00a01\u00a0s"
    assert words["fine_tuned"] == "\u2013"


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    ((group,), _) = grouped([load_run(finished(tmp_path / "one", 0.5, 0))])
    assert in_words(MEASURES[0], over_seeds(group, MEASURES[0])) == "50.0"


def test_runs_with_other_settings_are_not_averaged(tmp_path: Path) -> None:
    paths = [
        finished(tmp_path / "a", 0.5, 0, local_epochs=1, run_dir="x/a", engine={"name": "ray"}),
        finished(tmp_path / "b", 0.6, 1, local_epochs=1, run_dir="x/b", engine={"name": "inline"}),
        finished(tmp_path / "c", 0.7, 0, local_epochs=5, run_dir="x/c", engine={"name": "ray"}),
    ]
    groups, to_know = grouped([load_run(path) for path in paths])
    assert to_know == [
        "Runs of one method are separate groups where these settings differ: local_epochs."
    ]
    assert [(g.label, len(g.runs)) for g in groups] == [
        ("m · local_epochs 1", 2),
        ("m · local_epochs 5", 1),
    ]


def _with(path: Path, **summary: object) -> Path:
    known = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps({**known, **summary}))
    return path


def test_models_of_one_kind_stand_in_one_column(tmp_path: Path) -> None:
    before, after = {"mean": 0.2, "std": 0.1, "worst_decile": 0.1}, {"mean": 0.545, "std": 0.1}
    tuned = _with(
        finished(tmp_path / "tuned", 0.5, 0),
        method="fedavg",
        test_accuracy=after,
        as_trained={"test_accuracy": before},
        fine_tuned={"epochs": 3, "test_accuracy": after},
    )
    plain = _with(
        finished(tmp_path / "plain", 0.167, 0),
        method="perfedrlnas",
        fine_tuned={"epochs": 3, "test_accuracy": {"mean": 0.6}},
    )
    groups, _ = grouped([load_run(path) for path in (tuned, plain)])
    found = {m.key: [in_words(m, over_seeds(g, m)) for g in groups] for m in MEASURES}
    assert found["last"] == ["20.0", "16.7"]
    assert found["fine_tuned"] == ["54.5", "60.0"]


def test_what_else_differs_is_told(tmp_path: Path) -> None:
    """Of two methods: what both could have. Seeds that follow the run's are no difference."""
    alike = {"server_set": {"seed": 0}}
    a = finished(tmp_path / "a", 0.5, 0, rounds=20, partition={"alpha": 0.1}, **alike)
    b = finished(tmp_path / "b", 0.5, 0, rounds=40, partition={"alpha": 0.3}, **alike)
    c = finished(
        tmp_path / "c", 0.5, 1, rounds=40, partition={"alpha": 0.3}, server_set={"seed": 1}
    )
    _with(a, method="other")
    groups, to_know = grouped([load_run(path) for path in (a, b, c)])
    assert [(g.label, g.seeds) for g in groups] == [("m", "0, 1"), ("other", "0")]
    assert to_know == [
        "The groups were not run with the same partition.alpha: 0.3 (m); 0.1 (other).",
        "The groups were not run with the same rounds: 40 (m); 20 (other).",
    ]
    d = finished(tmp_path / "d", 0.5, 1, rounds=40, partition={"alpha": 0.3}, **alike)
    groups, _ = grouped([load_run(path) for path in (b, d)])  # both hold out the images of seed 0
    assert len(groups) == 1
    _, to_know = grouped([load_run(path) for path in (b, c, d)])
    assert (
        to_know[0]
        == "Runs of one method are separate groups where these settings differ: server_set.seed."
    )
    _, to_know = grouped([load_run(path) for path in (b, b)])
    assert to_know == ["m has several runs of seed 0; every one of them counts in its means."]


def test_folders_of_images_are_told_apart(tmp_path: Path) -> None:
    roots = [{"root": f"/images/{name}"} for name in ("one", "two")]
    paths = [finished(tmp_path / f"{i}", 0.5, i, dataset=root) for i, root in enumerate(roots)]
    groups, _ = grouped([load_run(path) for path in paths])
    assert [g.label for g in groups] == ["m · root /images/one", "m · root /images/two"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compare")
    runs = [
        SyntheticRun(method=method, searched=method == "perfedrlnas", seed=seed, rounds=10).write(
            root / f"{method}-s{seed}"
        )
        for method in ("perfedrlnas", "fedavg", "local")
        for seed in range(3 if method == "perfedrlnas" else 2)
    ]
    (runs[-1] / "summary.json").unlink()
    write_report([runs[0]])
    return write_report(runs, root / "pages" / "compare.html")


def test_the_comparison_is_whole_and_names_what_it_leaves_out(compared: Path) -> None:
    parser = read(compared.read_text(encoding="utf-8"))
    assert "7 runs compared" in parser.text
    assert "recorded so far: local-s1 (round 10 of 10)" in parser.text
    assert "1 further run has no charts of its own" in parser.text
    assert "Clients of fedavg deploy the fine-tuned model." in parser.text
    labels = [a["aria-label"] for _, a in parser.tags if a.get("class", "").startswith("chart")]
    overlay = next(label for label in labels if "± sd over seeds" in label)
    assert all(f"{method}: " in overlay for method in ("fedavg", "local", "perfedrlnas"))


def test_links_lead_to_the_runs_own_pages_and_nowhere_else(compared: Path) -> None:
    parser = read(compared.read_text(encoding="utf-8"))
    links = [a["href"] for tag, a in parser.tags if tag == "a"]
    assert links == ["../perfedrlnas-s0/report.html"]
    assert (compared.parent / links[0]).is_file()


def test_without_output_the_comparison_lies_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [finished(tmp_path / f"{i}", 0.5, i) for i in range(2)]
    monkeypatch.chdir(tmp_path)
    assert write_report(runs) == Path("report-compare.html")
    assert (tmp_path / "report-compare.html").is_file()


def test_many_groups_are_all_listed_and_the_undrawn_are_named(tmp_path: Path) -> None:
    runs = [finished(tmp_path / f"{i}", 0.5, 0, method={"name": f"method{i}"}) for i in range(10)]
    for i, run in enumerate(runs):
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps({**summary, "method": f"method{i}"}))
    text = read(write_report(runs, tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "Drawn are the first 8 groups; left out of the charts: method8; method9." in text


def test_equal_scores_do_not_make_a_model_fine_tuned(tmp_path: Path) -> None:
    """On few images fine-tuning may change no answer: what is deployed is what the summary says."""
    path = finished(tmp_path / "run", 0.75, 0)
    summary = json.loads((path / "summary.json").read_text())
    summary["fine_tuned"] = {"epochs": 3, "test_accuracy": summary["test_accuracy"]}
    for deploy in ("as_trained", "fine_tuned"):
        (path / "summary.json").write_text(json.dumps(summary | {"deploy": deploy}))
        assert load_run(path).declares_fine_tuned == (deploy == "fine_tuned")


def test_a_sweep_is_a_table_of_its_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Sweep.create(tmp_path / "sweep", [Job("00", [], {}), Job("01", [], {})])
    finished(tmp_path / "sweep" / "00", 0.75, 0)
    assert main(["table", str(tmp_path / "sweep")]) == 0
    assert "| m | 0 | 75.0 |" in capsys.readouterr().out
    assert main(["table", str(tmp_path / "nowhere")]) == 2
    assert "no such directory" in capsys.readouterr().err


def test_another_partition_is_named_once(tmp_path: Path) -> None:
    """Its class says it; settings that only one of the two has are no further difference."""
    drawn = {"_target_": "parts.dirichlet.Dirichlet", "alpha": 0.3, "test": 0.2}
    sites = {"_target_": "parts.by_folder.ByFolder", "test": 0.1}
    one, other = (
        finished(tmp_path / name, 0.5, 0, partition=partition)
        for name, partition in (("a", drawn), ("b", sites))
    )
    groups, to_know = grouped([load_run(path) for path in (one, other)])
    labels = ["m · partition Dirichlet · test 0.2", "m · partition ByFolder · test 0.1"]
    assert [group.label for group in groups] == labels
    assert to_know == [
        "Runs of one method are separate groups where these settings differ: partition, partition.test."
    ]
    third = finished(tmp_path / "c", 0.5, 1, partition=drawn | {"alpha": 0.1})
    groups, _ = grouped([load_run(path) for path in (one, other, third)])
    assert len(groups) == 3  # alpha tells the two of one class apart
    _with(other, method="other")
    _, to_know = grouped([load_run(path) for path in (one, other)])
    assert (
        to_know[0]
        == "The groups were not run with the same partition: Dirichlet (m); ByFolder (other)."
    )
    assert len(to_know) == 2
