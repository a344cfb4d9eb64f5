"""A folder of runs that were started together: sweep.json says which they are, before the first begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corolla.errors import Fault, RefusedError
from corolla.records.json_files import read_json, write_json
from corolla.records.run_lock import RunLock

_NAME = "sweep.json"


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    name: str  # of its folder
    overrides: Sequence[str]
    config: Mapping[str, Any]  # checked and resolved


@dataclass(frozen=True)
class Sweep:
    """The jobs of a sweep and how far they are."""

    path: Path
    jobs: Sequence[Job]

    @classmethod
    def create(cls, path: Path, jobs: Sequence[Job]) -> Sweep:
        """Write the jobs down. RefusedError where a sweep or a run of theirs is there already."""
        taken = [path / _NAME, *(path / job.name for job in jobs)]
        there = [one for one in taken if one.exists()]
        if there:
            remedy = f"Carry on with corolla resume {path}, or give another run_dir"
            raise RefusedError(
                Fault("run_dir", str(path), f"{there[0].name} is there already", remedy)
            )
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / _NAME, {"jobs": [vars(job) for job in jobs]})
        return cls(path, jobs)

    @classmethod
    def open(cls, path: Path) -> Sweep:
        """Read a sweep's folder, which may have been moved; `is_sweep` tells what is one."""
        content = read_json(path / _NAME) or {}
        return cls(path, [Job(**job) for job in content["jobs"]])

    def lock(self) -> RunLock:
        """Take the sweep for this process, as `RunDirectory.lock` takes a run."""
        return RunLock(self.path)

    def run_dir(self, job: Job) -> Path:
        """Return the folder of a job's run."""
        return self.path / job.name

    def runs(self) -> list[Path]:
        """Return the folders of the runs that have begun."""
        return [self.run_dir(job) for job in self.jobs if self.begun(job)]

    def finished(self, job: Job) -> bool:
        """Tell whether the job's run is complete."""
        return (self.run_dir(job) / "summary.json").is_file()

    def begun(self, job: Job) -> bool:
        """Tell whether the job's run was created."""
        return (self.run_dir(job) / "config.yaml").is_file()


def is_sweep(path: Path) -> bool:
    """Tell whether ``path`` is the folder of a sweep."""
    return (path / _NAME).is_file()


def runs_of(path: Path) -> list[Path]:
    """Return the runs of a sweep that have begun; ``path`` itself where it is no sweep.

    RefusedError where none has.
    """
    if not is_sweep(path):
        return [path]
    begun = Sweep.open(path).runs()
    if not begun:
        remedy = f"Start them: corolla resume {path}"
        raise RefusedError(Fault("run_dir", str(path), "no run of this sweep has begun", remedy))
    return begun
