"""A federation of real processes on loopback: TLS, node keys, one folder of images per site."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.deployment.faulty_way import FaultyWay

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sys.executable).parent
CONNECTION = "site"
DIGITS = [
    "dataset=imagefolder",
    "dataset.classes=['0','1','2','3','4','5','6','7','8','9']",
    "dataset.resolution=8",
    "dataset.channels=1",
]


class Federation:
    """A SuperLink and the sites' SuperNodes, each a process; `close` ends all of them."""

    def __init__(
        self,
        folder: Path,
        sites: list[str],
        *,
        later: Sequence[str] = (),
        options: Mapping[str, str] | None = None,
        way: FaultyWay | None = None,
        warm: bool = False,
        behind: Sequence[str] = (),
    ) -> None:
        """Sites that join ``later`` are registered, but `start` starts no node for them.

        ``options``: what a site's node configuration says besides name and folders. ``way``: what lies
        between the SuperLink and everybody; server parts of runs are then started by a process that
        outlives the SuperLink. ``warm``: nodes are started by `corolla node`; what they start is then not
        all of their family, and `kill_node` no power cut. ``behind``: a command that starts the nodes.
        """
        self.way = way
        self.folder = folder
        self.runs = folder / "runs"
        self.sites = sites
        self._registered = [*sites, *later]
        self._options = dict(options or {})
        node = [SCRIPTS / "corolla", "node"] if warm else [SCRIPTS / "flower-supernode"]
        self._node_command = [*behind, *node]
        self._credentials = folder / "credentials"
        self.port = free_port()
        self.sites_port = free_port()
        self._node_ports = {site: free_port() for site in self._registered}
        self._processes: list[psutil.Popen] = []
        self._superlink: psutil.Popen | None = None
        self._executor: psutil.Popen | None = None  # starts server parts of runs, where it is apart
        self._gate: psutil.Popen | None = None
        self._user: psutil.Popen | None = None
        self._nodes: dict[str, psutil.Popen] = {}

    def start(self) -> None:
        """Make keys and data, start the SuperLink, register the sites, start their nodes."""
        _succeed([ROOT / "scripts/make_credentials.sh", self._credentials, *self._registered])
        writer = [sys.executable, str(ROOT / "scripts/digit_sites.py"), "--images", "120"]
        _succeed([*writer, self.folder / "sites", *self._registered])
        certs = self._credentials / "certs"
        if self.way is not None:
            self.way.start(certs, self.port)
        self.connect("user", self.way.port if self.way is not None else self.port)
        self.start_superlink()
        if self.way is not None:
            self._executor = self._spawn(
                "superexec",
                [
                    SCRIPTS / "flower-superexec",
                    f"--runtime-api-address=127.0.0.1:{self.way.port}",
                    f"--root-certificates={self.ca_certificate}",
                ],
            )
        self.start_gate()
        for site in self._registered:
            registered = self.flwr("supernode", "register", self.key(site), "--name", site)
            assert registered["success"], registered
        for site in self.sites:
            self.start_node(site)
        self.wait_for_nodes(len(self.sites))

    def start_superlink(self) -> None:
        """Start the SuperLink as compose.yaml does, or start it again: it knows what it knew before."""
        certs = self._credentials / "certs"
        self.runs.mkdir(exist_ok=True)
        self._superlink = self._spawn(
            "superlink",
            [
                ROOT / "scripts/superlink.sh",
                self.runs,
                f"--database={self.folder / 'superlink.db'}",
                *(["--isolation=process"] if self.way is not None else []),
                "--host=127.0.0.1",
                f"--port={self.port}",
                f"--ssl-ca-certfile={certs / 'ca.crt'}",
                f"--ssl-certfile={certs / 'server.crt'}",
                f"--ssl-keyfile={certs / 'server.key'}",
                "--enable-supernode-auth",
                "--disable-runtime-dependency-installation",
            ],
        )
        wait_until(lambda: self._answers("superlink", self.port), 60, "the SuperLink")

    @property
    def superlink(self) -> psutil.Popen:
        """The SuperLink's own process."""
        assert self._superlink is not None
        return self._superlink

    @property
    def gate(self) -> psutil.Popen:
        """The process of the port for sites."""
        assert self._gate is not None
        return self._gate

    def kill_superlink(self) -> None:
        """End the SuperLink as a power cut would, and what it started."""
        _kill_tree(self.superlink)

    def start_gate(self) -> None:
        """Start the port for sites by the command of compose.yaml, with this machine's addresses."""
        program, *shipped = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["gate"][
            "command"
        ]
        here = {
            "--superlink": f"127.0.0.1:{self.way.port if self.way is not None else self.port}",
            "--host": "127.0.0.1",
            "--port": str(self.sites_port),
        }
        options = dict(option.split("=", 1) for option in shipped) | here
        certs = str(self._credentials / "certs")
        self._gate = self._spawn(
            "gate",
            [
                SCRIPTS / "python",
                ROOT / "scripts" / program,
                *(
                    f"{key}={value.replace('/credentials', certs)}"
                    for key, value in options.items()
                ),
            ],
        )
        wait_until(lambda: self._answers("gate", self.sites_port), 60, "the gate")

    def stop_gate(self) -> None:
        """End the port for sites, SIGTERM."""
        self.gate.terminate()
        self.gate.wait(timeout=20)

    def connect(self, user: str, port: int) -> None:
        """Write a Flower configuration that knows the CA's certificate and ``port``, no more."""
        home = self.folder / user
        home.mkdir()
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n[superlink.{CONNECTION}]\n'
            f'address = "127.0.0.1:{port}"\nroot-certificates = "{self.ca_certificate}"\n'
        )

    def flwr(self, *arguments: str | Path, user: str = "user") -> dict[str, Any]:
        """Return the answer of a command of Flower's; ``success`` says whether it did what it should."""
        done = subprocess.run(
            [str(part) for part in (SCRIPTS / "flwr", *arguments, "--format", "json")],
            env=self.environment(user),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        start = done.stdout.find("{")
        assert start >= 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout[start:]))

    @property
    def ca_certificate(self) -> Path:
        """The certificate that every site and every user has."""
        return self._credentials / "certs" / "ca.crt"

    def key(self, site: str) -> Path:
        """Return the file of the public key of ``site``."""
        return self._credentials / "keys" / f"{site}.pub"

    def make_key(self, name: str) -> Path:
        """Make a key pair that nobody has registered; return its public half."""
        folder = self.folder / f"keys-of-{name}"
        _succeed([ROOT / "scripts/make_credentials.sh", folder, name])
        return folder / "keys" / f"{name}.pub"

    def start_node(self, site: str) -> None:
        """Start the SuperNode of ``site`` with its own key, data and state."""
        own = self.folder / "sites" / site
        more = self._options.get(site, "")
        self._nodes[site] = self._spawn(
            site,
            [
                *self._node_command,
                f"--superlink=127.0.0.1:{self.sites_port}",
                f"--root-certificates={self.ca_certificate}",
                f"--auth-supernode-private-key={self._credentials / 'keys' / site}",
                f"--port={self._node_ports[site]}",
                "--node-config="
                f'client="{site}" data-dir="{own / "data"}" state-dir="{self.state_dir(site)}" {more}',
            ],
        )

    def state_dir(self, site: str) -> Path:
        """Return the folder on the site's disk that its SuperNode writes to."""
        return self.folder / "sites" / site / "state"

    def nodes(self) -> list[dict[str, str]]:
        """Return the SuperLink's list of registered nodes."""
        return list(self.flwr("supernode", "list")["nodes"])

    def online(self) -> int:
        """Return how many nodes the SuperLink takes for connected."""
        return sum(node["status"] == "online" for node in self.nodes())

    def wait_for_nodes(self, count: int, timeout_s: float = 90) -> None:
        """Return once exactly ``count`` nodes are connected."""
        wait_until(lambda: self.online() == count, timeout_s, f"{count} nodes", pause_s=1)

    def corolla(self, *arguments: str) -> psutil.Popen:
        """Start the command line, as a user outside would; its output goes to user.log."""
        self._user = self._spawn("user", [SCRIPTS / "corolla", *arguments])
        return self._user

    def end_run(self) -> None:
        """End what a failed test has left behind of its run, so that the next one has the nodes."""
        if self._user is not None and self._user.poll() is None:
            _kill_tree(self._user)
            with suppress(AssertionError):
                self.kill_server_app()

    def run(self, run_dir: Path, *overrides: str) -> psutil.Popen:
        """Start a short run over all sites."""
        return self.corolla(
            "run",
            "engine=superlink",
            f"engine.name={CONNECTION}",
            *DIGITS,
            f"clients={len(self.sites)}",
            f"clients_per_round={len(self.sites)}",
            "local_epochs=1",
            "evaluation.every=0",
            "evaluation.fine_tune_epochs=0",
            "report=false",
            f"run_dir={run_dir}",
            *overrides,
        )

    def kill_node(self, site: str) -> None:
        """End a site as a power cut would: its SuperNode and all that it started, SIGKILL."""
        _kill_tree(self._nodes.pop(site))

    def freeze(self, site: str, *, still: bool) -> None:
        """Stop a site's processes where they are, SIGSTOP, or have them go on, SIGCONT."""
        node = self._nodes[site]
        for member in [node, *node.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGSTOP if still else signal.SIGCONT)

    def training(self, site: str) -> bool:
        """Return whether the site works on a message at the moment."""
        return _find(self._nodes[site], "flwr-clientapp") is not None

    def kill_server_app(self) -> None:
        """End the server part of the run, SIGKILL; the SuperLink lives on."""
        server_app = self.serves()
        assert server_app is not None, "no run is going on"
        server_app.kill()

    def serves(self) -> psutil.Process | None:
        """Return the server part of the run that is going on."""
        starter = self._executor or self._superlink
        assert starter is not None
        return _find(starter, "flwr-serverapp")

    def environment(self, name: str) -> dict[str, str]:
        """Return an environment with a Flower directory of its own, as on a machine of its own."""
        return {
            **os.environ,
            # Flower starts its own programs by name.
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(self.folder / name),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
        }

    def log(self, name: str) -> str:
        """Return what a process has written so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        """End every process that was started, and those that they started."""
        for process in reversed(self._processes):
            _kill_tree(process)

    def _answers(self, name: str, port: int) -> bool:
        assert self._processes[-1].poll() is None, self.log(name)
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def _spawn(self, name: str, command: list[str | Path]) -> psutil.Popen:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = psutil.Popen(
                [str(part) for part in command],
                env=self.environment(name),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._processes.append(process)
        return process


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(
    condition: Callable[[], bool], timeout_s: float, what: str, *, pause_s: float = 0.1
) -> None:
    """Return once ``condition`` holds; AssertionError when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s in vain for {what}"
        time.sleep(pause_s)


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file of JSON lines, of the whole lines in it."""
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def _succeed(command: list[str | Path], env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _find(process: psutil.Process, program: str) -> psutil.Process | None:
    """Return the descendant of ``process`` that runs ``program``; one that ended does not count."""
    with suppress(psutil.NoSuchProcess):
        for child in process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if any(Path(part).name == program for part in child.cmdline()[:2]):
                    return child
    return None


def _kill_tree(process: psutil.Popen) -> None:
    with suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGKILL)
    process.wait(timeout=20)
