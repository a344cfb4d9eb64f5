"""A user's own parts, as docs/add-*.md write them, from an empty folder."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from corolla.cli import main
from corolla.config import own_parts
from corolla.config.compose import compose_values
from corolla.config.groups import groups
from corolla.errors import RefusedError
from engines.own_code import copy_own_code
from engines.project import project_root, stage
from tests.strategies.conftest import SMALL

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"```\w+\n# mine/(\S+)\n(.*?)```", re.DOTALL)
PARTS = [
    "space=perceptron",
    "method=signs",
    "dataset=stripes",
    "partition=in_turn",
    "tracker=lines",
]
TINY = [text for text in SMALL if not text.startswith(("partition.", "rounds="))] + ["rounds=1"]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder `mine` of the docs, in an empty one; Python forgets its modules afterwards."""
    modules = set()
    for page in [*sorted(DOCS.glob("add-*.md")), DOCS / "metrics.md"]:
        for name, text in BLOCK.findall(page.read_text()):
            path = tmp_path / "mine" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            modules |= {path.stem} if path.suffix == ".py" else set()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(own_parts.VARIABLE, "")  # or what a command sets there stays after the test
    monkeypatch.delenv(own_parts.VARIABLE)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "mine"
    for name in modules:
        sys.modules.pop(name, None)


