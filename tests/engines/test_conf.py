from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest
import yaml

FILES = sorted((Path(__file__).parents[2] / "conf" / "engine").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_keys_are_the_constructors_arguments_and_none_has_a_default_in_code(path: Path) -> None:
    node = yaml.safe_load(path.read_text())
    module, _, name = node.pop("_target_").rpartition(".")
    assert node.pop("kind") == path.stem
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    assert set(parameters) == set(node)
    assert all(p.kind == p.KEYWORD_ONLY and p.default is p.empty for p in parameters.values())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_engine_bears_the_name_of_its_file(path: Path) -> None:
    node = yaml.safe_load(path.read_text())
    node |= {"clients": 3} if "clients" in node else {}
    module, _, name = node.pop("_target_").rpartition(".")
    node.pop("kind")
    engine = getattr(importlib.import_module(module), name)(**node)
    assert engine.name == path.stem
