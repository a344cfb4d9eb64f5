"""What is submitted to Flower: the checkout that holds the app, cut down to what it needs."""

from __future__ import annotations

import importlib.util
import shutil
import tomllib
from pathlib import Path

import tomli_w
from pathspec import GitIgnoreSpec

from corolla.errors import Fault, RefusedError
from engines.own_code import copy_own_code

PROJECT_FILE = "pyproject.toml"


def project_root(root: str | None = None) -> Path:
    """Return the directory with ``pyproject.toml`` and ``strategies``: ``root``, or this code's.

    Raises RefusedError when there is none, as after installation from a wheel.
    """
    if root is None:
        spec = importlib.util.find_spec("strategies")
        folders = list(spec.submodule_search_locations or []) if spec is not None else []
        candidates = [Path(folder).resolve().parent for folder in folders]
    else:
        candidates = [Path(root).expanduser().resolve()]
    for candidate in candidates:
        if (candidate / PROJECT_FILE).is_file() and (candidate / "strategies").is_dir():
            return candidate
    raise RefusedError(
        Fault(
            "engine.root",
            root,
            f"Flower submits a project, and {' or '.join(map(str, candidates)) or 'the path'} "
            f"has no {PROJECT_FILE} beside a package `strategies`",
            "Give the path of a checkout, install corolla from one with `pip install -e .`, or use "
            "engine=inline.",
        )
    )


def stage(root: Path, target: Path, config_yaml: str = "{}") -> Path:
    """Copy the app's bundle files from ``root`` into the new directory ``target``; return it.

    The user's own modules that ``config_yaml`` names go along (`engines.own_code`).

    ``flwr run`` looks at every file below the app directory: in a checkout with an environment in
    ``.venv`` that took 5 s, the copy takes some hundredths of a second. The rules are those of
    ``pyproject.toml``, ``fab-include`` and ``fab-exclude``. The copy of that file has the second one
    no more, because Flower refuses an exclusion that matches nothing.
    """
    project = tomllib.loads((root / PROJECT_FILE).read_text(encoding="utf-8"))
    app = project.get("tool", {}).get("flwr", {}).get("app", {})
    patterns = app.get("fab-include", ["**"])
    include = GitIgnoreSpec.from_lines(patterns)
    exclude = GitIgnoreSpec.from_lines(app.pop("fab-exclude", []))
    target.mkdir(parents=True)
    own = copy_own_code(config_yaml, target)
    if own:
        app["fab-include"] = [*patterns, *own]
    (target / PROJECT_FILE).write_text(tomli_w.dumps(project), encoding="utf-8")
    for top in sorted({pattern.lstrip("/").split("/")[0] for pattern in patterns}):
        for source in (path for one in root.glob(top) for path in (one, *one.rglob("*"))):
            name = source.relative_to(root).as_posix()
            if "__pycache__" in source.parts or not source.is_file():
                continue
            if include.match_file(name) and not exclude.match_file(name):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target / name)
    return target


def write_run_config(path: Path, values: dict[str, str]) -> None:
    """Write run-config values as the TOML file that ``flwr run --run-config`` takes."""
    path.write_text(tomli_w.dumps(values), encoding="utf-8")
