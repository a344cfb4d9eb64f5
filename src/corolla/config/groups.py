"""The groups of ``conf/`` and of the user's own folders, and the files in them."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from corolla.config import own_parts
from corolla.errors import Fault, refuse

_DEFAULT = r"method_defaults\.(\w+)"


def config_dir() -> Path:
    """Return the folder ``conf/``: beside the source in a checkout or bundle, else as installed."""
    source = Path(__file__).resolve().parents[3] / "conf"
    if (source / "config.yaml").is_file():
        return source
    import conf  # an installed copy: the namespace package that holds the YAML files

    return Path(next(iter(conf.__path__)))


def groups() -> dict[str, list[str]]:
    """Return config group -> names of its files; ``method/search`` is a group below ``method``.

    Those of the user's own folders are among them (`corolla.config.own_parts`).
    Raises: RefusedError where two folders have files of the same name.
    """
    return {group: sorted(files) for group, files in _files(tuple(own_parts.folders())).items()}


def file_of(group: str, name: str) -> Path:
    """Return the YAML file of a group's member."""
    return _files(tuple(own_parts.folders()))[group][name]


def method_defaults() -> frozenset[str]:
    """Return what an experiment may set at ``method_defaults``: what files of methods take from there."""
    own = _files(tuple(own_parts.folders()))
    files = [
        path for group in own if group.split("/")[0] == "method" for path in own[group].values()
    ]
    return frozenset(n for path in files for n in re.findall(_DEFAULT, path.read_text()))


def _files(own: tuple[Path, ...]) -> dict[str, dict[str, Path]]:
    """Return config group -> name -> file, ours first."""
    found: dict[str, dict[str, Path]] = {}
    faults = []
    for folder in (config_dir(), *own):
        known = set(found)
        for child in sorted(folder.glob("**/")) if folder not in own else _groups_in(folder, known):
            for path in sorted(child.glob("*.yaml")) if child != folder else ():
                members = found.setdefault(child.relative_to(folder).as_posix(), {})
                if path.stem in members:
                    problem, remedy = (
                        f"has the name of another file: {members[path.stem]}",
                        "Rename one of them",
                    )
                    faults.append(Fault("config-dir", str(path), problem, remedy))
                members[path.stem] = path
    refuse(faults)
    return {group: found[group] for group in sorted(found)}


def _groups_in(folder: Path, known: Collection[str]) -> list[Path]:
    """Return the groups in a folder of the user's, whose other folders are none of ours to read."""
    tops = sorted({group.partition("/")[0] for group in known})
    return [child for top in tops for child in sorted((folder / top).glob("**/"))]


def methods() -> list[str]:
    """Return the methods; a file of conf/method without a name of its own is a method with other settings."""
    files = _files(tuple(own_parts.folders()))["method"]
    return [n for n, path in sorted(files.items()) if f"\nname: {n}\n" in f"\n{path.read_text()}\n"]
