from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from corolla.cli import progress
from corolla.cli.progress import JsonLines, TimeLeft, following
from corolla.records.phases import phase


def write(path: Path, *rounds: int, mode: str = "w", **more: object) -> None:
    with path.open(mode) as file:
        file.writelines(json.dumps({"round": number, **more}) + "\n" for number in rounds)


def numbers(lines: JsonLines) -> list[int]:
    return [line["round"] for line in lines.read()]


def test_lines_come_once_and_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    assert numbers(lines) == []  # no file yet
    write(path, 1)
    assert numbers(lines) == [1]
    write(path, 2, 3, mode="a")
    assert numbers(lines) == [2, 3]
    assert numbers(lines) == []


def test_a_torn_last_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    path.write_text('{"round": 1}\n{"rou')
    assert numbers(lines) == [1]
    with path.open("a") as file:
        file.write('nd": 2}\n')
    assert numbers(lines) == [2]


def test_lines_that_are_no_json_objects_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"round": 1}\nnonsense\n[2]\n\xff\n{"round": 3}\n', encoding="latin-1")
    assert numbers(JsonLines(path)) == [1, 3]


def test_after_resume_cut_the_file_only_new_rounds_come(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    write(path, 1, 2, 3, round_s=1.0)
    assert numbers(lines) == [1, 2, 3]
    other = tmp_path / "other"
    write(other, 1, round_s=1.0)  # rounds 2 and 3 are cut off, by replacing the file
    other.replace(path)
    assert numbers(lines) == []
    write(path, 2, mode="a", round_s=1.5)  # the round is repeated, and took another time
    assert numbers(lines) == [2]


def test_a_file_that_was_cut_in_place_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    write(path, 1, 2, 3)
    assert numbers(lines) == [1, 2, 3]
    write(path, 9)  # shorter than before
    assert numbers(lines) == [9]


def test_time_left_is_the_mean_of_the_last_ten_rounds_times_what_is_left() -> None:
    left = TimeLeft()
    left.add(100.0)
    assert left.seconds(5) is None
    left.add(104.0)
    left.add(106.0)
    assert left.seconds(5) == 15.0  # by hand: (106 - 100) / 2 rounds = 3 s each, 5 rounds
    for second in range(107, 117):
        left.add(float(second))  # ten rounds of 1 s: the slow ones are forgotten
    assert left.seconds(5) == 5.0


def test_outside_a_terminal_every_round_is_one_plain_line(tmp_path: Path) -> None:
    out = io.StringIO()
    with following(tmp_path, rounds=3, console=Console(file=out)):
        everybody = {"personalised": {"test_accuracy": {"mean": 0.25}}}
        told = {"test_accuracy": 0.5, "val_accuracy": 0.625, "participants": ["0", "3"]}
        write(tmp_path / "metrics.jsonl", 1, **told, evaluation=everybody)
        write(
            tmp_path / "metrics.jsonl",
            2,
            mode="a",
            test_accuracy=None,
            failures=2,
            unusable={"b": "why"},
        )
    assert out.getvalue() == (
        "round 1/3: 2 participants: test 50.0 %, validation 62.5 %; all clients: test 25.0 %\n"
        "round 2/3: 2 failed; without b (corolla status says why)\n"
    )


def test_a_phase_has_a_line_where_it_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_BRIEF_S", 0.1)
    out = io.StringIO()
    with following(tmp_path, rounds=1, console=Console(file=out)):
        for words, seconds in (("brief", 0.0), ("long", 1.2)):
            with phase(words, 4, run_dir=tmp_path):
                time.sleep(seconds)
    assert out.getvalue() == "long: 0 of 4\n"


def test_rounds_of_before_are_not_told_again(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", 1, 2)
    out = io.StringIO()
    with following(tmp_path, rounds=None, console=Console(file=out)):
        write(tmp_path / "metrics.jsonl", 3, mode="a")
    assert out.getvalue() == "round 3\n"


def test_on_a_terminal_a_bar_shows_round_accuracy_and_time_left(tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with following(tmp_path, rounds=4, console=console):
        for number in (1, 2):
            write(tmp_path / "metrics.jsonl", number, mode="a", test_accuracy=0.25 * number)
            time.sleep(0.05)
    assert "round 2/4" in out.getvalue()
    assert "test 50.0 %" in out.getvalue()
    assert " left" in out.getvalue()


def test_the_end_of_the_block_is_not_held_up_by_an_error(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    with (
        pytest.raises(KeyboardInterrupt),
        following(tmp_path / "missing", rounds=1, console=console),
    ):
        raise KeyboardInterrupt
