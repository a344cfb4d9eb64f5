from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from engines.addresses import free_port
from engines.flower_cli import flower_env
from engines.guarded import Guarded, is_over

pytestmark = pytest.mark.usefixtures("nothing_left")

# A command that starts a child in its own session, as a SuperLink does, whose child survives it and
# ignores all that can be ignored.
FAMILY = """
import subprocess, sys, time
deaf = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]; time.sleep(60)"
middle = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {deaf!r}])"
subprocess.Popen([sys.executable, "-c", middle], start_new_session=True).wait()
print("started", flush=True)
time.sleep(60)
"""


def start(tmp_path: Path, code: str, **options: object) -> Guarded:
    log = tmp_path / "log"
    return Guarded(
        [sys.executable, "-c", code], env=flower_env(None), log=log, cwd=tmp_path, **options
    )


def wait_for(text: str, log: Path) -> None:
    deadline = time.monotonic() + 30
    while text not in (log.read_text() if log.exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def family(command: Guarded) -> list[psutil.Process]:
    return psutil.Process(command.pid).children(recursive=True)


def test_stop_ends_orphans_in_other_sessions_too(tmp_path: Path) -> None:
    command = start(tmp_path, FAMILY)
    wait_for("started", tmp_path / "log")
    processes = family(command)
    assert len(processes) == 2  # the command, and the orphan that the guard adopted
    command.stop()
    assert all(is_over(process) for process in processes)
    assert not command.running()


def test_when_the_launcher_is_killed_all_that_it_started_ends(tmp_path: Path) -> None:
    launcher = f"""
import sys, time
sys.path[:0] = {sys.path!r}
from pathlib import Path
from tests.engines.test_guard import FAMILY, start
command = start(Path({str(tmp_path)!r}), FAMILY, remove=[Path({str(tmp_path / "scratch")!r})])
print(command.pid, flush=True)
time.sleep(60)
"""
    (tmp_path / "scratch").mkdir()
    process = subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE)
    assert process.stdout is not None
    guard = psutil.Process(int(process.stdout.readline()))
    wait_for("started", tmp_path / "log")
    processes = [guard, *guard.children(recursive=True)]
    assert len(processes) == 3
    process.kill()
    process.wait()
    process.stdout.close()
    psutil.wait_procs(processes, timeout=30)
    assert all(is_over(process) for process in processes)
    assert not (tmp_path / "scratch").exists()


def test_a_command_that_ends_by_itself_takes_its_orphans_along(tmp_path: Path) -> None:
    command = start(tmp_path, FAMILY.replace("time.sleep(60)\n", ""))
    wait_for("started", tmp_path / "log")
    deadline = time.monotonic() + 30
    while command.running():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    command.stop()


def test_a_signal_to_the_guard_ends_the_command(tmp_path: Path) -> None:
    command = start(tmp_path, FAMILY)
    wait_for("started", tmp_path / "log")
    processes = family(command)
    psutil.Process(command.pid).send_signal(signal.SIGTERM)
    psutil.wait_procs(processes, timeout=30)
    assert all(is_over(process) for process in processes)
    command.stop()


def test_a_process_is_found_by_the_file_name_of_its_command(tmp_path: Path) -> None:
    (tmp_path / "flwr-simulation").write_text("import time; time.sleep(60)")
    command = start(
        tmp_path, "import subprocess, sys; subprocess.run([sys.executable, 'flwr-simulation'])"
    )
    deadline = time.monotonic() + 30
    while (found := command.find("flwr-simulation")) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not is_over(found)
    assert command.find("flwr-serverapp") is None
    command.stop()
    assert is_over(found)


def test_whose_port_it_is_can_be_told(tmp_path: Path) -> None:
    code = """
import socket, time
with socket.create_server(("127.0.0.1", 0)) as server:
    print("port", server.getsockname()[1], "end", flush=True)
    time.sleep(60)
"""
    ours, other = start(tmp_path, code), start(tmp_path, "import time; time.sleep(60)")
    wait_for("end", tmp_path / "log")
    port = int((tmp_path / "log").read_text().split()[1])
    assert ours.listens(port)
    assert not ours.listens(free_port())
    assert not other.listens(port)
    ours.stop()
    other.stop()
