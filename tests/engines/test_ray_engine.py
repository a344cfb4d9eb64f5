from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from corolla.errors import RefusedError, RunFailedError
from engines import private_superlink
from engines.addresses import free_port
from engines.flower_cli import flower_env
from engines.guarded import Guarded, is_over
from engines.ray import RayEngine
from tests.engines.conftest import DUMMY_APP, dummy_config, rounds_of, wait_for_rounds

HERE = Path(__file__).parent


def ray_engine(**changes: object) -> RayEngine:
    settings: dict[str, object] = {
        "name": "ray",
        "clients": 4,
        "actors": 2,
        "threads": 1,
        "gpus_per_client": 0,
        "address": None,
        "root": str(DUMMY_APP),
    }
    return RayEngine(**(settings | changes))  # type: ignore[arg-type]


def test_all_faults_are_shown_at_once(tmp_path: Path) -> None:
    faults = ray_engine(actors=0, threads=1.5, gpus_per_client=-1, address="x", root=tmp_path)
    assert [fault.key for fault in faults.check()] == [
        "engine.actors",
        "engine.threads",
        "engine.gpus_per_client",
        "engine.address",
        "engine.root",
    ]


def test_a_share_of_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    (fault,) = ray_engine(gpus_per_client=0.5).check()
    assert fault.problem == "this machine shows 0 GPU(s), too few for a single client"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert ray_engine(gpus_per_client=0.5).check() == []


def test_an_existing_cluster_brings_its_own_cpus() -> None:
    own = ray_engine(gpus_per_client=0.5)
    assert own._federation_config() == {
        "num-supernodes": "4",
        "client-resources-num-cpus": "1",
        "client-resources-num-gpus": "0.5",
        "init-args-num-cpus": "2",
    }
    assert "init-args-num-cpus" not in ray_engine(address="h:1")._federation_config()


