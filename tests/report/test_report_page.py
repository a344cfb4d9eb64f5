"""The page about one run: whole, self-contained, safe, and honest about what is missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from corolla.errors import RefusedError
from corolla.records.seals import sealed_config
from corolla.report import write_report
from corolla.report.embed import Charts
from tests.report.page_parser import PageParser, read
from tests.report.synthetic_run import SyntheticRun

_HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "$x_1$ & 漢字 'quoted'",
    "site-with-a-very-long-name-that-no-axis-has-room-for",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = SyntheticRun().write(tmp_path_factory.mktemp("runs") / "usual")
    return write_report([run]).read_text(encoding="utf-8")


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _page(run_dir: Path) -> tuple[str, PageParser]:
    html = write_report([run_dir]).read_text(encoding="utf-8")
    return html, read(html)


def _said(parser: PageParser) -> str:
    """Return what the charts say of themselves."""
    return "\n".join(attributes.get("aria-label", "") for _, attributes in parser.tags)


def _asks_the_network(html: str, parser: PageParser) -> list[str]:
    own = html.replace(
        Charts().library(), ""
    )  # whose text names its own home, for a menu that is off
    found = re.findall(r"https?:|@import|url\((?!#)", own)
    found += re.findall(r"cdn|jsdelivr|unpkg|googleapis", html)
    for tag, attributes in parser.tags:
        for name, value in attributes.items():
            if name in ("src", "srcset", "action", "data", "poster", "background"):
                found.append(f"{tag} {name}={value}")
            if name == "href" and not value.startswith("#") and value != "data:,":
                found.append(f"{tag} {name}={value}")
    return found


def test_a_usual_run_gives_a_whole_page_with_every_section(page: str) -> None:
    parser = read(page)
    for heading in (
        "What was run",
        "Test accuracy",
        "What local training adds",
        "Policy entropy",
        "Reward",
        "Accuracy for traffic",
        "Traffic",
        "Time",
        "Accuracy against parameters",
        "Memory against budget",
        "What was chosen",
        "Labels of every client",
        "Every round as numbers",
        "Configuration",
    ):
        assert heading in parser.text, heading
    assert parser.count("figure") == 15
    assert len(page.encode()) < 1_300_000  # 0.9 MB are the library that draws


def test_the_page_asks_nothing_of_the_network(page: str) -> None:
    assert _asks_the_network(page, read(page)) == []
    assert "default-src 'none'" in page
    assert "unsafe-eval" not in page


def test_every_drawing_says_in_words_what_it_shows(page: str) -> None:
    tags = read(page).tags
    drawings = [a for tag, a in tags if tag == "svg" or a.get("class", "").startswith("chart")]
    silent = [d for d in drawings if not d.get("aria-label") and d.get("aria-hidden") != "true"]
    assert silent == []


def test_charts_take_their_colours_from_the_page_and_share_no_ids(page: str) -> None:
    (content,) = re.findall(r'id="charts">(.*?)</script>', page, flags=re.DOTALL)
    assert not re.search(r"#[0-9a-f]{3,6}\b", content)
    assert "var(--s1)" in content
    ids = [attributes["id"] for _, attributes in read(page).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(json.loads(content)["specs"]) == set(ids) - {"charts"}


def test_the_run_is_described_with_its_failures_by_name(page: str) -> None:
    text = read(page).text
    for words in (
        "dirichlet, alpha 0.3",
        "0123456789ab",
        "torch\u00a02.15.0",
        "3\u00a0min 07\u00a0s",
        "Failed exchanges: 2",
        "<site> (the site cannot take part (data-dir))",
        "no reply within 3600 s",
        "weights hold NaN: stages.2.1.expand",
    ):
        assert " ".join(words.split()) in text, words


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    run = SyntheticRun(
        clients=4,
        clients_per_round=4,
        rounds=7,
        client_names=_HOSTILE,
        dataset="<b>digits</b>",
        settings=(("note", "</pre><script>alert(2)</script>"),),
    ).write(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    summary["class_names"][0] = "<i>cat</i>"
    summary["dimensions"][2]["name"] = "<u>mb1</u>.width"
    (run / "summary.json").write_text(json.dumps(summary))
    lines = _lines(run / "metrics.jsonl")
    lines[6]["failed"] = [{"client": _HOSTILE[1], "reason": "<marquee>"}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    html, parser = _page(run)
    assert parser.count("script") == 3
    for tag in ("img", "b", "i", "u", "marquee"):
        own = parser.count("b") if tag == "b" else 0  # the page's own emphasis
        assert parser.count(tag) == own, tag
    assert all(not name.startswith("on") for _, attributes in parser.tags for name in attributes)
    assert "<b>digits" not in html
    for name in _HOSTILE:
        assert " ".join(name.split()) in parser.text
    assert _asks_the_network(html, parser) == []


def test_an_interrupted_run_says_so_and_shows_what_is_there(tmp_path: Path) -> None:
    run = SyntheticRun(finished=False, rounds=12).write(tmp_path / "run")
    with (run / "clients.jsonl").open("a") as file:
        file.write('{"round": 13, "client": "3", "arch')  # the process died here
    _, parser = _page(run)
    assert "There is no summary.json: after round 12 of 32" in parser.text
    assert "clients.jsonl: 1 unreadable line left out." in parser.text
    assert "last evaluation so far (round 12)" in parser.text
    assert "Labels of every client" in parser.text  # known before the first round


def test_the_round_chosen_so_far_is_chosen_on_validation(tmp_path: Path) -> None:
    def line(number: int, validation: float, test: float) -> str:
        scores = {"val_accuracy": {"mean": validation}, "test_accuracy": {"mean": test}}
        return json.dumps({"round": number, "evaluation": {"personalised": scores}})

    # Test says round 2, validation says round 1: round 1 it is, with its 50.0 %.
    lines = [line(1, 0.61, 0.5), line(2, 0.6, 0.7), line(3, 0.55, 0.4)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    html, parser = _page(tmp_path)
    assert "chosen on validation so far (round 1) 50.0" in parser.text
    assert "last evaluation so far (round 3) 40.0" in parser.text
    assert "70.0" not in re.sub(r"<details.*</details>", "", html, flags=re.DOTALL)


def test_absent_keys_leave_their_sections_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"round": 1, "test_accuracy": 0.5}\n{"round": 2, "test_accuracy": null}\n'
    )
    _, parser = _page(tmp_path)
    assert "Test accuracy" in parser.text
    for absent in ("Reward", "entropy", "Traffic", "Labels", "budget", "Configuration", "commit"):
        assert absent not in parser.text, absent
    assert parser.count("figure") == 1
    for word in ("None", "nan", "undefined"):
        assert word not in parser.text.split()


def test_a_method_without_a_search_has_no_holes(tmp_path: Path) -> None:
    run = SyntheticRun(method="fedavg", searched=False).write(tmp_path / "run")
    _, parser = _page(run)
    assert "global model, all clients, mean ± sd over clients:" in _said(parser)
    assert parser.text.count("last round (30), fine-tuned (10 epochs)") == 1
    assert "fine-tuned %" not in parser.text  # the personalised models are fine-tuned already
    assert "global model %" in parser.text
    for absent in ("Reward", "Policy entropy", "Memory against budget", "What was chosen"):
        assert absent not in parser.text, absent


def test_headline_numbers_are_the_summary_s(tmp_path: Path) -> None:
    spread = {"mean": 0.5, "std": 0.125, "worst_decile": 0.25, "per_client": {"a": 0.25, "b": 0.75}}
    summary = {
        "method": "m",
        "dataset": "d",
        "space": "s",
        "rounds": 4,
        "clients": 2,
        "test_accuracy": spread,
        "val_accuracy": {"mean": 0.375},
        "best": {"round": 3, "test_accuracy": {"mean": 0.625}},
        "fine_tuned": {"epochs": 10, "test_accuracy": {"mean": 0.875}},
        "global": {"test_accuracy": {"mean": 0.375}},
        "pooled": {
            "tier 1": {"macs": 2e6, "test_images": 40, "test_accuracy": 0.6875},
            "tier 2": "damaged",
        },
        "per_client": {
            "a": {"training_memory_mib": 30.0, "memory_budget_mib": 40.0},
            "b": {"training_memory_mib": 50.0, "memory_budget_mib": 40.0},
        },
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    _, parser = _page(tmp_path)
    assert "m on d s · summary-only" in parser.text.replace(tmp_path.name, "summary-only")
    assert "last round (4) 50.0 12.5 25.0 37.5" in parser.text
    assert "round chosen on validation (3) 62.5 \u2013 \u2013 \u2013" in parser.text
    assert "last round (4), fine-tuned (10 epochs) 87.5" in parser.text
    # What serves several clients stands in a table of its own.
    assert "% validation % images MMACs tier 1 68.8 \u2013 40 2.00 tier 2 \u2013" in parser.text
    assert "The global model as clients run it model test %" in parser.text
    assert parser.text.count("global model, last round (4)") == 1
    assert "1 of 2 clients fit their budget" in parser.text
    assert "50.0 of 40.0 MiB: exceeded" in parser.text


@pytest.mark.slow
def test_a_thousand_clients_stay_quick_and_usable(tmp_path: Path) -> None:
    run = SyntheticRun(clients=1000, clients_per_round=20, classes=100).write(tmp_path / "run")
    start = time.process_time()
    html, parser = _page(run)
    assert time.process_time() - start < 10
    assert len(html.encode()) < 2_200_000
    assert "The 20 clients with the lowest and the 20 with the highest test accuracy" in parser.text
    assert "The other 960 clients" in parser.text
    assert "80 others" in html  # 20 of 100 classes have a column of their own
    strips = [a for tag, a in parser.tags if tag == "svg" and a.get("class") == "strip"]
    assert len(strips) == 40


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"round": 1, "test_accuracy": 0.5}')
    first, second = (re.sub(r"\d\d:\d\d UTC", "", _page(tmp_path)[0]) for _ in range(2))
    assert first == second


def test_a_directory_that_is_no_run_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RefusedError) as caught:
        write_report([tmp_path / "empty", tmp_path / "absent"])
    assert [fault.key for fault in caught.value.faults] == ["run_dir", "run_dir"]
    assert "holds none of config.yaml, environment.json, metrics.jsonl" in str(caught.value)
    assert "Give a directory that `corolla run` made" in str(caught.value)
    with pytest.raises(RefusedError, match="no run directory was given"):
        write_report([])


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    run = SyntheticRun(rounds=1, clients=2).write(tmp_path / "run")
    (tmp_path / "taken").write_text("a file, not a directory")
    with pytest.raises(RefusedError, match="Choose a file in a directory that can be written"):
        write_report([run], tmp_path / "taken" / "page.html")


def test_the_page_replaces_an_older_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    run = SyntheticRun(rounds=1, clients=2).write(tmp_path / "run")
    before = {path.name for path in run.iterdir()}
    (run / "report.html").write_text("old")
    assert write_report([run]) == run / "report.html"
    assert {path.name for path in run.iterdir()} == before | {"report.html"}
    assert (run / "report.html").read_text() != "old"


def test_neither_altair_nor_torch_is_imported_before_anything_draws() -> None:
    heavy = "{'altair', 'torch', 'vl_convert'}"
    code = f"import sys, corolla.report; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("method", "fitness", "words"),
    [
        ({"strategy": {"personal_search": {}}}, "test", "chosen ON TEST IMAGES"),
        ({"strategy": {"personal_search": {}}}, "validation", "nothing was chosen on test"),
        ({"personal_search": {"fitness": "test"}}, "validation", "chosen ON TEST IMAGES"),
        ({"strategy": {}}, "test", "nothing was chosen on test"),  # this method does not read it
    ],
)
def test_a_search_on_test_images_is_not_passed_over(
    method: dict[str, object], fitness: str, words: str, tmp_path: Path
) -> None:
    run_dir = SyntheticRun().write(tmp_path / "run")
    config = run_dir / "config.yaml"
    values = yaml.safe_load(config.read_text())
    values |= {"method": {"name": "hapfnas", **method}, "personal_search": {"fitness": fitness}}
    config.write_text(sealed_config(yaml.safe_dump(values)))
    assert words in _page(run_dir)[0]
