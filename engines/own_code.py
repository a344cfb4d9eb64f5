"""A user's own modules for the bundle: SuperLink and SuperNodes have nothing but what is submitted."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from corolla.config.own_parts import given_folders
from corolla.errors import Fault, RefusedError

LOGGER = logging.getLogger(__name__)
OURS = ("corolla", "strategies", "clients", "engines", "conf", "src")
MOST_MIB = 2.0
_SKIPPED = ("__pycache__", "node_modules", "site-packages")


def copy_own_code(config_yaml: str, target: Path) -> list[str]:
    """Copy the modules that the configuration's own parts need into the bundle; return their patterns.

    Of a given folder all Python files go along, as modules import each other. An installed package does
    not: every machine must have it, which a warning says.

    Raises:
        RefusedError: a folder with more Python than a bundle takes, or with names of this project.

    """
    tops = set(_tops(yaml.safe_load(config_yaml)))
    patterns: list[str] = []
    for folder in given_folders():
        here = {top for top in tops if (folder / f"{top}.py").is_file() or (folder / top).is_dir()}
        if here:
            patterns += _copied(folder, target)
            tops -= here
    for top in sorted(tops):
        if find_spec(top) is not None:
            LOGGER.warning(
                "package %r is installed, and not in the bundle: the SuperLink's machine and every "
                "node must have it installed as well",
                top,
            )
    return patterns


def _copied(folder: Path, target: Path) -> list[str]:
    files = [
        path
        for path in sorted(folder.rglob("*.py"))
        if not any(p in _SKIPPED or p.startswith(".") for p in path.relative_to(folder).parts)
    ]
    mib = sum(path.stat().st_size for path in files) / 2**20
    if mib > MOST_MIB:
        problem = f"holds {mib:.1f} MiB of Python files; a bundle takes {MOST_MIB:g}"
        remedy = "Give a folder that holds your own parts and nothing else"
        raise RefusedError(Fault("config-dir", str(folder), problem, remedy))
    names = [path.relative_to(folder).as_posix() for path in files]
    taken = sorted({name for name in names if name.split("/")[0].removesuffix(".py") in OURS})
    if taken:
        problem = f"{taken[0]} has a name that this project uses"
        raise RefusedError(
            Fault("config-dir", str(folder), problem, "Rename your module or package")
        )
    for path, name in zip(files, names, strict=True):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
    return [f"/{name}" for name in names]


def _tops(node: Any) -> Iterator[str]:
    """Yield the first names of dotted classes that are not this project's."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("_target_", "strategy", "client") and isinstance(value, str):
                top = value.partition(".")[0]
                if top not in OURS and top.isidentifier():
                    yield top
            else:
                yield from _tops(value)
