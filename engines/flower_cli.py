"""Flower's own command line, called as a person would: submit, follow, ask for and stop a run.

The Python modules behind ``flwr`` are internal and move with every release; its commands and their
JSON do not. A call costs about 0.8 s of CPU, so nothing here polls: ``flwr log`` waits for the end.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.base import without_colours

LOGGER = logging.getLogger(__name__)
CALL_TIMEOUT_S = 120.0
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
"""No calls to outside from processes that the user did not start; what is set already stays."""


class FlowerCallError(RuntimeError):
    """A ``flwr`` command failed; the text is what it printed."""


@dataclass(frozen=True)
class RunStatus:
    """How a run stands: ``pending``, ``running``, ``finished:completed`` ..., and the reason."""

    status: str
    details: str

    def __str__(self) -> str:
        """Return both as one phrase."""
        return f"{self.status}: {self.details}" if self.details else self.status

    @property
    def finished(self) -> bool:
        """Return whether the run has ended, in whatever way."""
        return self.status.startswith("finished")

    @property
    def completed(self) -> bool:
        """Return whether the run did all it should; the only good end."""
        return self.status == "finished:completed"


def scripts() -> Path:
    """Return where this environment's commands (``flwr``, ``flower-superlink``) are."""
    return Path(sysconfig.get_path("scripts"))


def flower_env(home: Path | None) -> dict[str, str]:
    """Return this process's environment for a Flower command.

    ``home`` replaces the user's Flower directory (configuration, bundles). This environment's
    commands come first on PATH, because Flower starts its own helpers by name.
    """
    env = QUIET | dict(os.environ)
    env["PATH"] = os.pathsep.join([str(scripts()), env.get("PATH", os.defpath)])
    if home is not None:
        env["FLWR_HOME"] = str(home)
    return env


def write_connection(
    home: Path, *, name: str, address: str, root_certificates: Path | None = None
) -> None:
    """Write a Flower configuration with one connection; without certificates it is insecure."""
    lines = ["[superlink]", f'default = "{name}"', "", f"[superlink.{name}]"]
    lines += [f"address = {json.dumps(address)}"]
    if root_certificates is None:
        lines += ["insecure = true"]
    else:
        lines += [f"root-certificates = {json.dumps(str(root_certificates))}"]
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


class FlowerCli:
    """Commands to one SuperLink, named by a connection of the Flower configuration in ``home``."""

    def __init__(self, *, connection: str, home: Path | None) -> None:
        """``home=None`` takes the user's own Flower configuration and login."""
        self._connection = connection
        self._env = flower_env(home)

    def submit(self, root: Path, *, run_config: Path) -> int:
        """Submit the app at ``root``; return the run's id. Raises FlowerCallError."""
        answer = self._json(["run", str(root), self._connection, "--run-config", str(run_config)])
        return int(answer["run-id"])

    def status(self, run_id: int) -> RunStatus:
        """Return how the run stands. Raises FlowerCallError."""
        answer = self._json(["list", self._connection, "--run-id", str(run_id)])
        run = answer["runs"][0]
        details = "" if run["status-details"] == "N/A" else without_colours(run["status-details"])
        return RunStatus(status=run["status"], details=details)

    def reach(self) -> None:
        """Return if the SuperLink answers a question about its runs; else raise FlowerCallError."""
        self._json(["list", self._connection, "--limit", "1"])

    def stop(self, run_id: int) -> None:
        """Stop the run. Raises FlowerCallError, also when it had ended already."""
        self._json(["stop", str(run_id), self._connection])

    def online(self) -> int:
        """Return how many SuperNodes the SuperLink takes for connected. Raises FlowerCallError."""
        nodes = self._json(["supernode", "list", self._connection])["nodes"]
        return sum(node["status"] == "online" for node in nodes)

    def follow(self, run_id: int, log: Path, *, skip: int = 0) -> subprocess.Popen[bytes]:
        """Start the command that appends the run's log to ``log`` and ends when the run does.

        ``skip``: bytes of the run's log that are there already. The process leads a group of its own.
        """
        command = [self._flwr(), "log", str(run_id), self._connection, "--stream"]
        if skip:  # Flower's command knows the whole log only
            command = ["sh", "-c", f'"$@" | tail -c +{skip + 1}', "sh", *command]
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,  # what the reader says of itself; its end is looked into
                env=self._env,
                start_new_session=True,
            )

    def _json(self, arguments: Sequence[str]) -> dict[str, Any]:
        command = [self._flwr(), *arguments, "--format", "json"]
        LOGGER.debug("calling %s", command)
        # A session of its own: Ctrl-C must not cut a submission in half and lose the run's id.
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=self._env,
                timeout=CALL_TIMEOUT_S,
                start_new_session=True,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise FlowerCallError(
                f"`flwr {arguments[0]}` could not be carried out: {problem}"
            ) from problem
        answer = _first_json(done.stdout)
        if done.returncode == 0 and answer is not None and answer.get("success"):
            return answer
        said = str(answer["error-message"]) if answer and "error-message" in answer else ""
        text = without_colours(said or done.stderr or done.stdout).strip()
        raise FlowerCallError(f"`flwr {arguments[0]}` failed: {text or 'it said nothing'}")

    @staticmethod
    def _flwr() -> str:
        return str(scripts() / "flwr")


def _first_json(text: str) -> dict[str, Any] | None:
    """Return the JSON object in a command's output, which may have notices before it."""
    text = without_colours(text)
    start = text.find("{")
    while start >= 0:
        try:
            value, _ = json.JSONDecoder().raw_decode(text[start:])
        except json.JSONDecodeError:
            start = text.find("{", start + 1)
            continue
        return value if isinstance(value, dict) else None
    return None
