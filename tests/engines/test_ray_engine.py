from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from corolla.errors import RunFailedError
from engines import serving
from engines.flower_cli import flower_env
from engines.ray import RayEngine
from tests.deployment.federation import free_port
from tests.engines.conftest import dummy_config, rounds_of, wait_for_rounds
from tests.engines.started import Started, is_over

HERE = Path(__file__).parent
SERVER_APP = "tests.engines.dummy_app.strategies.server_app:app"
CLIENT_APP = "tests.engines.dummy_app.clients.client_app:app"


@pytest.fixture(autouse=True)
def _dummy_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "SERVER_APP", SERVER_APP)
    monkeypatch.setattr(serving, "CLIENT_APP", CLIENT_APP)


def ray_engine(**changes: object) -> RayEngine:
    settings: dict[str, object] = {
        "name": "ray",
        "clients": 4,
        "actors": 2,
        "threads": 1,
        "gpus_per_client": 0,
        "address": None,
    }
    return RayEngine(**(settings | changes))  # type: ignore[arg-type]


def test_all_faults_are_shown_at_once() -> None:
    faults = ray_engine(actors=0, threads=1.5, gpus_per_client=-1, address="x").check()
    assert [fault.key for fault in faults] == [
        "engine.actors",
        "engine.threads",
        "engine.gpus_per_client",
        "engine.address",
    ]


def test_a_share_of_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    (fault,) = ray_engine(gpus_per_client=0.5).check()
    assert fault.problem == "this machine shows 0 GPU(s), too few for a single client"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert ray_engine(gpus_per_client=0.5).check() == []


def test_a_cluster_is_used_as_far_as_its_nodes_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 2.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    assert ray_engine().capacity() == 2  # this machine: engine.actors
    assert ray_engine().resources() == {"CPU": 1.0}
    assert ray_engine(address="h:1").capacity() == 6
    sharing = ray_engine(address="h:1", gpus_per_client=0.3)
    assert sharing.resources() == {"CPU": 1.0, "GPU": 0.3}
    assert sharing.capacity() == 3  # three thirds of the only GPU, and no client beside it
    assert ray_engine(address="h:1", gpus_per_client=2).capacity() == 0


def test_a_cluster_that_grows_is_asked_for_whole_gpus() -> None:
    assert ray_engine().bundles(2) == [{"CPU": 1}, {"CPU": 1}]
    assert ray_engine(gpus_per_client=0.4).bundles(3) == [{"CPU": 2, "GPU": 1}] * 2
    assert ray_engine(gpus_per_client=2).bundles(1) == [{"CPU": 1, "GPU": 2}]
    assert ray_engine().bundles(0) == []


def test_a_cluster_that_is_not_there_is_refused() -> None:
    (fault,) = ray_engine(address=f"127.0.0.1:{free_port()}").check()
    assert fault.key == "engine.address"


