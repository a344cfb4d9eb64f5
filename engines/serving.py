"""The ServerApp over a grid in memory, in the calling thread."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from clients.flower_internals import SUPERLINK_NODE_ID, TaskIdentity
from corolla.errors import RefusedError, RunFailedError
from engines.base import run_failed

LOGGER = logging.getLogger(__name__)
SERVER_APP = "strategies.server_app:app"
CLIENT_APP = "clients.client_app:app"


def new_run_id() -> int:
    """Return a run's id; from here on messages of this process are the server's of that run."""
    # Flower's Message() asks its process who it is.
    TaskIdentity.run_id = secrets.randbelow(2**63)
    TaskIdentity.task_id = secrets.randbelow(2**63)
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    return TaskIdentity.run_id


def serve(
    server_app: ServerApp | Callable[[Grid, Context], None], grid: Grid, run_config: dict[str, str]
) -> None:
    """Run the ServerApp to its end."""
    context = Context(
        run_id=TaskIdentity.run_id,
        node_id=SUPERLINK_NODE_ID,
        node_config={},
        state=RecordDict(),
        run_config=dict(run_config),
    )
    server_app(grid, context)


@contextmanager
def telling(run_dir: Path, log: Path | None = None) -> Iterator[None]:
    """Say of whatever is raised inside how to resume; a refusal passes as it is."""
    try:
        yield
    except RefusedError:
        raise
    except RunFailedError as problem:
        raise run_failed(str(problem), run_dir=run_dir, log=log) from problem
    except Exception as problem:
        LOGGER.error("the run failed", exc_info=True)
        what = f"{type(problem).__name__}: {problem}"
        raise run_failed(what, run_dir=run_dir, log=log) from problem
