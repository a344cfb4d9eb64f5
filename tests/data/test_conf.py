"""Every YAML of ``conf/dataset`` and ``conf/partition`` builds what it names."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from corolla.settings import field_names, is_settings, parameters_of

CONF = Path(__file__).resolve().parents[2] / "conf"
FILES = sorted(path for group in ("dataset", "partition") for path in (CONF / group).glob("*.yaml"))
DATASETS = sorted((CONF / "dataset").glob("*.yaml"))


def build(path: Path) -> Any:
    settings = yaml.safe_load(path.read_text())
    module, _, name = settings.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), name)(**settings)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_keys_are_the_constructors_arguments(path: Path) -> None:
    part = build(path)
    assert part.name == path.stem
    kind = type(part)
    names = field_names(kind) if is_settings(kind) else parameters_of(kind)
    given = set(yaml.safe_load(path.read_text())) - {"_target_"}
    assert given == set(names) - {"root_key"}  # set by code only


@pytest.mark.parametrize("path", DATASETS, ids=lambda path: path.stem)
def test_defaults_are_ready_or_say_what_is_missing(path: Path) -> None:
    faults = build(path).check()
    keys = [fault.key for fault in faults]
    assert keys == ([] if path.stem == "digits" else ["dataset.root"])
