"""What a run was made with: versions, source, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import corolla

PACKAGES = ("torch", "torchvision", "numpy", "flwr", "ray", "hydra-core")


def collect_environment(seed: int, device: str) -> dict[str, Any]:
    """Return what ``environment.json`` holds.

    Keys: ``versions`` (of python, corolla and ``PACKAGES``; None where one is not installed),
    ``commit`` and ``uncommitted_changes`` (None unless the source is a git checkout), ``platform``,
    ``machine``, ``cpus`` (that this process may use), ``device``, ``seed``. Nothing that names a
    person or a host.
    """
    commit, changed = _source()
    return {
        "versions": {
            "python": platform.python_version(),
            "corolla": corolla.__version__,
            **{package: _version(package) for package in PACKAGES},
        },
        "commit": commit,
        "uncommitted_changes": changed,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "device": device,
        "seed": seed,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _source() -> tuple[str | None, bool | None]:
    """Return commit and whether files differ from it, if the package lies in its own checkout.

    An environment inside somebody else's repository must not report that repository's commit.
    """
    package = Path(corolla.__file__).resolve().parent
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() / "src" / "corolla" != package:
        return None, None
    commit = _git(package, "rev-parse", "--verify", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=no")
    return commit, None if commit is None or changes is None else changes != ""


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # a look, not a lock
        )
    except (OSError, subprocess.SubprocessError):  # no git, no repository, too slow
        return None
    return done.stdout.strip()
