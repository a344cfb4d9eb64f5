"""scripts/supernode.sh: a node that was killed waits before it comes back, others do not.

Stand-ins for `flower-supernode` and `sleep` on the PATH write down how they were called.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "supernode.sh"


class Stage:
    """A folder of stand-ins, and a state folder."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.calls = folder / "calls"
        self._script = SCRIPT
        self._bin = folder / "bin"
        self.state.mkdir()
        self._bin.mkdir()
        self.stand_in("sleep", "exit 0")

    def stand_in(self, name: str, body: str) -> None:
        path = self._bin / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>"{self.calls}"\n{body}\n')
        path.chmod(0o755)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PATH": f"{self._bin}:{os.environ['PATH']}"}
        return subprocess.Popen([str(self._script), str(self.state), *options], env=environment)

    def hold_up(self) -> None:
        """From now on the script stops for a while just after it started a child, as on a busy machine."""
        start = "&\n"
        text = self._script.read_text()
        assert text.count(start) == 1
        self._script = self._bin / SCRIPT.name
        self._script.write_text(text.replace(start, f"{start}/bin/sleep 0.5\n"))
        self._script.chmod(0o755)

    def run(self, *options: str) -> int:
        return self.start(*options).wait(timeout=20)

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def wait_for(self, call: str) -> None:
        deadline = time.monotonic() + 20
        while call not in self.called():
            assert time.monotonic() < deadline, self.called()
            time.sleep(0.02)


def wait_until_gone(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            process.wait(timeout=20)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_node_that_ended_by_itself_starts_again_at_once(stage: Stage, code: int) -> None:
    stage.stand_in("flower-supernode", f"exit {code}")
    assert stage.run("--superlink", "superlink:8000") == code
    assert stage.run("--superlink", "superlink:8000") == code
    assert stage.called() == ["flower-supernode --superlink superlink:8000"] * 2


def test_a_node_that_was_killed_waits_once(stage: Stage) -> None:
    stage.stand_in("flower-supernode", "kill -KILL $$")
    assert stage.run() == 137
    stage.stand_in("flower-supernode", "exit 0")
    assert stage.run() == 0
    assert stage.run() == 0
    node = "flower-supernode "
    assert stage.called() == [node, "sleep 75", node, node]


def test_a_container_that_was_killed_as_a_whole_waits(stage: Stage) -> None:
    stage.stand_in("flower-supernode", f"echo $$ >{stage.state}/pid; exec tail -f /dev/null")
    script = stage.start()
    stage.wait_for("flower-supernode ")
    while not (stage.state / "pid").exists():
        time.sleep(0.02)
    script.kill()
    assert script.wait(timeout=20) == -signal.SIGKILL
    os.kill(int((stage.state / "pid").read_text()), signal.SIGKILL)
    stage.stand_in("flower-supernode", "exit 0")
    assert stage.run() == 0
    assert stage.called()[1:] == ["sleep 75", "flower-supernode "]


@pytest.mark.parametrize("held_up", [False, True])
def test_a_stop_reaches_the_node_and_is_no_kill(stage: Stage, held_up: bool) -> None:
    if held_up:
        stage.hold_up()
    # The node says farewell to the SuperLink on SIGTERM; the script must give it the time.
    # It ends by itself in the end: a script that forgets it must not leave it to the machine.
    farewell = (
        "trap 'echo farewell; exit 0' TERM; echo up; for _ in {1..600}; do /bin/sleep 0.05; done"
    )
    stage.stand_in("flower-supernode", f"exec >>{stage.calls}; {farewell}")
    script = stage.start()
    stage.wait_for("up")
    script.send_signal(signal.SIGTERM)
    assert script.wait(timeout=20) == 0
    assert stage.called()[-1] == "farewell"
    assert list(stage.state.iterdir()) == []


def test_a_stop_ends_the_wait_and_the_next_start_waits_again(stage: Stage) -> None:
    (stage.state / ".supernode-running").touch()
    stage.stand_in("flower-supernode", "exit 0")
    stage.stand_in("sleep", f"echo $$ >{stage.state}/pid; exec tail -f /dev/null")
    script = stage.start()
    while not (stage.state / "pid").exists():
        time.sleep(0.02)
    script.send_signal(signal.SIGTERM)
    assert script.wait(timeout=20) == 143
    pause = int((stage.state / "pid").read_text())
    wait_until_gone(pause)
    assert stage.called() == ["sleep 75"]
    stage.stand_in("sleep", "exit 0")
    assert stage.run() == 0
    assert stage.called() == ["sleep 75", "sleep 75", "flower-supernode "]
