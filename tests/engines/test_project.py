from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corolla.errors import RefusedError
from engines.project import project_root, stage, write_run_config

PYPROJECT = (
    '[project]\nname = "x"\n[tool.flwr.app]\nfab-include = ["src/**/*.py", "conf/**/*.yaml"]\n'
)


def make_project(root: Path) -> Path:
    for name in (
        "src/a/b.py",
        "src/a/__pycache__/b.py",
        "src/a/b.txt",
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


def test_the_run_config_is_read_back_as_it_was(tmp_path: Path) -> None:
    values = {"config": 'a: "b"\nc: \\d\n', "launch": "x"}
    write_run_config(tmp_path / "run.toml", values)
    assert tomllib.loads((tmp_path / "run.toml").read_text()) == values


@given(text=st.text(st.characters(codec="utf-8")))
def test_any_text_survives_the_toml(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("toml") / "run.toml"
    write_run_config(path, {"config": text})
    assert tomllib.loads(path.read_bytes().decode()) == {"config": text}
