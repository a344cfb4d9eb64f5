"""The ServerApp: reads the run's configuration and carries the run out, or on."""

from __future__ import annotations

import yaml
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from clients.flower_internals import outlive_errors
from corolla.config.schema import parse_config
from corolla.errors import RefusedError
from strategies.flower_run import run_by_flower
from strategies.running.federated_run import FederatedRun

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that ``run_config["config"]`` describes; without one, what `flwr run .` asks for."""
    text = str(context.run_config.get("config", ""))
    if not text:
        outlive_errors()
        try:
            run_by_flower(grid, context)
        except RefusedError as error:
            refused = RefusedError(error.faults)
        else:
            return
        raise refused  # outside the handler: Flower prints a traceback, and all that led to it
    config, faults = parse_config(yaml.safe_load(text))
    if config is None:
        raise RefusedError(faults)
    if config.on_nodes:
        outlive_errors()
    FederatedRun(config=config, launch=str(context.run_config.get("launch", ""))).run(grid)
