"""``corolla list``: what can be chosen, one line of what it is, and a command that runs it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from corolla.config.groups import config_dir, file_of, groups, methods

_OUT = Console(soft_wrap=True)
_PARTS = {"method": ("space", "dataset"), "experiment": ("method", "space", "dataset")}
_GROUPS = {
    "methods": "method",
    "spaces": "space",
    "datasets": "dataset",
    "experiments": "experiment",
}


def list_command(options: argparse.Namespace, console: Console) -> int:
    """Print all parts of each kind, or of one."""
    for plural, group in _GROUPS.items():
        if options.what in (None, plural):
            _OUT.print(f"[bold]{plural}[/]")
            for name in methods() if group == "method" else groups().get(group, []):
                parts = [f"{part}={_chosen(group, name, part)}" for part in _PARTS.get(group, ())]
                _OUT.print(f"  {name:<20} {_said(group, name)}", highlight=False, markup=False)
                takes = f"   # {' '.join(parts)}" if parts else ""
                command = _command(group, name, options.config_dir) + takes
                _OUT.print(f"{'':<23}{command}", highlight=False, markup=False, style="dim")
    return 0


def _chosen(group: str, name: str, part: str) -> str:
    """Return what a run takes of ``part`` where nothing is given: suggested, or the default."""
    if group == "method":
        for suggests in _values(group, name, "suggests"):
            texts = [text for some in ("digits", "all") for text in suggests.get(some, [])]
            if found := [t.partition("=")[2] for t in texts if t.startswith(f"{part}=")]:
                return str(found[0])
    else:
        for entries in _values(group, name, "defaults"):
            for one in entries:
                if isinstance(one, dict) and f"override /{part}" in one:
                    return str(one[f"override /{part}"])
    defaults: list[Any] = yaml.safe_load((config_dir() / "config.yaml").read_text())["defaults"]
    return next(str(one[part]) for one in defaults if part in one)


def _values(group: str, name: str, key: str) -> Iterator[Any]:
    """Yield what a file has at ``key``, then those that it builds on."""
    content = yaml.safe_load(file_of(group, name).read_text()) or {}
    if key in content:
        yield content[key]
    for one in content.get("defaults", []):
        if isinstance(one, str) and one not in ("_self_", name):
            yield from _values(group, one, key)


def _said(group: str, name: str) -> str:
    """Return the first line of the file's comment."""
    file = file_of(group, name)
    remarks = (line.lstrip("# ") for line in file.read_text().splitlines() if line.startswith("#"))
    whole = (line for line in remarks if not line.endswith(f"/{file.name}"))  # its own name
    return next((line for line in whole if not line.startswith("@package")), "")


def _command(group: str, name: str, folders: Sequence[str]) -> str:
    needs_root = (group == "experiment" and _chosen(group, name, "dataset") != "digits") or (
        group == "dataset" and name != "digits"
    )
    file = file_of(group, name).absolute()
    own = [f" --config-dir {one}" for one in folders if file.is_relative_to(Path(one).absolute())]
    return f"corolla run{''.join(own)} {group}={name}" + (
        " dataset.root=PATH" if needs_root else ""
    )
