"""Clients in parallel processes: Ray actors, on this machine or on a cluster that is there.

The ServerApp runs in this process. Ray is started for the run and stopped after it, or an existing cluster
is used (``address``), which is how more machines than one take part.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from corolla.errors import Fault, RunFailedError, is_number
from engines import serving
from engines.addresses import address_faults
from engines.base import MOST_THREADS, count_fault
from engines.scratch import scratch_folder
from engines.serving import new_run_id, serve, telling
from engines.virtual_nodes import load

LOG_NAME = "clients.log"
"""File in the run directory that takes what client processes print."""

LOGGER = logging.getLogger("corolla")
_STARTS = 3  # of Ray, until it is taken for broken
_ACTORS_PER_CPU = 8  # some wait for others; each holds torch in memory
_LONGEST_BASE = 24  # what Ray and the prefix add takes up to 81 characters
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
OWN_PATIENCE_S = 300.0  # for this machine's first client process: a busy one takes a minute
CLUSTER_PATIENCE_S = 900.0  # a cluster that grows on demand may have to start a machine first
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


class RayEngine:
    """Clients as Ray actors, each in a process that lives as long as the run."""

    def __init__(
        self,
        *,
        name: str,
        clients: int,
        actors: int,
        threads: int,
        gpus_per_client: float,
        address: str | None,
    ) -> None:
        """Settings as in ``conf/engine/ray.yaml``."""
        self.name = name
        self._clients = clients
        self._actors = actors
        self._threads = threads
        self._gpus_per_client = gpus_per_client
        self._address = address

    def check(self) -> list[Fault]:
        """Return faults: counts, GPUs, the Ray cluster's address."""
        faults = count_fault("clients", self._clients)
        faults += self._actor_faults()
        faults += count_fault("engine.threads", self._threads, most=MOST_THREADS)
        faults += self._gpu_faults()
        faults += [] if self._address is None else address_faults("engine.address", self._address)
        return faults

    def run(self, *, config_yaml: str, run_dir: Path, launch: str) -> None:
        """Run to the end; see ``InlineEngine.run``. RefusedError of the ServerApp passes as it is."""
        run_dir = run_dir.resolve()
        run_config = {"config": config_yaml, "overrides": "", "launch": launch}
        with telling(run_dir, log=run_dir / LOG_NAME), self._ray():
            from engines.ray_grid import RayGrid  # late: Ray reads its environment when imported
            from engines.ray_pool import ProcessPool

            run_id = new_run_id()
            pool = ProcessPool(
                self._maker(run_id, run_config, run_dir / LOG_NAME),
                capacity=self.capacity,
                patience_s=OWN_PATIENCE_S if self._address is None else CLUSTER_PATIENCE_S,
            )
            pool.grow(self._clients, busy=0)  # they start while this process gets ready
            import torch

            torch.set_num_threads(self._threads)
            grid = RayGrid(nodes=self._clients, run_id=run_id, pool=pool, demand=self._demand)
            serve(load(serving.SERVER_APP), grid, run_config)

    def resources(self) -> dict[str, float]:
        """Return what a client process takes of a node."""
        gpus = {"GPU": float(self._gpus_per_client)} if self._gpus_per_client else {}
        return {"CPU": 1.0, **gpus}

    def capacity(self) -> int:
        """Return how many client processes there may be now."""
        if self._address is None:
            return self._actors
        import ray

        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        needs = self.resources()
        return sum(
            min(int(node.get(kind, 0.0) / share + 1e-9) for kind, share in needs.items())
            for node in alive
        )

    def bundles(self, processes: int) -> list[dict[str, int]]:
        """Return what ``processes`` take together, in whole CPUs and GPUs."""
        share = self._gpus_per_client
        if not share:
            return [{"CPU": 1}] * processes
        together = max(1, int(1 / share + 1e-9))  # processes on one GPU
        bundle = {"CPU": together, "GPU": math.ceil(share)}
        return [bundle] * math.ceil(processes / together)

    def _demand(self, count: int) -> None:
        """Tell a cluster that grows and shrinks how many client processes would have work."""
        if self._address is not None:
            from ray.autoscaler.sdk import request_resources

            request_resources(bundles=self.bundles(min(count, self._clients)))

    def _maker(self, run_id: int, run_config: dict[str, str], log: Path) -> Any:
        import ray

        from engines.ray_client import ClientProcess

        needs = self.resources()
        process = ray.remote(ClientProcess).options(
            num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), max_restarts=0
        )
        return lambda: process.remote(
            client_app=serving.CLIENT_APP,
            nodes=self._clients,
            run_id=run_id,
            run_config=run_config,
            threads=self._threads,
            log=log,
        )

    def _on_loopback(self) -> bool:
        return self._address is None or self._address.rpartition(":")[0] in _LOOPBACK

    @contextmanager
    def _ray(self) -> Iterator[None]:
        """Connect to the cluster, or start Ray; leave it, or stop it, in the end."""
        with scratch_folder(_short()) as scratch:
            with _environment(self._threads, loopback=self._on_loopback()):
                import ray

                with _kept_signals(), _only_here(self._on_loopback()):
                    self._start(ray, scratch)
            try:
                yield
                if self._address is not None:
                    self._demand(0)
            finally:
                ray.shutdown()

    def _start(self, ray: Any, scratch: str) -> None:
        """Start or join Ray. Its own gives itself 30 s, which a busy machine may need more than once."""
        for left in reversed(range(_STARTS if self._address is None else 1)):
            try:
                self._init(ray, scratch)
                return
            except RunFailedError as problem:
                _end_ray(ray, scratch)
                if not left:
                    raise
                LOGGER.warning("%s; trying again", problem)
            except BaseException:
                _end_ray(ray, scratch)
                raise

    def _init(self, ray: Any, scratch: str) -> None:
        common: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                if self._address is not None:
                    ray.init(address=self._address, **common)
                    return
                ray.init(
                    address="local",
                    num_cpus=self._actors,
                    num_gpus=None if self._gpus_per_client else 0,
                    include_dashboard=False,
                    _temp_dir=scratch,
                    **common,
                )
        except Exception as problem:  # Ray raises whatever it likes
            what = f"the Ray cluster at {self._address} could not be joined"
            what = what if self._address else "Ray could not be started"
            raise RunFailedError(f"{what}: {problem}") from problem

    def _actor_faults(self) -> list[Fault]:
        faults = count_fault("engine.actors", self._actors)
        cpus = os.cpu_count() or 1
        if faults or self._address is not None or self._actors <= cpus * _ACTORS_PER_CPU:
            return faults
        problem = f"is too many client processes for a machine with {cpus} CPU(s)"
        remedy = f"Use {cpus}; at most {cpus * _ACTORS_PER_CPU}"
        return [Fault("engine.actors", self._actors, problem, remedy)]

    def _gpu_faults(self) -> list[Fault]:
        key, value = "engine.gpus_per_client", self._gpus_per_client
        if not is_number(value) or not 0 <= value <= 1024:
            problem = "must be 0 or more GPUs for a client"
            remedy = "Use 0, or a number such as 0.5."
            return [Fault(key, value, problem, remedy)]
        if not value or self._address is not None:
            return []
        import torch

        there = torch.cuda.device_count()
        if there >= value:
            return []
        return [
            Fault(
                key,
                value,
                f"this machine shows {there} GPU(s), too few for a single client",
                "Lower it, set it to 0 to train on CPUs, or give engine.address of a cluster.",
            )
        ]


@contextmanager
def _environment(threads: int, *, loopback: bool) -> Iterator[None]:
    """Set what Ray reads as it is imported and what its processes inherit, and nothing of it for longer."""
    wanted = dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"RAY_USAGE_STATS_ENABLED": "0"}
    if loopback:
        # Ray's switch for 'this machine only': it listens on 127.0.0.1, or looks for others there.
        wanted["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _only_here(loopback: bool) -> Iterator[None]:
    """Put the switch where Ray keeps it: who imported Ray before us did so without our environment."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = not loopback
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _kept_signals() -> Iterator[None]:
    """Keep what SIGTERM does, which `corolla stop` sends: Ray puts a handler of its own in its place."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _end_ray(ray: Any, scratch: str) -> None:
    """Disconnect, and end what a start that failed has left running: Ray itself ends it at exit only."""
    ray.shutdown()
    left = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(scratch in word for word in process.cmdline()):
                process.kill()
                left.append(process)
    psutil.wait_procs(left, timeout=5)


def _short() -> Path:
    """Return where Ray's files go: a socket's path may have 107 characters."""
    base = Path(tempfile.gettempdir())
    return Path("/tmp") if len(str(base)) > _LONGEST_BASE and os.name == "posix" else base
