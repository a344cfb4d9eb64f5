"""Every file of a run directory, damaged in every way: right, or refused with file and remedy.

One finished run and one that was killed, made once and copied for each case.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from corolla.cli import commands, main
from corolla.export.formats import KEY
from corolla.launch import resume
from corolla.records.client_facts import read_client_facts
from corolla.records.errors import CorruptStateError
from corolla.records.run_directory import RunDirectory
from corolla.records.seals import BY_HAND, read_sealed
from corolla.records.tensor_files import read_tensors
from corolla.report import write_report
from corolla.state import State
from engines.inline import InlineEngine
from tests.conftest import diagonal
from tests.states import differences
from tests.strategies.conftest import power_cut, results, run

REMEDIES = ("Restore", "restore", "Delete", "Move it away", "Known:", "choose another")


def _truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _cut_after_a_line(data: bytes) -> bytes:
    """Return the whole lines of the first half: what is read looks like all there is."""
    return data[: data.rfind(b"\n", 0, len(data) // 2) + 1]


def _flipped(data: bytes) -> bytes:
    """Return ``data`` with a digit changed, where there is one: what is read still looks right.

    It is the first digit of a number: the last one of a float may change nothing that is read.
    """
    draw = random.Random(len(data))
    digits = [found.start(1) for found in re.finditer(rb"(?<![\w.+-])([0-8])", data)]
    place = draw.choice(digits) if digits and data.isascii() else len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes] | None] = {
    "missing": None,
    "directory": None,
    "empty": lambda data: b"",
    "truncated": _truncated,
    "cut after a line": _cut_after_a_line,
    "not UTF-8": lambda data: data[:-3] + b"\xff\xfe\n",
    "a list": lambda data: b"[1, 2]\n",
    "nothing in it": lambda data: b"{}\n",
    "flipped": _flipped,
}
FILES = (  # of a run that was killed
    *("config.yaml", "clients.json", "partition.json", "environment.json"),
    *("metrics.jsonl", "clients.jsonl", ".launch", ".lock", "run.log"),
    *("checkpoints/latest", "checkpoints/best", "checkpoints/NEWEST/state.json"),
    *("checkpoints/NEWEST/state.safetensors", "checkpoints/BEST/state.json"),
    "checkpoints/BEST/state.safetensors",
    *("state/0/STATE", "state", "checkpoints"),
)
FILES_OF_A_CLIENT = ("clients/0/architecture.json", "clients/0/model.safetensors")
FILES_OF_A_REPORT = ("config.yaml", "environment.json", "clients.json", "metrics.jsonl")
FILES_OF_A_REPORT += ("clients.jsonl", "summary.json")


@dataclass(frozen=True)
class Runs:
    """Where the two runs are, and what is right."""

    finished: Path
    killed: Path  # in round 3, after its lines were written
    results: str
    states: dict[int, State]  # of `killed`, after rounds 1 and 2
    model: State
    page: str


def _states(directory: RunDirectory) -> dict[int, State]:
    """Return what the checkpoints hold, by round."""
    found = {}
    for path in (directory.path / "checkpoints").glob("round-*"):
        arrays, _ = read_tensors(path / "state.safetensors")
        record = read_sealed(path / "state.json")
        found[record["round"]] = State(arrays, record["meta"])
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("runs")
    settings = [
        *("method=ditto", "clients=2", "clients_per_round=2", "evaluation.every=1"),
        *("server_set=held_out", "server_set.images=1690"),
    ]
    finished = run(root / "finished" / "run", *settings)
    with power_cut(3):
        run(root / "killed" / "run", *settings)
    states = _states(RunDirectory(root / "killed" / "run"))
    assert sorted(states) == [1, 2]
    return Runs(
        finished=finished.path,
        killed=root / "killed" / "run",
        results=results(finished),
        states=states,
        model=State(finished.client_model("0")[1], {}),
        page=write_report([finished.path], root / "page.html").read_text(),
    )


def _copy(run_dir: Path, to: Path, file: str, damage: str) -> tuple[Path, Path]:
    """Return a copy of a run and what in it is damaged."""
    newest = {
        "NEWEST": max(path.name for path in run_dir.glob("checkpoints/round-*")),
        "BEST": (run_dir / "checkpoints" / "best").read_text().strip(),
        "STATE": max(path.name for path in run_dir.glob("state/0/*")),
    }
    for word, name in newest.items():
        file = file.replace(word, name)
    copy = to / run_dir.parent.name / "run"
    shutil.copytree(run_dir, copy, copy_function=os.link)
    path = copy / file
    assert path.exists(), file
    data = path.read_bytes() if path.is_file() else None
    shutil.rmtree(path) if data is None else path.unlink()
    change = DAMAGES[damage]
    if damage == "directory":
        path.mkdir()
    elif change is not None:
        path.write_bytes(change(data or b"0"))
    return copy, path


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the configurations that get as far as the engine, and run nothing."""
    begun: list[str] = []
    monkeypatch.setattr(
        InlineEngine, "run", lambda self, config_yaml, **_: begun.append(config_yaml)
    )
    monkeypatch.setattr(commands, "_conclude", lambda *_, **__: None)
    return begun


