"""What is submitted to Flower: the checkout that holds the app, cut down to what it needs."""

from __future__ import annotations

import importlib.util
import shutil
import tomllib
from pathlib import Path

from corolla.errors import Fault, RefusedError

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


def stage(root: Path, target: Path) -> Path:
    """Copy what the bundle can hold from ``root`` into the new directory ``target``; return it.

    ``flwr run`` looks at every file below the app directory. In a checkout with an environment in
    ``.venv`` that took 5 s; the copy takes some hundredths of a second. Which files enter the
    bundle is still for Flower to say, by the same ``fab-include`` and ``fab-exclude``.
    """
    project = tomllib.loads((root / PROJECT_FILE).read_text(encoding="utf-8"))
    include = project.get("tool", {}).get("flwr", {}).get("app", {}).get("fab-include", ["**"])
    target.mkdir(parents=True)
    shutil.copy2(root / PROJECT_FILE, target / PROJECT_FILE)
    for pattern in include:
        for source in root.glob(pattern):
            if source.is_file() and "__pycache__" not in source.parts:
                copy = target / source.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, copy)
    return target


def write_run_config(path: Path, values: dict[str, str]) -> None:
    """Write run-config values as the TOML file that ``flwr run --run-config`` takes."""
    path.write_text(
        "".join(f"{key} = {_toml_string(value)}\n" for key, value in values.items()),
        encoding="utf-8",
    )


def _toml_string(text: str) -> str:
    """Return ``text`` as a TOML basic string: one line, everything special escaped."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(escapes.get(c) or _escape_control(c) for c in text) + '"'


def _escape_control(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x20 or code == 0x7F else character
