"""Everything in this process: for debugging, for tests, and for a machine with a single GPU.

Needs neither Ray nor a SuperLink. Clients run one after another.
"""

from __future__ import annotations

from pathlib import Path

from corolla.errors import Fault
from engines import serving
from engines.base import MOST_THREADS, count_fault
from engines.grid import InlineGrid
from engines.serving import new_run_id, serve, telling
from engines.virtual_nodes import load


class InlineEngine:
    """Runs the ServerApp in the calling thread, and the ClientApps inside its calls to the grid."""

    def __init__(self, *, name: str, clients: int, threads: int) -> None:
        """Settings as in ``conf/engine/inline.yaml``."""
        self.name = name
        self._clients = clients
        self._threads = threads

    def check(self) -> list[Fault]:
        """Return faults: the counts; nothing else can be missing."""
        return [
            *count_fault("clients", self._clients),
            *count_fault("engine.threads", self._threads, most=MOST_THREADS),
        ]

    def run(self, *, config_yaml: str, run_dir: Path, launch: str) -> None:
        """Run to the end. RefusedError of the ServerApp passes as it is.

        Args:
            config_yaml: the resolved configuration, for ServerApp and ClientApp run-config value ``config``.
            run_dir: of the run.
            launch: token of this launch, run-config value ``launch``.

        Raises:
            RunFailedError: the run did not complete; everything that was started has been stopped, as it is
                after Ctrl-C (KeyboardInterrupt).

        """
        import torch  # late: `check` must stay quick

        torch.set_num_threads(self._threads)
        run_config = {"config": config_yaml, "overrides": "", "launch": launch}
        with telling(run_dir):
            grid = InlineGrid(
                client_app=load(serving.CLIENT_APP),
                nodes=self._clients,
                run_id=new_run_id(),
                run_config=run_config,
            )
            serve(load(serving.SERVER_APP), grid, run_config)
