"""Everything in this process: for debugging, for tests, and for a machine with a single GPU.

Needs neither Ray nor a SuperLink. Clients run one after another.
"""

from __future__ import annotations

import importlib
import logging
import secrets
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

from corolla.errors import Fault, RefusedError
from engines.base import MOST_THREADS, count_fault, run_failed
from engines.grid import InlineGrid

LOGGER = logging.getLogger(__name__)
SERVER_APP = "strategies.server_app:app"
CLIENT_APP = "clients.client_app:app"


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
        """Run to the end; see ``Engine.run``. RefusedError of the ServerApp passes as it is."""
        import torch  # late: `check` must stay quick

        torch.set_num_threads(self._threads)
        server_app, client_app = _load(SERVER_APP), _load(CLIENT_APP)
        try:
            self.serve(
                server_app,
                client_app,
                run_config={"config": config_yaml, "overrides": "", "launch": launch},
            )
        except RefusedError:
            raise
        except Exception as problem:
            LOGGER.error("the run failed", exc_info=True)
            what = f"The run failed: {type(problem).__name__}: {problem}"
            raise run_failed(what, run_dir=run_dir) from problem

    def serve(self, server_app: Any, client_app: Any, *, run_config: dict[str, str]) -> InlineGrid:
        """Run ``server_app(grid, context)`` over ``clients`` virtual nodes; return the grid."""
        run_id = secrets.randbelow(2**63)
        # Flower's Message() asks its process who it is.
        TaskIdentity.run_id = run_id
        TaskIdentity.task_id = secrets.randbelow(2**63)
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        grid = InlineGrid(
            client_app=client_app, nodes=self._clients, run_id=run_id, run_config=run_config
        )
        context = Context(
            run_id=run_id,
            node_id=SUPERLINK_NODE_ID,
            node_config={},
            state=RecordDict(),
            run_config=dict(run_config),
        )
        server_app(grid, context)
        return grid


def _load(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)