@pytest.mark.usefixtures("nothing_left")
def test_a_superlink_that_ends_at_once_shows_its_last_words(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "flower-superlink"
    command.write_text("#!/bin/sh\necho 'INFO :  hello'\necho 'out of luck'\nexit 3\n")
    command.chmod(0o755)
    monkeypatch.setattr(private_superlink, "scripts", lambda: tmp_path)
    with pytest.raises(RunFailedError) as caught:
        ray_engine().run(config_yaml=dummy_config(run_dir), run_dir=run_dir, launch="t")
    assert str(caught.value) == (
        "The SuperLink did not start.\n"
        "Last lines of the log:\n"
        "  | out of luck\n"
        f"Full log: {run_dir}/superlink.log\n"
        f"Resume after the last finished round: corolla resume {run_dir}"
    )
    assert [path.name for path in run_dir.iterdir()] == ["superlink.log"]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("nothing_left")
class TestOwnRay:
    def test_a_run_completes_and_leaves_nothing_but_its_files(self, run_dir: Path) -> None:
        config = dummy_config(run_dir, rounds=2, messages=4, payload_mib=0.5, sleep_s=0.5)
        ray_engine().run(config_yaml=config, run_dir=run_dir, launch="token")
        first, second = rounds_of(run_dir)
        assert sorted(where["partition"] for where in second["where"]) == [0, 1, 2, 3]
        assert {where["launch"] for where in second["where"]} == {"token"}
        assert {where["threads"] for where in second["where"]} == {"1"}
        # Two actors, the same in both rounds, and neither is the server's process.
        actors = {where["pid"] for where in second["where"]}
        assert actors == {where["pid"] for where in first["where"]}
        assert len(actors) == 2
        assert second["pid"] not in actors
        assert second["cwd"] == str(run_dir)
        files = {path.name for path in run_dir.iterdir()}
        assert files == {"metrics.jsonl", "summary.json", "superlink.log", "left.txt"}

    def test_what_the_server_raises_is_told(self, run_dir: Path) -> None:
        config = dummy_config(run_dir, fail="server")
        with pytest.raises(RunFailedError) as caught:
            ray_engine().run(config_yaml=config, run_dir=run_dir, launch="token")
        assert str(caught.value).startswith(
            "The run on Ray ended as finished:failed: Simulation failed with exception: "
            "the server was told to fail in round 2\n"
        )
        assert "| RuntimeError: the server was told to fail in round 2" in str(caught.value)
        assert str(caught.value).endswith(f"corolla resume {run_dir}")
        assert len(rounds_of(run_dir)) == 1

    def test_a_client_process_that_dies_ends_the_run(self, run_dir: Path) -> None:
        # Flower would give nearly all messages to the dead actor, since it is always idle.
        config = dummy_config(run_dir, rounds=1000, fail="exit")
        with pytest.raises(RunFailedError, match="ended as lost: a client process died"):
            ray_engine().run(config_yaml=config, run_dir=run_dir, launch="token")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name)
    def test_an_interrupted_launcher_leaves_no_process(self, run_dir: Path, number: int) -> None:
        launcher = start_launcher(run_dir, rounds=1000, sleep_s=0.2)
        wait_for_rounds(run_dir, 1, seconds=60)
        processes = psutil.Process(launcher.pid).children(recursive=True)
        assert len(processes) > 10  # SuperLink, SuperExec, simulation, Ray's own, two actors
        os.killpg(launcher.pid, number)  # as a terminal does: to the whole group
        launcher.wait(60)
        # The guard of a killed launcher still works for some seconds.
        deadline = time.monotonic() + (0 if number == signal.SIGINT else 20)
        while not all(map(is_over, processes)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert [process for process in processes if not is_over(process)] == []
        if number == signal.SIGINT:
            assert launcher.returncode == 130
        assert {path.name for path in run_dir.iterdir()} == {"metrics.jsonl", "superlink.log"}

    def test_ctrl_c_during_the_start_leaves_no_process(self, run_dir: Path) -> None:
        launcher = start_launcher(run_dir)
        deadline = time.monotonic() + 30
        while not (processes := psutil.Process(launcher.pid).children(recursive=True)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(launcher.pid, signal.SIGINT)
        assert launcher.wait(60) == 130
        assert all(map(is_over, processes))

    def test_a_project_that_is_no_app_is_refused(self, run_dir: Path, tmp_path: Path) -> None:
        (tmp_path / "strategies").mkdir()
        include = '[tool.flwr.app]\npublisher = "c"\nfab-include = ["src/**/*.py"]\n'
        text = (DUMMY_APP / "pyproject.toml").read_text().partition("[tool.flwr.app]")[0]
        components = '[tool.flwr.app.components]\nserverapp = "a:b"\nclientapp = "a:b"\n'
        (tmp_path / "pyproject.toml").write_text(text + include + components)
        with pytest.raises(RefusedError, match="Flower does not accept the project as an app"):
            ray_engine(root=str(tmp_path)).run(
                config_yaml=dummy_config(run_dir), run_dir=run_dir, launch="token"
            )


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("nothing_left")
class TestExistingCluster:
    @pytest.fixture
    def cluster(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        """Yield the address of a cluster of two nodes with one CPU each."""
        # Its driver must know the cluster by the address of the loopback interface as well.
        monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        (scratch := Path("/tmp") / f"corolla-{os.getpid()}").mkdir()
        file = tmp_path / "address"
        command = Guarded(
            [sys.executable, str(HERE / "two_ray_nodes.py"), str(file)],
            env=flower_env(None) | {"RAY_TMPDIR": str(scratch)},
            log=tmp_path / "cluster.log",
            cwd=tmp_path,
            remove=[scratch],
        )
        try:
            deadline = time.monotonic() + 60
            while not (file.exists() and file.read_text()):
                assert command.running(), (tmp_path / "cluster.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield file.read_text()
        finally:
            command.stop()

    def test_clients_run_on_both_nodes(self, cluster: str, run_dir: Path) -> None:
        engine = ray_engine(clients=6, address=cluster)
        assert engine.check() == []
        config = dummy_config(run_dir, messages=6, sleep_s=0.5)
        engine.run(config_yaml=config, run_dir=run_dir, launch="token")
        where = rounds_of(run_dir)[-1]["where"]
        assert len(where) == 6
        assert {place["node"] for place in where} == {"first", "second"}
        assert len({place["ray_node"] for place in where}) == 2

    def test_ctrl_c_ends_the_clients_and_leaves_the_cluster(
        self, cluster: str, run_dir: Path
    ) -> None:
        launcher = start_launcher(run_dir, address=cluster, rounds=1000, sleep_s=0.2)
        wait_for_rounds(run_dir, 1, seconds=60)
        actors = [psutil.Process(w["pid"]) for w in rounds_of(run_dir)[0]["where"]]
        os.killpg(launcher.pid, signal.SIGINT)
        assert launcher.wait(60) == 130
        psutil.wait_procs(actors, timeout=30)
        assert all(map(is_over, actors))
        assert ray_engine(address=cluster).check() == []


def test_a_cluster_that_is_not_there_is_refused() -> None:
    (fault,) = ray_engine(address=f"127.0.0.1:{free_port()}").check()
    assert fault.key == "engine.address"


LAUNCHER = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from tests.engines.test_ray_engine import ray_engine
try:
    ray_engine(address={address!r}).run(
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
    code = LAUNCHER.format(path=sys.path, address=address, config=config, run_dir=str(run_dir))
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