def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a new process, as far as own parts go."""
    monkeypatch.delenv(own_parts.VARIABLE)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.endswith("mine")])
    for name in ("my_space", "my_method", "my_data", "my_partition", "my_tracker"):
        sys.modules.pop(name, None)


def test_all_parts_of_the_docs_run_and_are_found_again(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--config-dir", "mine", *PARTS, *TINY, "run_dir=run"]) == 0
    summary = json.loads(Path("run/summary.json").read_text())
    assert (summary["method"], summary["space"], summary["dataset"]) == (
        *("signs", "perceptron", "stripes"),
    )
    lines = Path("lines.txt").read_text().splitlines()
    assert lines[0] == "run after round 0"
    assert lines[-1] == f"{summary['test_accuracy']['mean']:.4f}"
    assert main(["list", "--config-dir", "mine"]) == 0
    assert "signs of gradients" in capsys.readouterr().out
    _forget(monkeypatch)
    assert main(["export", "run", "--client", "1"]) == 0  # nobody says where the space is
    _forget(monkeypatch)
    assert main(["run", *PARTS, *TINY]) == 2
    assert "no such space" in capsys.readouterr().err


@pytest.mark.slow
def test_own_parts_on_ray(mine: Path) -> None:
    on_ray = [text for text in TINY if not text.startswith("engine=")]
    arguments = ["engine=ray", "engine.actors=1", "run_dir=run"]
    assert main(["run", "--config-dir", "mine", *PARTS, *on_ray, *arguments]) == 0


def test_the_folder_at_home_and_an_installed_package_are_found(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = mine.parent / "home"
    home.mkdir()
    mine.rename(home / "corolla")
    package = mine.parent / "site" / "their_package" / "conf"
    (package / "trainer").mkdir(parents=True)
    (package / "trainer" / "theirs.yaml").write_text("defaults: [sgd]\nmomentum: 0.5\n")
    monkeypatch.syspath_prepend(package.parents[1])
    point = SimpleNamespace(name="theirs", value="their_package.conf")
    monkeypatch.setattr(own_parts, "_points", lambda: [point])
    values = compose_values(["space=perceptron", "trainer=theirs"])
    assert values["space"]["supernet"]["_target_"] == "my_space.Perceptron"
    assert values["trainer"]["momentum"] == 0.5
    point.value = "their_package.konf"
    with pytest.raises(RefusedError, match=r"theirs.*their_package\.konf.*entry point"):
        groups()


def test_what_is_not_clear_is_refused(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--config-dir", "mien"]) == 2
    assert "no such folder" in capsys.readouterr().err
    (mine / "space" / "lenet.yaml").write_text("name: lenet\n")
    assert main(["list", "--config-dir", "mine"]) == 2
    assert "Rename one of them" in capsys.readouterr().err
    (mine / "space" / "lenet.yaml").unlink()
    (mine / "my_space.py").unlink()
    assert main(["run", "--config-dir", "mine", "space=perceptron", *SMALL]) == 2
    assert "--config-dir FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("my_space.py", "def subnet(self, architecture: Architecture)", "def subnet(self)",
         r"Perceptron.*subnet\(self\) is called as subnet\(self, architecture\)"),
        ("my_space.py", "def subnet", "def net", r"has no subnet\(self, architecture\)"),
        ("my_space.py", "Perceptron(Supernet)", "Perceptron(Dimension)", r"space\.supernet"),
        ("my_space.py", "num_classes: int, ", "", "num_classes"),
        ("my_data.py", "def images(self, indices: Indices)", "def images(self)",
         r"Stripes.*images\(\) is called as images\(self, indices\)"),
        ("my_data.py", "def fingerprint", "def print", r"has no fingerprint\(self\)"),
        ("my_data.py", "mean = ", "average = ", "has no mean"),
        ("my_partition.py", ", rng: np.random.Generator", "",
         r"assign\(self, dataset, clients\) is called as assign\(self, dataset, clients, rng\)"),
        ("my_tracker.py", "def log(self, round: int, metrics: Mapping[str, float])", "def log(self)",
         r"Lines.*log\(\) is called as log\(self, round, metrics\)"),
        ("my_method.py", "def _train(self, model: nn.Module, task: Task)", "def _train(self, model)",
         r"_train\(self, model\) is called as _train\(self, model, task\)"),
        ("my_method.py", "@settings\n", "",
         r"method='SignClient': its annotation `settings: SignSettings` names no settings class"),
        ("my_method.py", "SignClient(SubnetClient)", "SignClient", "is not a client: it has no fit"),
    ],
)  # fmt: skip
def test_a_wrong_signature_is_refused_by_name(
    file: str, old: str, new: str, said: str, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (mine / file).read_text()
    assert old in text
    (mine / file).write_text(text.replace(old, new))
    assert main(["run", "--config-dir", "mine", *PARTS, *TINY, "run_dir=run"]) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not Path("run").exists()


@pytest.mark.slow
def test_the_bundle_takes_the_modules_along(mine: Path) -> None:
    own_parts.use([mine])
    (mine / "helpers").mkdir()
    (mine / "helpers" / "inner.py").write_text("X = 1\n")
    node = {"supernet": {"_target_": "my_space.Perceptron"}}
    app = stage(project_root(), mine.parent / "app", json.dumps({"space": node}))
    patterns = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert "/my_space.py" in patterns["fab-include"]
    assert "/helpers/inner.py" in patterns["fab-include"]
    code = (
        "import strategies; from corolla.config.build import class_of;"
        "import corolla, sys; assert corolla.__file__.startswith(sys.argv[1]);"
        "print(class_of('my_space.Perceptron', 'space').__module__)"
    )
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(app)], cwd=app, env=clean, capture_output=True, text=True
    )
    assert done.stdout.strip() == "my_space", done.stderr
    assert not (stage(project_root(), mine.parent / "other", "{}") / "my_space.py").exists()


def test_what_the_bundle_cannot_take_is_said(
    mine: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_parts.use([mine])
    target = mine.parent / "bundle"
    with caplog.at_level(logging.WARNING):
        assert copy_own_code("space: {_target_: yaml.Loader}", target) == []
    assert "every node must have it installed" in caplog.text.replace("\n", " ")
    config: dict[str, Any] = {"space": {"_target_": "my_space.Perceptron"}}
    (mine / "clients.py").write_text("")
    with pytest.raises(RefusedError, match=r"clients\.py has a name that this project uses"):
        copy_own_code(json.dumps(config), target)
    monkeypatch.setattr("engines.own_code.MOST_MIB", 0.0)
    with pytest.raises(RefusedError, match="MiB of Python files"):
        copy_own_code(json.dumps(config), target)
