"""Starts ``flower-supernode`` with a warm client: `corolla node`, and what scripts/supernode.sh runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from corolla.errors import Fault, RefusedError
from engines import warm_client
from engines.flower_cli import flower_env

_KEY = re.compile(r"(?:^|\s)warm-client\s*=\s*(\S+)")


def command(options: Sequence[str]) -> tuple[str, list[str], dict[str, str]]:
    """Return program, arguments and environment of the SuperNode with flower-supernode's ``options``.

    Raises:
        RefusedError: ``warm-client`` of the node configuration is no truth value; no flower-supernode.

    """
    environment = flower_env(None)
    program = _found("flower-supernode", environment)
    if program is None:
        remedy = "Install corolla's requirements in this environment: docs/deployment.md"
        raise RefusedError(Fault("flower-supernode", None, "is not installed", remedy))
    arguments = [program, *options]
    client = _found("flwr-clientapp", environment)
    if not _wanted(options) or client is None or not hasattr(os, "pidfd_open"):
        return program, arguments, environment
    home = Path(environment.get("FLWR_HOME") or Path.home() / ".flwr")
    try:
        folder = warm_client.private(home.absolute() / "warm-client")
        _write_stand_in(folder / "bin" / "flwr-clientapp")
    except (OSError, warm_client.NotWarmError) as error:
        sys.stderr.write(f"WARNING no warm client, each message starts a Python: {error}\n")
        return program, arguments, environment
    environment |= {warm_client.FOLDER_KEY: str(folder), warm_client.COMMAND_KEY: client}
    environment["PATH"] = os.pathsep.join([str(folder / "bin"), environment["PATH"]])
    return program, arguments, environment


def _found(name: str, environment: dict[str, str]) -> str | None:
    """Return the program as the caller would find it, else that of this environment."""
    return shutil.which(name) or shutil.which(name, path=environment["PATH"])


def _wanted(options: Sequence[str]) -> bool:
    """Return what ``warm-client`` in ``--node-config`` says; true without it."""
    text = " ".join(options)
    said = _KEY.search(text.replace("--node-config=", "--node-config "))
    value = said.group(1) if said else "true"
    if value not in ("true", "false"):
        remedy = "Write warm-client=true or =false, without quotes"
        raise RefusedError(Fault("warm-client", value, "is neither true nor false", remedy))
    return value == "true"


def _write_stand_in(path: Path) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    words = [sys.executable, "-I", "-S", warm_client.__file__]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    temporary.chmod(0o700)
    temporary.replace(path)


def main(options: Sequence[str]) -> None:
    """Become the SuperNode."""
    program, arguments, environment = command(options)
    os.execve(program, arguments, environment)
