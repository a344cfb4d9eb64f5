from __future__ import annotations

import io
import tomllib
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from hypothesis import given
from hypothesis import strategies as st

from corolla.errors import RefusedError
from engines.project import project_root, stage, write_run_config

PYPROJECT = """
[project]
name = "x"
[tool.flwr.app]
fab-include = ["src/**/*.py", "conf/**/*.yaml"]
fab-exclude = ["tests/**", "src/report/**"]
"""


def make_project(root: Path) -> Path:
    for name in (
        "src/a/b.py",
        "src/a/__pycache__/b.py",
        "src/a/b.txt",
        "src/report/p.py",
        "tests/t.py",
        "conf/c/d.yaml",
        ".venv/e.py",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "strategies").mkdir()
    (root / "pyproject.toml").write_text(PYPROJECT)
    return root


def test_this_checkout_is_found() -> None:
    assert project_root() == Path(__file__).resolve().parents[2]


def test_a_given_root_is_taken(tmp_path: Path) -> None:
    assert project_root(str(make_project(tmp_path))) == tmp_path


def test_a_directory_without_project_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        project_root(str(tmp_path))
    assert str(caught.value).startswith(
        f"engine.root='{tmp_path}': Flower submits a project, and {tmp_path} has no pyproject.toml"
    )
    assert "pip install -e ." in str(caught.value)


def test_only_what_the_bundle_can_hold_is_staged(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    copy = stage(make_project(root), tmp_path / "copy")
    files = {str(p.relative_to(copy)) for p in copy.rglob("*") if p.is_file()}
    assert files == {"pyproject.toml", "src/a/b.py", "conf/c/d.yaml"}
    assert (copy / "src/a/b.py").read_text() == "src/a/b.py"


def test_flower_finds_no_exclusion_that_matches_nothing(tmp_path: Path) -> None:
    (root := tmp_path / "root").mkdir()
    copy = stage(make_project(root), tmp_path / "copy")
    app = tomllib.loads((copy / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert app == {"fab-include": ["src/**/*.py", "conf/**/*.yaml"]}


def test_flower_bundles_the_staged_project_as_it_is(tmp_path: Path) -> None:
    copy = stage(project_root(), tmp_path / "copy")
    bundle = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(copy)))
    names = {name for name in bundle.namelist() if not name.startswith(".info/")}
    assert names == {p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()}
    assert {"strategies/server_app.py", "clients/client_app.py", "conf/config.yaml"} <= names
    assert not any(name.startswith(("tests/", "engines/", "docs/")) for name in names)


def test_the_run_config_is_read_back_as_it_was(tmp_path: Path) -> None:
    values = {"config": 'a: "b"\nc: \\d\n', "launch": "x"}
    write_run_config(tmp_path / "run.toml", values)
    assert tomllib.loads((tmp_path / "run.toml").read_text()) == values


@given(text=st.text(st.characters(codec="utf-8")))
def test_any_text_survives_the_toml(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("toml") / "run.toml"
    write_run_config(path, {"config": text})
    assert tomllib.loads(path.read_bytes().decode()) == {"config": text}
