"""``corolla clean``: what finished runs have left on a site's disk. Nothing is removed without --delete."""

from __future__ import annotations

import argparse
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from corolla.errors import Fault, RefusedError
from corolla.records.client_store import FINISHED, RUN_NAME

_OUT = Console(soft_wrap=True)
_DAY_S = 86_400.0


@dataclass(frozen=True)
class Leftover:
    """A folder that nothing needs any more."""

    path: Path
    why: str

    @property
    def mib(self) -> float:
        """Its size in MiB."""
        return sum(file.lstat().st_size for file in self.path.rglob("*")) / 2**20


def clean_command(options: argparse.Namespace, console: Console) -> int:
    """Name what is left over, and remove it where that is wanted."""
    for key, folder in (("state_dir", options.state_dir), ("--flower-home", options.flower_home)):
        if folder is not None and not folder.is_dir():
            remedy = "Give the folder that the node was started with"
            raise RefusedError(Fault(key, str(folder), "is no folder", remedy))
    if not options.days >= 0:  # nan too
        raise RefusedError(Fault("--days", options.days, "is no number of days", "Give 0 or more"))
    own = next((options.state_dir / "runs").glob("*/config.yaml"), None)
    if own is not None:
        problem = f"holds run directories ({own.parent}), not what a site keeps of runs"
        remedy = "Give a site's state-dir; a run directory that nobody needs is yours to delete"
        raise RefusedError(Fault("state_dir", str(options.state_dir), problem, remedy))
    found = list(left_by_runs(options.state_dir, days=options.days))
    if options.flower_home is not None:
        found += old_bundles(options.flower_home)
    total = 0.0
    for one in found:
        mib = one.mib
        total += mib
        _OUT.print(f"{mib:9.1f} MiB  {one.path}  ({one.why})", highlight=False, markup=False)
        if options.delete:
            shutil.rmtree(one.path)
    if not found:
        _OUT.print("Nothing is left over.")
    elif options.delete:
        _OUT.print(f"Removed: {total:.1f} MiB.")
    else:
        _OUT.print(f"{total:.1f} MiB could go; nothing was removed. Add --delete to remove it.")
    return 0


def left_by_runs(state_dir: Path, *, days: float, now_s: float | None = None) -> Iterator[Leftover]:
    """Yield the states of runs that have deployed their models, or that nobody touched for ``days`` days.

    Folders that no site has made, by their names, are none of ours.
    """
    now_s = time.time() if now_s is None else now_s
    for folder in sorted((state_dir / "runs").glob("*/")):
        if folder.is_symlink() or not RUN_NAME.fullmatch(folder.name):
            continue
        touched_s = max((each.lstat().st_mtime for each in [folder, *folder.rglob("*")]), default=0)
        idle = (now_s - touched_s) / _DAY_S
        if (folder / FINISHED).exists():
            yield Leftover(folder, "its run is finished")
        elif idle > days:
            yield Leftover(folder, f"untouched for {idle:.0f} days")


def old_bundles(flower_home: Path) -> list[Leftover]:
    """Return all bundles of an application but the newest: one that is missed is sent again."""
    versions: defaultdict[str, list[Path]] = defaultdict(list)
    for folder in (flower_home / "apps").glob("*/"):
        # PUBLISHER.NAME.VERSION.HASH; the version has points of its own
        versions[".".join(folder.name.split(".")[:2])].append(folder)
    return [
        Leftover(folder, "a bundle that a newer one has replaced")
        for name in sorted(versions)
        for folder in sorted(versions[name], key=lambda each: each.stat().st_mtime)[:-1]
    ]
