"""`corolla check`, `list` and completion as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest

from corolla.cli import main
from corolla.cli.completion import candidates
from tests.strategies.conftest import SMALL


def test_check_tells_settings_images_costs_and_chance(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--no-trial", *SMALL, "method=fedmd", "trainer.betas=[0.1,0.2]"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for expected in (
        "suggested by conf/method/fedmd.yaml: server_set.images=200",
        "command line: partition.alpha=100",
        "space.supernet.stages=[{",  # on one line, as an override is written
        "evaluation.fine_tune_lr=null",
        "trainer.betas=[0.1,0.2] has no effect",
        "Chance level: 10.0 % by lot among 10 classes",
        "largest │ 87.0 k",
    ):
        assert expected in out


@pytest.mark.slow
def test_check_tries_two_rounds_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", *SMALL, "method=fedavg"]) == 0
    out = capsys.readouterr().out
    assert "Tried here (round 2, 2\u00a0participants, one after another)" in out
    assert "A participant receives 1" in out  # 191 KiB of the middle network
    assert list(tmp_path.iterdir()) == []


def test_check_refuses_as_a_run_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "trainer.lr=0"]) == 2
    assert "trainer.lr=0" in capsys.readouterr().err


def test_list_has_a_command_for_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for expected in (
        "spider SPIDER (TMLR)",
        "corolla run method=spider # space=darts_s2_mixed_8 dataset=digits",
        "corolla run space=lenet",
        "corolla run dataset=cifar10 dataset.root=PATH",
        "corolla run experiment=spider_small dataset.root=PATH # method=spider_small",
    ):
        assert expected in out


def test_list_has_parts_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "ours.yaml").write_text(
        "# mine/space/ours.yaml\n# Two layers\nname: ours\n"
    )
    assert main(["list", "spaces", "--config-dir", str(tmp_path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"ours Two layers corolla run --config-dir {tmp_path} space=ours" in out
    assert "corolla run space=lenet" in out


def test_completion(capsys: pytest.CaptureFixture[str]) -> None:
    assert candidates(["resu"]) == ["resume"]
    assert candidates(["run", "method=fedr"]) == [
        "method=fedrep",
        "method=fedrlnas",
        "method=fedrod",
        "method=fedrolex",
    ]
    assert candidates(["run", "method=spider", "method.search.w"]) == [
        "method.search.warmup_rounds="
    ]
    assert main(["completion", "bash"]) == 0
    assert "complete -o default -F _corolla corolla" in capsys.readouterr().out
