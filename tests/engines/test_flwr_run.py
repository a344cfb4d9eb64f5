"""Plain Flower: `flwr build` and `flwr run .` in a clean checkout, with nothing of ours installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

from corolla.records.flower_run import flower_run
from engines.addresses import address_faults
from engines.flower_cli import scripts
from tests.deployment.federation import free_port

ROOT = Path(__file__).parents[2]
SMALL = "rounds=1 clients=3 clients_per_round=2 local_epochs=1 evaluation.every=0"
NOT_INSTALLED = """
import sys
bundle = sys.argv[1]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
sys.path[:] = [bundle, *(path for path in sys.path if "site-packages" in path or "lib/python" in path)]
import clients.client_app, strategies.server_app
import strategies.flower_run, corolla.launch
from corolla.config.compose import compose_values
compose_values(["engine=flower", "method=spider", "space=darts_s2_mixed_small"])
ours = ("clients", "strategies", "corolla", "engines", "conf")
files = [m.__file__ for n, m in sys.modules.items() if n.split(".")[0] in ours and m.__file__]
assert files and all(file.startswith(bundle) for file in files), files
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of what a clean checkout has."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / "corolla" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "corolla" / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path / "corolla"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment with a Flower directory and ports of its own."""
    own = {
        "PATH": f"{scripts()}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(tmp_path / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "300",  # this machine may be busy
        "OMP_NUM_THREADS": "1",
    }
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | own


def flwr(*arguments: str, cwd: Path, env: dict[str, str]) -> str:
    command = [str(scripts() / "flwr"), *arguments]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_bundle_of_format_1_needs_nothing_but_what_it_declares(
    checkout: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    flwr("build", "--app", str(checkout), cwd=tmp_path, env=environment)
    (file,) = tmp_path.glob("*.fab")
    with zipfile.ZipFile(file) as bundle:
        names = set(bundle.namelist())
        bundle.extractall(tmp_path / "bundle")
        app = tomllib.loads(bundle.read("pyproject.toml").decode())["tool"]["flwr"]["app"]
    assert {"LICENSE", "README.md", "strategies/server_app.py", "conf/config.yaml"} <= names
    assert not any(
        name.startswith(("tests/", "engines/", "docs/", "benchmarks/")) for name in names
    )
    assert (app["fab-format-version"], app["flwr-version-target"]) == (1, "1.41.0")
    command = [sys.executable, "-c", NOT_INSTALLED, str(tmp_path / "bundle")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_flwr_run_in_a_clean_checkout(
    checkout: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    port = free_port()
    home = Path(environment["FLWR_HOME"])
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\n'
        "insecure = true\n"
    )
    # What `flwr run` starts by itself where no other connection is configured, on a port of its own.
    with (tmp_path / "superlink.log").open("wb") as log:
        superlink = subprocess.Popen(
            [
                str(scripts() / "flower-superlink"),
                *("--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)),
                "--disable-runtime-dependency-installation",
            ],
            cwd=checkout,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        overrides = f'overrides="method=fedavg {SMALL} evaluation.fine_tune_epochs=0"'
        while address_faults("", f"127.0.0.1:{port}"):
            assert superlink.poll() is None, (tmp_path / "superlink.log").read_text()
            time.sleep(0.2)
        run = ("run", ".", "--run-config", overrides, "--stream")
        said = flwr(*run, cwd=checkout, env=environment)
    finally:
        superlink.terminate()
        superlink.wait(60)
    (run_dir,) = (checkout / "runs").iterdir()
    assert str(flower_run(run_dir)) in said  # "Successfully started run ..."
    assert f"Run directory: {run_dir}" in said
    assert f"corolla report {run_dir}" in said
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["method"], summary["rounds"], summary["clients"]) == ("fedavg", 1, 3)