class _Told:
    """Runs commands; what a refusal says must name the damaged file and a remedy."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def works(self, path: Path, *arguments: str) -> bool:
        code = main(list(arguments))
        said = self._capsys.readouterr().err
        assert code in (0, 2), said
        if code == 2:
            assert str(path) in said or str(path.parent) in said, said
            assert any(remedy in said for remedy in REMEDIES), said
        return code == 0


@pytest.mark.parametrize(("file", "damage"), diagonal(FILES, list(DAMAGES)))
def test_a_killed_run_goes_on_from_what_is_whole_or_says_what_is_not(
    runs: Runs,
    file: str,
    damage: str,
    tmp_path: Path,
    engine: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy, path = _copy(runs.killed, tmp_path, file, damage)
    if _Told(capsys).works(path, "resume", str(copy)):
        (text,) = engine
        assert text.replace(str(copy), str(runs.killed)) == RunDirectory(runs.killed).config_text()
        directory = RunDirectory.open(copy)
        header = RunDirectory(runs.killed).checkpoints.header()
        found = directory.checkpoints.load_to_resume(header)
        assert found is not None
        assert not differences(found[1], runs.states[found[0]])
        assert read_client_facts(copy) == read_client_facts(runs.killed)
        assert directory.environment().keys() == RunDirectory(runs.killed).environment().keys()
    else:
        assert not engine
        for original in (each for each in runs.killed.rglob("*") if each.is_file()):
            same = copy / original.relative_to(runs.killed)
            if same.name != ".lock" and not same.is_relative_to(path):
                assert same.read_bytes() == original.read_bytes()  # nothing else was lost


@pytest.mark.parametrize(
    ("file", "damage"),
    diagonal(["config.yaml", "summary.json", "clients/0", *FILES_OF_A_CLIENT], list(DAMAGES)),
)
def test_of_a_finished_run_only_what_is_whole_comes_out(
    runs: Runs, file: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, path = _copy(runs.finished, tmp_path, file, damage)
    told, output = _Told(capsys), tmp_path / "model"
    if told.works(path, "export", str(copy), "--client", "0", "-o", str(output)):
        assert (file, damage) == ("summary.json", "missing")
        arrays, facts = read_tensors(output)
        assert not differences(State(arrays, {}), runs.model)
        assert not json.loads(facts[KEY])["finished"]


@pytest.mark.parametrize(("file", "damage"), diagonal(FILES_OF_A_REPORT, list(DAMAGES)))
def test_a_report_shows_what_is_whole_and_says_what_is_left_out(
    runs: Runs, file: str, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, path = _copy(runs.finished, tmp_path, file, damage)
    output = tmp_path / "page.html"
    if _Told(capsys).works(path, "report", str(copy), "-o", str(output)):
        page = output.read_text()
        # A page that is the same says all; another one says what it lacks.
        lacks = rf"{path.name}\b[^<]*(left out|is missing)|There is no {path.name}"
        assert page == runs.page or re.search(lacks, page) is not None


@pytest.mark.parametrize(
    ("file", "damage"), diagonal(["config.yaml", "summary.json", "metrics.jsonl"], list(DAMAGES))
)
def test_a_damaged_finished_run_is_not_shown_as_complete(
    runs: Runs,
    file: str,
    damage: str,
    tmp_path: Path,
    engine: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy, path = _copy(runs.finished, tmp_path, file, damage)
    works = _Told(capsys).works(path, "resume", str(copy))
    assert works == (file == "metrics.jsonl" or (file == "summary.json" and damage == "missing"))
    assert bool(engine) == (works and file == "summary.json")


def test_from_the_round_before_a_damaged_checkpoint_a_run_ends_with_the_same_numbers(
    runs: Runs, tmp_path: Path
) -> None:
    copy, _ = _copy(runs.killed, tmp_path, "checkpoints/NEWEST/state.safetensors", "flipped")
    assert results(resume(copy)) == runs.results
    log = (copy / "run.log").read_text()
    assert "checksum of its arrays does not match; going on after round 1" in log


def test_what_a_refusal_advises_leads_to_the_same_numbers(runs: Runs, tmp_path: Path) -> None:
    """Delete the damaged summary and resume: the clients are evaluated again, models and all."""
    copy, _ = _copy(runs.finished, tmp_path, "clients/0/model.safetensors", "truncated")
    (copy / "summary.json").unlink()
    assert results(resume(copy)) == runs.results
    again, whole = (RunDirectory.open(each).client_model("0") for each in (copy, runs.finished))
    assert not differences(State(again[1], again[0]), State(whole[1], whole[0]))


def test_a_configuration_changed_on_purpose_says_so(
    runs: Runs, tmp_path: Path, engine: list[str]
) -> None:
    copy, path = _copy(runs.killed, tmp_path, "config.yaml", "missing")
    text = (
        RunDirectory(runs.killed).config_text().replace("round_timeout_s: ", "round_timeout_s: 1")
    )
    for last, problem in ((BY_HAND, ""), ("", "last line is not"), (BY_HAND + "?", "last line")):
        path.write_text(f"{text}{last}\n")
        if problem:
            with pytest.raises(CorruptStateError, match=f"{problem}.*{BY_HAND}"):
                resume(copy)
        else:
            resume(copy)
    assert "round_timeout_s: 1" in engine[0]
    for wrong in ("a: [", "just text"):
        path.write_text(f"{wrong}\n{BY_HAND}\n")
        with pytest.raises(CorruptStateError, match=r"config\.yaml is damaged.*Correct it"):
            resume(copy)
