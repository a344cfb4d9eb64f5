"""A user's own parts: folders of YAML files and Python modules outside of this project.

A folder holds groups as ``conf/`` does (``space/mine.yaml``), and beside them the modules that their
``_target_`` names (``my_space.py``). Known are those given by ``--config-dir`` (or $COROLLA_CONFIG_DIR),
then ``~/.config/corolla``, then those that installed packages name by an entry point of the group
``corolla.config``, whose value is the package that holds the groups.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from corolla.errors import Fault, RefusedError, refuse

VARIABLE = "COROLLA_CONFIG_DIR"
ENTRY_POINTS = "corolla.config"
RECORD = "own_parts"  # in environment.json: the folders that a run was made with


def given_folders() -> list[Path]:
    """Return the folders that are not packages' own: their modules are found because we look there."""
    named = [Path(text) for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "corolla"
    return list(dict.fromkeys([*named, *([home] if home.is_dir() else [])]))


def folders() -> list[Path]:
    """Return all folders that hold groups, and have Python find the modules in those given."""
    found = given_folders()
    look_in(found)
    return list(dict.fromkeys([*found, *_of_packages()]))


def use(given: Iterable[Path | str]) -> None:
    """Take these folders before all others, in this process and in those that it starts.

    Raises:
        RefusedError: one is not there.

    """
    chosen = [Path(folder).expanduser().absolute() for folder in given]
    faults = [
        Fault("config-dir", str(folder), "no such folder", "Give the folder that holds your groups")
        for folder in chosen
        if not folder.is_dir()
    ]
    refuse(faults)
    before = [text for text in os.environ.get(VARIABLE, "").split(os.pathsep) if text]
    if chosen or before:
        every = dict.fromkeys([*map(str, chosen), *before])
        os.environ[VARIABLE] = os.pathsep.join(every)
    look_in(given_folders())


def use_those_of(run_dir: Path) -> None:
    """Take the folders that a run was made with, as far as they are still there."""
    try:
        recorded = json.loads((run_dir / "environment.json").read_text()).get(RECORD, [])
    except (
        OSError,
        ValueError,
        AttributeError,
    ):  # whoever reads the run says what is wrong with it
        return
    use(path for path in recorded if Path(path).is_dir())


def look_in(chosen: Iterable[Path]) -> None:
    """Have Python look for modules in these folders too, also in processes that this one starts."""
    inherited = [text for text in os.environ.get("PYTHONPATH", "").split(os.pathsep) if text]
    for folder in map(str, chosen):
        # Last: a module of the user's must not take the place of one that others import.
        if folder not in sys.path:
            sys.path.append(folder)
        if folder not in inherited:
            inherited.append(folder)
            os.environ["PYTHONPATH"] = os.pathsep.join(inherited)


def record() -> dict[str, Any]:
    """Return the entry of environment.json; none where there are no such folders."""
    found = [str(folder) for folder in given_folders()]
    return {RECORD: found} if found else {}


@functools.cache
def _points() -> list[EntryPoint]:
    return list(entry_points(group=ENTRY_POINTS))


def _of_packages() -> list[Path]:
    found: list[Path] = []
    for point in _points():
        try:
            spec = importlib.util.find_spec(point.value)
        except ImportError:
            spec = None
        places = list(spec.submodule_search_locations or []) if spec is not None else []
        if not places:
            problem = f"the installed package names {point.value!r}, which is no package"
            remedy = "Correct its entry point: it names the package whose folder holds the groups"
            raise RefusedError(Fault(f"{ENTRY_POINTS} entry point", point.name, problem, remedy))
        found += map(Path, places)
    return found