def test_a_ray_that_is_slow_to_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    begun: list[subprocess.Popen[bytes]] = []

    def init(*, _temp_dir: str, **settings: object) -> None:
        assert not any(psutil.pid_exists(process.pid) for process in begun)
        begun.append(subprocess.Popen(["sh", "-c", "sleep 60; :", _temp_dir]))
        if len(begun) < 3:
            raise RuntimeError("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", init)
    with ray_engine()._ray():
        assert len(begun) == 3
    begun.pop().kill()
    del begun[:]
    monkeypatch.setattr("ray.init", lambda **settings: begun.append(0) or 1 / 0)  # type: ignore
    with pytest.raises(RunFailedError, match="Ray could not be started: division"):
        ray_engine()._start(ray, "scratch")
    assert len(begun) == 3
    with pytest.raises(RunFailedError, match="the Ray cluster at there:1 could not be joined"):
        ray_engine(address="there:1")._start(ray, "scratch")
    assert len(begun) == 4


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("nothing_left")
class TestOwnRay:
    def test_a_run_completes_and_leaves_nothing_but_its_files(self, run_dir: Path) -> None:
        launcher = start_launcher(run_dir, rounds=2, messages=4, payload_mib=0.5, sleep_s=2)
        wait_for_rounds(run_dir, 1, seconds=120)
        listening = {
            socket.laddr.ip
            for process in psutil.Process(launcher.pid).children(recursive=True)
            for socket in process.net_connections(kind="tcp")
            if socket.status == psutil.CONN_LISTEN
        }
        assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        assert launcher.wait(120) == 0
        first, second = rounds_of(run_dir)
        assert sorted(where["partition"] for where in second["where"]) == [0, 1, 2, 3]
        assert {where["launch"] for where in second["where"]} == {"token"}
        assert {where["threads"] for where in second["where"]} == {"1"}
        # Two processes that stay (a busy machine may start the second late); the server is the launcher.
        earlier = {where["pid"] for where in first["where"]}
        actors = earlier | {where["pid"] for where in second["where"]}
        assert len(actors) <= 2
        assert earlier & {where["pid"] for where in second["where"]}
        assert second["pid"] == launcher.pid
        files = {path.name for path in run_dir.iterdir()}
        assert files == {"metrics.jsonl", "summary.json", "clients.log", "left.txt"}

    def test_what_the_server_raises_is_told(self, run_dir: Path) -> None:
        with pytest.raises(RunFailedError) as caught:
            ray_engine().run(
                config_yaml=dummy_config(run_dir, fail="server"), run_dir=run_dir, launch="token"
            )
        told = str(caught.value)
        assert told.startswith("RuntimeError: the server was told to fail in round 2\n")
        assert told.endswith(f"corolla resume {run_dir}")
        assert len(rounds_of(run_dir)) == 1

    def test_a_client_process_that_dies_is_replaced(self, run_dir: Path) -> None:
        config = dummy_config(run_dir, rounds=2, fail="exit")
        ray_engine().run(config_yaml=config, run_dir=run_dir, launch="token")
        for line in rounds_of(run_dir):
            (error,) = line["errors"]
            assert error["src"] == 1000
            assert error["reason"].startswith("its client process died")
            assert sorted(where["partition"] for where in line["where"]) == [1, 2, 3]

    @pytest.mark.parametrize(
        "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name
    )
    def test_an_interrupted_launcher_leaves_no_process(self, run_dir: Path, number: int) -> None:
        launcher = start_launcher(run_dir, rounds=1000, sleep_s=0.2)
        wait_for_rounds(run_dir, 1, seconds=120)
        processes = psutil.Process(launcher.pid).children(recursive=True)
        assert len(processes) >= 4  # Ray's own, two client processes
        if number == signal.SIGTERM:
            launcher.send_signal(number)  # `corolla stop` does
        else:
            os.killpg(launcher.pid, number)  # as a terminal does: to the whole group
        launcher.wait(60)
        ended(processes)
        if number != signal.SIGKILL:
            assert launcher.returncode == 130
            assert all(not line["errors"] for line in rounds_of(run_dir))

    def test_ctrl_c_during_the_start_leaves_no_process(self, run_dir: Path) -> None:
        launcher = start_launcher(run_dir)
        deadline = time.monotonic() + 60
        while not (processes := ray_processes(launcher.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(launcher.pid, signal.SIGINT)
        assert launcher.wait(60) == 130
        ended(processes)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("nothing_left")
class TestExistingCluster:
    @pytest.fixture
    def cluster(self, tmp_path: Path) -> Iterator[str]:
        """Yield the address of a cluster of two nodes with one CPU each."""
        (scratch := Path("/tmp") / f"corolla-{os.getpid()}").mkdir(exist_ok=True)
        file = tmp_path / "address"
        command = Started(
            [sys.executable, str(HERE / "two_ray_nodes.py"), str(file)],
            env=flower_env(None) | {"RAY_TMPDIR": str(scratch)},
            log=tmp_path / "cluster.log",
            cwd=tmp_path,
        )
        try:
            deadline = time.monotonic() + 120
            while not (file.exists() and file.read_text()):
                assert command.running(), (tmp_path / "cluster.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield file.read_text().split()[0]
        finally:
            command.stop()
            shutil.rmtree(scratch, ignore_errors=True)

    def test_clients_run_on_both_nodes_and_one_of_them_is_killed(
        self, cluster: str, run_dir: Path, tmp_path: Path
    ) -> None:
        launcher = start_launcher(
            run_dir, address=cluster, rounds=7, messages=6, sleep_s=1, pause_s=1, timeout_s=120
        )
        wait_for_rounds(run_dir, 1, seconds=120)
        # The first process may be alone in the first round; from the second on there are two.
        wait_for_rounds(run_dir, 2, seconds=120)
        before = rounds_of(run_dir)[1]
        assert {place["node"] for place in before["where"]} == {"first", "second"}
        assert len({place["ray_node"] for place in before["where"]}) == 2
        second = int((tmp_path / "address").read_text().split()[1])
        psutil.Process(second).kill()
        assert launcher.wait(180) == 0
        lines = rounds_of(run_dir)
        assert len(lines) == 7
        for line in lines[2:]:  # whoever worked on the lost node failed, everybody else answered
            assert len(line["where"]) + len(line["errors"]) == 6
        assert sum(len(line["errors"]) for line in lines) <= 1
        assert {place["node"] for place in lines[-1]["where"]} == {"first"}

    def test_ctrl_c_ends_the_clients_and_leaves_the_cluster(
        self, cluster: str, run_dir: Path
    ) -> None:
        launcher = start_launcher(run_dir, address=cluster, rounds=1000, sleep_s=0.2)
        wait_for_rounds(run_dir, 1, seconds=120)
        actors = [psutil.Process(w["pid"]) for w in rounds_of(run_dir)[0]["where"]]
        os.killpg(launcher.pid, signal.SIGINT)
        assert launcher.wait(60) == 130
        psutil.wait_procs(actors, timeout=30)
        assert all(map(is_over, actors))
        assert ray_engine(address=cluster).check() == []


LAUNCHER = """
import ray  # a notebook may do so, too
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from corolla.cli.commands import terminable
from engines import serving
from tests.engines.test_ray_engine import CLIENT_APP, SERVER_APP, ray_engine
serving.SERVER_APP, serving.CLIENT_APP = SERVER_APP, CLIENT_APP
try:
    with terminable():
        ray_engine(address={address!r}, clients={clients!r}).run(
            config_yaml={config!r}, run_dir=Path({run_dir!r}), launch="token"
        )
except KeyboardInterrupt:
    sys.exit(130)
"""


def start_launcher(
    run_dir: Path, address: str | None = None, **settings: object
) -> subprocess.Popen[bytes]:
    """Start a process of its own group that runs the dummy app, as `corolla run` would."""
    config = dummy_config(run_dir, **settings)
    code = LAUNCHER.format(
        path=sys.path,
        address=address,
        clients=settings.get("messages", 4),
        config=config,
        run_dir=str(run_dir),
    )
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)


def ended(processes: list[psutil.Process]) -> None:
    """Return once all have ended: Ray's processes see within some seconds that the launcher is gone."""
    deadline = time.monotonic() + 30
    while left := [process for process in processes if not is_over(process)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def ray_processes(pid: int) -> list[psutil.Process]:
    """Return the descendants once Ray's first is among them."""
    found = psutil.Process(pid).children(recursive=True)
    return found if any("gcs_server" in name_of(process) for process in found) else []


def name_of(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""
