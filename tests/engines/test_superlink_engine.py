from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from corolla.errors import RunFailedError
from engines.addresses import address_faults
from engines.flower_cli import FlowerCli, flower_env, scripts, write_connection
from engines.superlink import SuperLinkEngine
from tests.deployment.federation import free_port
from tests.engines.conftest import DUMMY_APP, dummy_config, rounds_of, wait_for_rounds
from tests.engines.started import Started


def superlink_engine(**changes: object) -> SuperLinkEngine:
    settings: dict[str, object] = {
        "name": None,
        "address": None,
        "root_certificates": None,
        "insecure": False,
        "server_runs": None,
        "node_timeout_s": 60,
        "root": str(DUMMY_APP),
    }
    return SuperLinkEngine(**(settings | changes))  # type: ignore[arg-type]


@pytest.fixture
def flower_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty Flower directory the user's."""
    home = tmp_path / "flower"
    home.mkdir()
    monkeypatch.setenv("FLWR_HOME", str(home))
    return home


class TestCheck:
    def test_neither_connection_nor_address(self) -> None:
        (fault,) = superlink_engine().check()
        assert str(fault) == (
            "engine.name=None: is not set and engine.address is not either. Give a connection of "
            "your Flower configuration, or HOST:PORT."
        )

    def test_connection_and_address(self) -> None:
        (fault,) = superlink_engine(name="a", address="b:1").check()
        assert "names one SuperLink and engine.address=b:1 another" in str(fault)

    def test_a_connection_that_is_not_in_the_configuration(self, flower_home: Path) -> None:
        write_connection(flower_home, name="hospital", address="127.0.0.1:1")
        (fault,) = superlink_engine(name="hospitl").check()
        assert f"is no SuperLink connection of the Flower configuration {flower_home}" in str(fault)
        assert "Did you mean 'hospital'?" in str(fault)

    def test_no_configuration_at_all(self, flower_home: Path) -> None:
        (fault,) = superlink_engine(name="site").check()
        assert "None is there. Add [superlink.site] with address" in fault.remedy

    def test_a_configuration_that_cannot_be_read(self, flower_home: Path) -> None:
        (flower_home / "config.toml").write_text("[superlink")
        (fault,) = superlink_engine(name="site").check()
        assert "config.toml" in fault.problem

    def test_flowers_own_simulation_is_no_superlink(self, flower_home: Path) -> None:
        write_connection(flower_home, name="local", address=":local:")
        (fault,) = superlink_engine(name="local").check()
        assert fault.remedy == "Use engine=ray for a simulation."

    def test_all_faults_of_an_address_at_once(self, tmp_path: Path) -> None:
        engine = superlink_engine(
            address=f"127.0.0.1:{free_port()}",
            root_certificates=str(tmp_path / "ca.crt"),
            server_runs="runs",
            node_timeout_s=0,
            root=str(tmp_path),
        )
        assert [(fault.key, fault.problem[:20]) for fault in engine.check()] == [
            ("engine.address", "nothing answers ther"),
            ("engine.root_certificates", "is no file"),
            ("engine.server_runs", "is not an absolute p"),
            ("engine.node_timeout_s", "must be 1 or more se"),
            ("engine.root", "Flower submits a pro"),
        ]

    def test_tls_needs_certificates_and_no_tls_takes_none(self, tmp_path: Path) -> None:
        address = f"127.0.0.1:{free_port()}"
        assert superlink_engine(address=address).check()[1].key == "engine.root_certificates"
        engine = superlink_engine(address=address, insecure=True, root_certificates="ca.crt")
        assert engine.check()[1].key == "engine.insecure"


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("nothing_left")
class TestRealNodes:
    @pytest.fixture
    def address(self, tmp_path: Path) -> Iterator[str]:
        """Yield the address of a SuperLink with two SuperNodes, all on the loopback interface."""
        address = f"127.0.0.1:{free_port()}"
        with ExitStack() as stack:

            def start(name: str, *command: str) -> None:
                (home := tmp_path / name).mkdir()
                process = Started(
                    [str(scripts() / command[0]), *command[1:]],
                    env=flower_env(home) | {"FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1"},
                    log=tmp_path / f"{name}.log",
                    cwd=tmp_path,
                )
                stack.callback(process.stop)

            port = address.partition(":")[2]
            start("link", "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", port)
            deadline = time.monotonic() + 60
            while address_faults("", address):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            for partition in ("0", "1"):
                config = f"partition-id={partition} num-partitions=2"
                options = ["--insecure", "--superlink", address, "--node-config", config]
                own_port = ["--port", str(free_port())]
                start(f"node{partition}", "flower-supernode", *options, *own_port)
            yield address

    def test_a_run_completes(self, address: str, run_dir: Path) -> None:
        engine = superlink_engine(address=address, insecure=True)
        assert engine.check() == []
        config = dummy_config(run_dir, rounds=1, messages=2, nodes=2)
        engine.run(config_yaml=config, run_dir=run_dir, launch="token")
        (only,) = rounds_of(run_dir)
        assert sorted(where["partition"] for where in only["where"]) == [0, 1]
        assert (run_dir / "summary.json").read_text() == '{"launch": "token"}'
        assert "Start `flwr-serverapp` process" in (run_dir / "superlink.log").read_text()

    def test_a_connection_of_the_flower_configuration(
        self, address: str, run_dir: Path, flower_home: Path
    ) -> None:
        write_connection(flower_home, name="site", address=address)
        engine = superlink_engine(name="site")
        assert engine.check() == []
        config = dummy_config(run_dir, rounds=2, messages=0, nodes=0, fail="server")
        with pytest.raises(RunFailedError) as caught:
            engine.run(config_yaml=config, run_dir=run_dir, launch="token")
        assert str(caught.value).startswith(
            "The run on the SuperLink ended as finished:failed: ServerApp failed with exception: "
            "the server was told to fail in round 2\n"
        )

    def test_ctrl_c_stops_the_run(self, address: str, run_dir: Path, tmp_path: Path) -> None:
        config = dummy_config(run_dir, rounds=1000, messages=0, nodes=0, pause_s=0.5)
        code = LAUNCHER.format(path=sys.path, address=address, config=config, run_dir=str(run_dir))
        launcher = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        wait_for_rounds(run_dir, 1, seconds=60)
        os.killpg(launcher.pid, signal.SIGINT)
        assert launcher.wait(60) == 130
        write_connection(tmp_path / "home", name="site", address=address)
        cli = FlowerCli(connection="site", home=tmp_path / "home")
        log = (run_dir / "superlink.log").read_text()
        run_id = int(log.partition("Flower run ")[2].partition("\n")[0])
        assert cli.status(run_id).status == "finished:stopped"
        # The ServerApp hears of it with its next heartbeat, and gets to its `finally`.
        deadline = time.monotonic() + 40
        while not (run_dir / "left.txt").exists():
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def test_a_superlink_without_tls_is_not_taken_for_one_with_it(self, address: str) -> None:
        certificate = Path(__file__)  # a file, and no certificate
        engine = superlink_engine(address=address, root_certificates=str(certificate))
        (fault,) = engine.check()
        assert fault.problem.startswith("the SuperLink does not answer: `flwr list` failed: ")


LAUNCHER = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from tests.engines.test_superlink_engine import superlink_engine
try:
    superlink_engine(address={address!r}, insecure=True).run(
        config_yaml={config!r}, run_dir=Path({run_dir!r}), launch="token"
    )
except KeyboardInterrupt:
    sys.exit(130)
"""
